"""Budgets in files follow the files, and survive whatever goes wrong with them."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice import errors, watch


def text_of(name: str, limit: object = 1000) -> str:
    """A TeamBudget as YAML."""
    return (
        f"---\napiVersion: tco.io/v1\nkind: TeamBudget\n"
        f"metadata: {{name: {name}}}\nspec: {{dailyLimit: {limit}}}\n"
    )


def limits(reading: watch.Reading) -> dict[str, int]:
    """The limit of each budget that is in force."""
    return {budget.key.removeprefix("default/"): budget.daily_limit for budget in reading.budgets}


def messages(reading: watch.Reading) -> str:
    """All problems, a line each."""
    return "\n".join(map(str, reading.problems))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with the budgets a and b."""
    path = tmp_path / "budgets.yaml"
    path.write_text(text_of("a") + text_of("b"))
    return path


def test_a_file_is_read_and_then_followed(file: Path) -> None:
    files = watch.BudgetFiles(file)
    first = files.read(first=True)
    assert limits(first) == {"a": 1000, "b": 1000}
    assert first.changed
    assert not first.problems
    assert not files.read().changed
    file.write_text(text_of("b", "1Ki") + text_of("c"))
    second = files.read()
    assert limits(second) == {"b": 1024, "c": 1000}
    assert second.changed
    assert not files.read().changed


def test_nothing_is_read_again_when_nothing_has_changed(file: Path) -> None:
    files = watch.BudgetFiles(file, clock_step_s=0)
    readings = [files.read() for _ in range(3)]
    assert [reading.changed for reading in readings] == [True, False, False]
    assert readings[2].budgets is readings[1].budgets


def test_the_order_is_that_of_file_names_then_of_documents(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(text_of("m") + text_of("d"))
    (tmp_path / "a.yml").write_text(text_of("z"))
    assert list(limits(watch.BudgetFiles(tmp_path).read(first=True))) == ["z", "m", "d"]


def test_a_rewrite_of_the_same_size_and_time_is_seen(file: Path) -> None:
    files = watch.BudgetFiles(file)
    for limit in range(1000, 1050):
        before = file.stat()
        file.write_text(text_of("a", limit) + text_of("b", limit))
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert limits(files.read()) == {"a": limit, "b": limit}


def test_a_rewrite_is_seen_though_its_time_is_old(file: Path) -> None:
    files = watch.BudgetFiles(file, clock_step_s=0)
    os.utime(file, (1, 1))
    files.read(first=True)
    files.read()
    file.write_text(file.read_text().replace("1000", "2000"))
    os.utime(file, (1, 1))
    assert limits(files.read()) == {"a": 2000, "b": 2000}


def test_a_replacement_by_rename_is_seen(file: Path) -> None:
    files = watch.BudgetFiles(file)
    files.read(first=True)
    part = file.with_suffix(".part")
    part.write_text(text_of("a", 2000) + text_of("b", 2000))
    part.rename(file)
    assert limits(files.read()) == {"a": 2000, "b": 2000}


def test_the_swap_of_a_mounted_config_map_is_seen(tmp_path: Path) -> None:
    def publish(version: str, names: dict[str, str]) -> None:
        # As the kubelet does: a new directory, and one rename that swaps the link to it.
        folder = tmp_path / f"..{version}"
        folder.mkdir()
        for name, text in names.items():
            (folder / name).write_text(text)
            if not (tmp_path / name).is_symlink():
                (tmp_path / name).symlink_to(Path("..data") / name)
        (tmp_path / "..data_tmp").symlink_to(folder.name)
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    publish("2026_1", {"a.yaml": text_of("a"), "b.yaml": text_of("b")})
    folder, one = watch.BudgetFiles(tmp_path), watch.BudgetFiles(tmp_path / "a.yaml")
    assert limits(folder.read(first=True)) == {"a": 1000, "b": 1000}
    assert limits(one.read(first=True)) == {"a": 1000}
    publish("2026_2", {"a.yaml": text_of("a", 2000), "b.yaml": text_of("b", 2000)})
    assert limits(folder.read()) == {"a": 2000, "b": 2000}
    assert limits(one.read()) == {"a": 2000}
    # b.yaml leaves the ConfigMap: for a moment its link leads nowhere, then it is removed.
    publish("2026_3", {"a.yaml": text_of("a", 3000)})
    reading = folder.read()
    assert limits(reading) == {"a": 3000, "b": 2000}
    assert "b.yaml: No such file or directory" in messages(reading)
    (tmp_path / "b.yaml").unlink()
    assert limits(folder.read()) == {"a": 3000}


def test_a_link_to_another_directory_is_followed(tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "a.yaml").write_text(text_of("a", f"{version}000"))
    link = tmp_path / "now"
    link.symlink_to("1")
    files = watch.BudgetFiles(link)
    assert limits(files.read(first=True)) == {"a": 1000}
    (tmp_path / "next").symlink_to("2")
    (tmp_path / "next").rename(link)
    assert limits(files.read()) == {"a": 2000}


def test_other_files_in_a_directory_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text_of("a"))
    for name in ("b.txt", ".c.yaml", "d.yaml~", "e.json", ".yaml", "yaml"):
        (tmp_path / name).write_text(": not: yaml: [")
    for name in ("f.yaml", "g"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "h.yaml").write_text(text_of("h"))
    reading = watch.BudgetFiles(tmp_path).read(first=True)
    assert limits(reading) == {"a": 1000}
    assert not reading.problems
    assert watch.left_out(tmp_path) == ["b.txt", "d.yaml~", "e.json", "f.yaml", "g", "yaml"]
    assert watch.left_out(tmp_path / "a.yaml") == watch.left_out(tmp_path / "gone") == []


