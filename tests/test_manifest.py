"""YAML text becomes documents, each a budget or a refusal, read as kubectl reads it."""

import contextlib
import json
import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sluice import block, budget, errors, manifest

LOADERS = [block.LOADER, yaml.SafeLoader]


def text_of(name: str, spec: str = "{dailyLimit: 1000}") -> str:
    """A TeamBudget as YAML, without the line between documents."""
    return f"apiVersion: tco.io/v1\nkind: TeamBudget\nmetadata: {{name: {name}}}\nspec: {spec}\n"


def test_each_document_is_a_budget() -> None:
    documents = manifest.read_documents(f"{text_of('a')}---\n{text_of('b', '{dailyLimit: 1Ki}')}")
    assert documents == [
        manifest.Document(0, 1, "default/a", budget.Budget("a", "default", 1000), None),
        manifest.Document(1, 6, "default/b", budget.Budget("b", "default", 1024), None),
    ]


def test_a_bad_document_hides_no_neighbour_and_names_the_line_of_its_field() -> None:
    bad = text_of("b", "\n  monthlyLimit: 5\n  dailyLimit: 10")
    documents = manifest.read_documents(f"{text_of('a')}---\n{bad}---\n{text_of('c')}")
    assert [document.key for document in documents] == ["default/a", "default/b", "default/c"]
    assert documents[1] == manifest.Document(
        1,
        10,
        "default/b",
        None,
        "spec.monthlyLimit: 5 bytes is less than spec.dailyLimit, 10 bytes",
        "spec.monthlyLimit",
    )
    assert all(documents[i].budget for i in (0, 2))


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("{namespaces: [A]}", 7),
        ("{timeZone: 5}", 7),
        ("{selector: {matchLabels: {\n  a: 1}}}", 7),
        ("{selector: {\n  matchLabels: {a.b: 1}}}", 8),
    ],
)
def test_a_refusal_names_the_line_of_the_innermost_field(path: str, line: int) -> None:
    text = text_of("a", "\n  dailyLimit: 5\n  <<:\n    " + path.replace("\n", "\n    "))
    [document] = manifest.read_documents(text)
    assert document.budget is None
    assert document.line == line


def test_a_missing_field_is_looked_for_in_the_line_of_its_parent() -> None:
    [document] = manifest.read_documents(f"# two\n# lines\n{text_of('a', '{}')}")
    assert (document.line, document.field) == (6, "spec.dailyLimit")
    [document] = manifest.read_documents("\n\n{apiVersion: tco.io/v1, kind: TeamBudget}")
    assert (document.line, document.field, document.key) == (3, "metadata.name", None)


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "---\n---\n...\n", "null", "~"])
def test_empty_documents_are_skipped(text: str) -> None:
    assert manifest.read_documents(text) == []


def test_empty_documents_count() -> None:
    [document] = manifest.read_documents(f"---\n---\n---\n{text_of('a')}")
    assert (document.index, document.line) == (2, 4)


@pytest.mark.parametrize(
    "head", ["apiVersion: v1\nkind: List", "apiVersion: tco.io/v1\nkind: TeamBudgetList"]
)
def test_a_list_is_taken_apart(head: str) -> None:
    items = [
        {"apiVersion": "tco.io/v1", "kind": "TeamBudget", "metadata": {"name": "a"}, "spec": {}},
        "hello",
        {
            "apiVersion": "tco.io/v1",
            "kind": "TeamBudget",
            "metadata": {"name": "b"},
            "spec": {"dailyLimit": 5},
        },
        {"apiVersion": "v1", "kind": "List", "items": []},
    ]
    lines = "".join(f"- {json.dumps(item)}\n" for item in items)
    documents = manifest.read_documents(f"{head}\nmetadata: {{}}\nitems:\n{lines}")
    assert [(d.index, d.line, d.key, d.field) for d in documents] == [
        (0, 5, "default/a", "spec.dailyLimit"),
        (0, 1, None, ""),
        (0, 7, "default/b", ""),
        (0, 8, None, "apiVersion"),
    ]
    assert documents[2].budget == budget.Budget("b", "default", 5)


@pytest.mark.parametrize(("items", "count"), [("", 0), ("items: []", 0), ("items: {}", 1)])
def test_a_list_may_be_empty_but_nothing_else(items: str, count: int) -> None:
    documents = manifest.read_documents(f"apiVersion: v1\nkind: List\n{items}")
    assert len(documents) == count
    assert all(document.error for document in documents)