def test_a_refused_document_keeps_its_last_good_version_and_the_rest_apply(file: Path) -> None:
    files = watch.BudgetFiles(file)
    files.read(first=True)
    file.write_text(text_of("a", "x") + text_of("b", 2000) + text_of("c", "y"))
    readings = [files.read() for _ in range(3)]
    assert [reading.changed for reading in readings] == [True, False, False]
    assert all(limits(reading) == {"a": 1000, "b": 2000} for reading in readings)
    reading = readings[0]
    assert [(p.index, p.line, p.key) for p in reading.problems] == [
        (0, 5, "default/a"),
        (2, 15, "default/c"),
    ]
    assert f"{file}:5: default/a: spec.dailyLimit: 'x' is not" in messages(reading)
    file.write_text(text_of("a", 3000))
    assert limits(files.read()) == {"a": 3000}


def test_a_last_good_version_follows_its_key_into_another_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text_of("a"))
    (tmp_path / "b.yaml").write_text(text_of("b"))
    files = watch.BudgetFiles(tmp_path)
    files.read(first=True)
    (tmp_path / "a.yaml").unlink()
    (tmp_path / "b.yaml").write_text(text_of("b", 2000) + text_of("a", "x"))
    assert limits(files.read()) == {"b": 2000, "a": 1000}


def test_at_first_start_a_refused_document_is_skipped(file: Path) -> None:
    file.write_text(text_of("a", "x") + text_of("b"))
    reading = watch.BudgetFiles(file).read(first=True)
    assert limits(reading) == {"b": 1000}
    assert len(reading.problems) == 1


def test_a_new_problem_is_a_change(file: Path) -> None:
    files = watch.BudgetFiles(file)
    files.read(first=True)
    file.write_text(file.read_text() + text_of("c", "x"))
    reading = files.read()
    assert reading.changed
    assert limits(reading) == {"a": 1000, "b": 1000}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\na: [}", "b.yaml:2: not YAML"),
        (b"ok\n\xff\xfe", "b.yaml:2: byte 0xff is not UTF-8"),
        (b"a\n\x00", r"b.yaml:2: character '\x00' is not allowed"),
        (b"[" * 1000, "nested deeper than 64 levels"),
        (b" " * (watch.FILE_MAX + 1), f"{watch.FILE_MAX + 1} bytes, more than {watch.FILE_MAX}"),
    ],
    ids=["yaml", "utf-8", "nul", "deep", "huge"],
)
def test_an_unusable_file_keeps_all_budgets_last_read_from_it(
    tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "a.yaml").write_text(text_of("a"))
    (tmp_path / "b.yaml").write_text(text_of("b") + text_of("c"))
    files = watch.BudgetFiles(tmp_path)
    files.read(first=True)
    (tmp_path / "a.yaml").write_text(text_of("a", 2000))
    (tmp_path / "b.yaml").write_bytes(content)
    for changed in (True, False):
        reading = files.read()
        assert limits(reading) == {"a": 2000, "b": 1000, "c": 1000}
        assert words in messages(reading)
        assert reading.changed == changed
    (tmp_path / "b.yaml").write_text(text_of("c", 3000))
    reading = files.read()
    assert limits(reading) == {"a": 2000, "c": 3000}
    assert not reading.problems
    (tmp_path / "b.yaml").write_bytes(content)
    with pytest.raises(errors.BadBudget, match=r"b\.yaml:"):
        watch.BudgetFiles(tmp_path).read(first=True)


def test_a_settled_bad_file_stays_bad_until_it_changes(file: Path) -> None:
    files = watch.BudgetFiles(file, clock_step_s=0)
    files.read(first=True)
    file.write_text("a: [")
    for _ in range(3):
        reading = files.read()
        assert limits(reading) == {"a": 1000, "b": 1000}
        assert len(reading.problems) == 1