@pytest.mark.parametrize(
    "text",
    [
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n",
        "apiVersion: tco.io/v2\nkind: TeamBudget\nmetadata: {name: a}\n",
        "- a list\n",
        "a string\n",
        "5\n",
        "{}\n",
    ],
)
def test_what_is_no_team_budget_is_refused(text: str) -> None:
    good = text_of("z")
    documents = manifest.read_documents(f"{text}---\n{good}")
    assert [bool(document.error) for document in documents] == [True, False]


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", r"^line [12], column [15]: not YAML: "),
        ("a: 'x", r"^line 1, column 6: not YAML: "),
        ("a: b\n c: d", r"^line 2, column 3: not YAML: mapping values are not allowed"),
        ("a: b\n\tc", r"^line 2, column 1: not YAML: "),
        ("%YAML 3.0\n--- a", r"^line 1, column 1: not YAML: found incompatible"),
        ('"\\UFFFFFFFF"', r"not YAML: "),
        ("a\n\x00", r"^line 2: character '\\x00' is not allowed"),
        ("\ud800", r"^line 1: character '\\ud800' is not allowed"),
        ("[" * 500, r"^line 1: nested deeper than 64 levels"),
        # libyaml 0.2.6 looks ahead, and has a limit of its own.
        ("[" * 1_000_000, r"^line 1(: nested deeper than 64 levels|.*maximum nesting depth$)"),
        ("{a: " * 1_000_000, r"^line 1: nested deeper than 64 levels"),
        ("- " * 1_000_000, r"^line 1: nested deeper than 64 levels"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_text_that_is_no_yaml_is_refused_with_its_line(text: str, words: str, loader: Any) -> None:
    with pytest.raises(errors.BadBudget, match=words):
        block.read(text, loader)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3", 3, "key 'a' is given in line 1 too"),
        ("x:\n  a: 1\n  'a': 3", 3, "key 'a' is given in line 2 too"),
        ("1: a\n1: b", 2, "key '1' is given in line 1 too"),
        ("a: 1\n? [b]\n: 1", 2, "a list is a key"),
        ("a: 1\n~: 1", 2, "null is a key"),
        ("- &a 1\n- {*a : 2}", 2, "1 is a key"),
        ("- !!python/object/apply:os.system [a]", 1, "python/object/apply:os...' is not"),
        ("- !foo a", 1, "tag '!foo' is not supported"),
        ("- !!binary aGk=", 1, "is not supported"),
        ("- !!set {a}", 1, "is not supported"),
        ("- &a\n  - *a", 2, "*a contains itself"),
        ("- *b", 1, "*b is not defined"),
        ("--- &a x\n--- *a", 2, "*a is not defined"),
        ("a: 1\n<<: 5", 1, "<< of 5, which is no mapping"),
        ("<<: [{a: 1}, x]", 1, "<< of 'x', which is no mapping"),
    ],
)
def test_a_flaw_belongs_to_its_document(text: str, line: int, words: str, loader: Any) -> None:
    *_, flawed, after = block.read(f"{text}\n---\nafter", loader)
    assert flawed.flaw is not None
    assert flawed.flaw.line == line
    assert words in flawed.flaw.message
    assert (after.value, after.flaw) == ("after", None)


def test_a_flawed_document_is_refused_and_keeps_its_key() -> None:
    text = text_of("a", "{dailyLimit: 1,\n  dailyLimit: 2}")
    [document] = manifest.read_documents(text)
    assert document == manifest.Document(
        0, 5, "default/a", None, "key 'dailyLimit' is given in line 4 too"
    )


def test_the_first_of_several_flaws_is_told() -> None:
    [document] = manifest.read_documents("a: 1\na: 2\nb: !foo x\n")
    assert document.error == "key 'a' is given in line 1 too"


def test_an_alias_bomb_costs_no_more_than_its_text() -> None:
    rows = "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, 60))
    [document] = manifest.read_documents(f"x0: &x0 lol\n{rows}spec: *x59\n")
    assert document.error == "apiVersion: missing; tco.io/v1 is due"
    bomb = text_of("a", "{dailyLimit: *x59}").replace("spec:", f"x0: &x0 lol\n{rows}spec:")
    [document] = manifest.read_documents(bomb)
    assert document.error is not None


def test_a_merge_bomb_is_refused_where_it_outgrows_its_text() -> None:
    fields = ", ".join(f"f{i}: 1" for i in range(1000))
    text = f"a: &a {{{fields}}}\n" + "".join(f"b{i}: {{<<: *a}}\n" for i in range(11))
    [root] = block.read(text)
    assert root.flaw == block.Flaw(12, "<< brings in more than 10000 fields")
    [root] = block.read(text.replace("b10", "# "))
    assert root.flaw is None


def test_merges_fill_in_what_is_not_given() -> None:
    [root] = block.read(
        "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc:\n  <<: [*a, *b]\n  x: 3\nd: {<<: *b, '<<': 5}"
    )
    assert root.value == {
        "a": {"x": 1, "y": 1},
        "b": {"y": 2, "z": 2},
        "c": {"x": 3, "y": 1, "z": 2},
        "d": {"y": 2, "z": 2, "<<": 5},
    }
    assert root.flaw is None