def test_budgets_kept_for_a_bad_file_give_way_to_an_earlier_file(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(text_of("a"))
    files = watch.BudgetFiles(tmp_path)
    files.read(first=True)
    (tmp_path / "b.yaml").write_text("a: [")
    (tmp_path / "a.yaml").write_text(text_of("a", 2000))
    (tmp_path / "c.yaml").write_text(text_of("a", 3000))
    reading = files.read()
    assert limits(reading) == {"a": 2000}
    assert f"{tmp_path}/c.yaml:2: default/a: second document of this key" in messages(reading)


def test_a_file_that_vanishes_keeps_its_budgets(file: Path) -> None:
    files = watch.BudgetFiles(file)
    files.read(first=True)
    content = file.read_text()
    file.unlink()
    for changed in (True, False):
        reading = files.read()
        assert limits(reading) == {"a": 1000, "b": 1000}
        assert messages(reading) == f"{file}: No such file or directory"
        assert reading.changed == changed
    file.write_text(content)
    reading = files.read()
    assert reading.changed
    assert not reading.problems


def test_a_directory_that_vanishes_and_returns_unchanged_is_well_again(tmp_path: Path) -> None:
    folder = tmp_path / "budgets"
    folder.mkdir()
    (folder / "a.yaml").write_text(text_of("a"))
    files = watch.BudgetFiles(folder, clock_step_s=0)
    files.read(first=True)
    folder.rename(tmp_path / "away")
    assert limits(files.read()) == {"a": 1000}
    (tmp_path / "away").rename(folder)
    reading = files.read()
    assert reading.changed
    assert not reading.problems
    assert limits(reading) == {"a": 1000}


def test_a_file_that_leaves_its_directory_takes_its_budgets_along(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text(text_of(name))
    files = watch.BudgetFiles(tmp_path)
    files.read(first=True)
    (tmp_path / "a.yaml").unlink()
    assert limits(files.read()) == {"b": 1000}
    (tmp_path / "b.yaml").unlink()
    reading = files.read()
    assert reading.budgets == ()
    assert reading.changed
    assert not files.read().changed


@pytest.mark.parametrize("kind", ["loop", "dangling", "pipe", "directory"])
def test_what_is_no_file_keeps_what_was_read_before(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text_of("a"))
    (tmp_path / "b.yaml").write_text(text_of("b"))
    files = watch.BudgetFiles(tmp_path)
    files.read(first=True)
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(path if kind == "loop" else tmp_path / "nowhere")
    reading = files.read()
    # A directory of that name is no file that went bad: the file has been removed.
    assert limits(reading) == {"b": 1000} | ({} if kind == "directory" else {"a": 1000})
    assert len(reading.problems) == (kind != "directory")
    path.rmdir() if kind == "directory" else path.unlink()
    path.write_text(text_of("a"))
    reading = files.read()
    assert limits(reading) == {"a": 1000, "b": 1000}
    assert not reading.problems


@pytest.mark.parametrize(
    "content",
    ["", "\n", "# none\n", "---\n", "---\n# a\n---\n", "apiVersion: v1\nkind: List\nitems: []\n",
     "apiVersion: v1\nkind: List\n", "null\n"],
    ids=["nothing", "a newline", "a comment", "a mark", "marks", "a list", "no items", "null"],
)  # fmt: skip
def test_a_file_without_a_document_keeps_its_last_good_budgets_and_says_so(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "a.yaml").write_text(text_of("a") + text_of("b"))
    (tmp_path / "c.yaml").write_text(text_of("c"))
    files = watch.BudgetFiles(tmp_path, clock_step_s=0)
    files.read(first=True)
    (tmp_path / "a.yaml").write_text(content)
    readings = [files.read() for _ in range(4)]
    for reading in readings:
        assert limits(reading) == {"a": 1000, "b": 1000, "c": 1000}
        assert "a.yaml: holds no TeamBudget; the last good ones (2) stay" in messages(reading)
    assert [reading.changed for reading in readings] == [True, False, False, False]
    # One document says otherwise, and so does a file that is removed.
    (tmp_path / "a.yaml").write_text(text_of("b", 2000))
    reading = files.read()
    assert (limits(reading), messages(reading)) == ({"b": 2000, "c": 1000}, "")
    (tmp_path / "a.yaml").write_text(content)
    assert limits(files.read()) == {"b": 2000, "c": 1000}
    (tmp_path / "a.yaml").unlink()
    reading = files.read()
    assert (limits(reading), messages(reading)) == ({"c": 1000}, "")


def test_a_file_that_is_seen_half_written_takes_no_budget_away(file: Path) -> None:
    content = file.read_text()
    files = watch.BudgetFiles(file)
    files.read(first=True)
    second = len(text_of("a"))
    # Cut between its documents, it may as well be meant so.
    for cut in (*range(second - 1), *range(second + len("---\n") + 1, len(content) - 1)):
        file.write_text(content[:cut])
        assert limits(files.read()) == {"a": 1000, "b": 1000}, content[:cut]
        file.write_text(content)
        reading = files.read()
        assert (limits(reading), messages(reading)) == ({"a": 1000, "b": 1000}, "")


def test_a_directory_without_a_file_left_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text_of("a"))
    files = watch.BudgetFiles(tmp_path)
    files.read(first=True)
    (tmp_path / "a.yaml").unlink()
    reading = files.read()
    assert (limits(reading), messages(reading)) == ({}, f"{tmp_path}: no budget file in it")


def test_at_first_start_an_empty_file_beside_others_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text_of("a"))
    (tmp_path / "b.yaml").write_text("# later\n")
    reading = watch.BudgetFiles(tmp_path).read(first=True)
    assert limits(reading) == {"a": 1000}
    assert messages(reading) == f"{tmp_path}/b.yaml: holds no TeamBudget"


def test_a_second_document_of_a_key_is_refused_across_files_too(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text_of("a") + text_of("a", 2000))
    (tmp_path / "b.yaml").write_text(text_of("a", 3000) + text_of("b"))
    reading = watch.BudgetFiles(tmp_path).read(first=True)
    assert limits(reading) == {"a": 1000, "b": 1000}
    assert messages(reading).splitlines() == [
        f"{file}: default/a: second document of this key, the first is {tmp_path}/a.yaml:2"
        for file in (f"{tmp_path}/a.yaml:7", f"{tmp_path}/b.yaml:2")
    ]


def test_a_second_document_stays_refused_while_the_first_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text_of("a") + text_of("a", 2000))
    files = watch.BudgetFiles(path)
    files.read(first=True)
    path.write_text(text_of("a", "x") + text_of("a", 2000))
    reading = files.read()
    assert limits(reading) == {"a": 1000}
    assert len(reading.problems) == 2
    with pytest.raises(errors.BadBudget, match="no valid budget"):
        watch.BudgetFiles(path).read(first=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no valid budget: .*budgets.yaml: holds no TeamBudget"),
        ("# nothing", "no valid budget: .*budgets.yaml: holds no TeamBudget"),
        (text_of("a", "x"), "no valid budget: .*budgets.yaml:5: default/a: spec.dailyLimit: 'x'"),
        ("hello", "no valid budget: .*budgets.yaml:1: 'hello' where a mapping is due"),
        (text_of("a") + "---\na: [}", r"budgets\.yaml:7: not YAML"),
    ],
)
def test_at_first_start_a_file_without_a_valid_budget_is_fatal(
    file: Path, content: str, words: str
) -> None:
    file.write_text(content)
    files = watch.BudgetFiles(file)
    with pytest.raises(errors.BadBudget, match=words):
        files.read(first=True)
    file.write_text(text_of("a"))
    assert limits(files.read(first=True)) == {"a": 1000}


def test_at_first_start_a_missing_file_or_empty_directory_is_fatal(tmp_path: Path) -> None:
    with pytest.raises(errors.BadBudget, match="nowhere: No such file or directory"):
        watch.BudgetFiles(tmp_path / "nowhere").read(first=True)
    with pytest.raises(errors.BadBudget, match=r"no valid budget: .*: no budget file in it"):
        watch.BudgetFiles(tmp_path).read(first=True)
    (tmp_path / "a.yaml").symlink_to("nowhere")
    with pytest.raises(errors.BadBudget, match=r"a\.yaml: No such file or directory"):
        watch.BudgetFiles(tmp_path).read(first=True)


def test_a_strange_file_name_is_shown_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"a\n\xff.yaml")
    path.write_text(text_of("a", "x"))
    reading = watch.BudgetFiles(tmp_path).read()
    assert r"a\n\udcff.yaml':5: default/a: spec.dailyLimit" in messages(reading)


# What one file holds: for each of its documents a key and whether it is good; None if the file
# is not there, BAD if it is no YAML.
Content = list[tuple[str, bool]] | None
BAD: Content = [("[", False)]
contents = (
    st.none()
    | st.just(BAD)
    | st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=3)
)


@given(steps=st.lists(st.tuples(contents, contents), min_size=1, max_size=6))
def test_a_budget_is_lost_only_by_removal(
    steps: list[tuple[Content, Content]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In force is, of each key, what its first document says, or the last good version of it."""
    folder = tmp_path_factory.mktemp("budgets")
    files = watch.BudgetFiles(folder)
    before: dict[str, int] = {}
    for step, both in enumerate(steps):
        first: dict[str, int | None] = {}
        for number, content in enumerate(both):
            path = folder / f"{number}.yaml"
            path.unlink(missing_ok=True)
            if content is BAD:
                path.write_text("[")
            elif content is not None:
                text = "# budgets\n"
                for place, (key, good) in enumerate(content):
                    limit = 100 * (step + 1) + 10 * number + place
                    first.setdefault(key, limit if good else None)
                    text += text_of(key, limit if good else "x")
                path.write_text(text)
        found = limits(files.read())
        assert limits(files.read()) == found
        # A file that is no YAML, has no document, or ends in a bad one, gives none up.
        doubtful = [content is not None and (not content or not content[-1][1]) for content in both]
        if not any(doubtful):
            assert found.keys() <= first.keys()
        if all(doubtful):
            assert found.keys() >= before.keys()
        if BAD not in both:
            for key, said in first.items():
                assert found.get(key) in (said, before.get(key))
                # Unless an earlier file still has it from before.
                if not doubtful[0]:
                    assert found.get(key) == (before.get(key) if said is None else said)
        for key, limit in found.items():
            assert limit in (first.get(key), before.get(key))
        before = found