def test_a_list_with_shared_fields_gives_whole_budgets() -> None:
    text = (
        "apiVersion: v1\nkind: List\nitems:\n"
        "- &x {apiVersion: tco.io/v1, kind: TeamBudget, metadata: {name: a},\n"
        "      spec: &s {dailyLimit: 5}}\n"
        "- {<<: *x, metadata: {name: b}, spec: {<<: *s, timeZone: Asia/Tokyo}}\n"
    )
    found = [document.budget for document in manifest.read_documents(text)]
    assert found == [
        budget.Budget("a", "default", 5),
        budget.Budget("b", "default", 5, time_zone="Asia/Tokyo"),
    ]


# What kubectl makes of them on the way to the API server.
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("NULL", None),
        ("y", True),
        ("On", True),
        ("TRUE", True),
        ("n", False),
        ("off", False),
        ("0", 0),
        ("-7", -7),
        ("+7", 7),
        ("0x1F", 31),
        ("0b101", 5),
        ("0o17", 15),
        ("017", 15),
        ("018", 18),
        ("1_000_000", 1000000),
        ("1e6", 1000000),
        ("1.0", 1),
        ("1.5e+3", 1500),
        ("1e21", 1e21),
        ("1e999", math.inf),
        (".5", 0.5),
        ("5.", 5),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
        ("1:30", "1:30"),
        ("2026-11-22", "2026-11-22"),
        ("2026-11-22T10:00:00Z", "2026-11-22T10:00:00Z"),
        ("10Gi", "10Gi"),
        ("1.2.3", "1.2.3"),
        ("-", "-"),
        ("9" * 65, "9" * 65),
        ("yEs", "yEs"),
        ("!!str 5", "5"),
        ("! 5", "5"),
        ("!!int '5'", 5),
        ("'5'", "5"),
        ('"yes"', "yes"),
        ("!!map {a: 5}", {"a": 5}),
    ],
)
@pytest.mark.parametrize("loader", LOADERS)
def test_plain_scalars_mean_what_they_mean_to_kubectl(text: str, value: Any, loader: Any) -> None:
    # In a list a hyphen would begin another list.
    if text == "-":
        assert block.plain(text) == value
        return
    [root] = block.read(f"- {text}\n", loader)
    assert root.value == [value]
    assert type(root.value[0]) in (type(value), block.Block)
    assert root.flaw is None


def test_not_a_number_is_one_here() -> None:
    found = block.plain(".NaN")
    assert isinstance(found, float)
    assert math.isnan(found)


# JSON escapes of a surrogate pair are one character to JSON and two to YAML, hence the alphabet.
letters = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E) | st.sampled_from("äß€😀"))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | letters
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(letters, inner, max_size=4),
    max_leaves=20,
)


@given(value=json_values, loader=st.sampled_from(LOADERS))
def test_json_reads_as_itself(value: object, loader: Any) -> None:
    """Whatever JSON can say, reading it as YAML gives the same value and no flaw."""
    [root] = block.read(json.dumps(value, ensure_ascii=False), loader)
    assert root.value == value
    assert root.flaw is None


@given(st.text() | st.text("-:[]{}&*a1 \n'\"!<,?#|>%@"), st.sampled_from(LOADERS))
def test_any_text_is_documents_or_refused(text: str, loader: Any) -> None:
    """Any text gives documents, or a BadBudget; nothing else."""
    try:
        roots = block.read(text, loader)
    except errors.BadBudget as refused:
        message = str(refused)
    else:
        message = "".join(root.flaw.message for root in roots if root.flaw)
    assert "\n" not in message
    with contextlib.suppress(errors.BadBudget):
        assert all(document.error for document in manifest.read_documents(text))


@pytest.mark.parametrize(
    ("line", "field", "words"),
    [
        ("metadata: {name: shop, namespace: n}", "metadata.namespace", "n is not a string"),
        ("metadata: {name: shop, namespace: off}", "metadata.namespace", "the boolean false"),
        ("metadata: {name: 123, namespace: a}", "metadata.name", '123 is not a string'),
        ("metadata: {name: 0x1F, namespace: a}", "metadata.name", 'in quotes, "0x1F"'),
        ("spec: {dailyLimit: 1, timeZone: y}", "spec.timeZone", "the boolean true"),
        ("spec: {dailyLimit: 1, namespaces: [a, n]}", "spec.namespaces[1]", 'in quotes, "n"'),
        ("spec: {dailyLimit: 1, selector: {matchLabels: {a: 1}}}", "spec.selector.matchLabels",
         '1 is not a string: YAML reads it as a number; in quotes, "1"'),
        ("spec: {<<: {timeZone: y}, dailyLimit: 1}", "spec.timeZone", "y is not a string"),
    ],
)  # fmt: skip
def test_a_word_that_yaml_reads_as_something_else_is_shown_as_written(line, field, words):
    parts = {
        "metadata": "metadata: {name: shop, namespace: a}",
        "spec": "spec: {dailyLimit: 1}",
    }
    parts[line.split(":")[0]] = line
    text = "\n".join(["apiVersion: tco.io/v1", "kind: TeamBudget", *parts.values()])
    (found,) = manifest.read_documents(text)
    assert found.field == field
    assert words in (found.error or "")
