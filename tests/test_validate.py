"""`validate` tells each budget's verdict in a line, and all of them in its exit code."""

import io
from pathlib import Path

import pytest

from sluice import validate


def text_of(name: str, limit: object = 1000) -> str:
    """A TeamBudget as YAML."""
    return (
        f"---\napiVersion: tco.io/v1\nkind: TeamBudget\n"
        f"metadata: {{name: {name}}}\nspec: {{dailyLimit: {limit}}}\n"
    )


def run(*paths: Path) -> tuple[int, list[str], list[str]]:
    """Exit code, verdicts and refusals, with the folder taken off the file names."""
    out, err = io.StringIO(), io.StringIO()
    code = validate.validate(paths, out, err)
    folder = f"{paths[0].parent}/" if paths else ""
    return (
        code,
        out.getvalue().replace(folder, "").splitlines(),
        err.getvalue().replace(folder, "").splitlines(),
    )


def test_good_budgets_are_ok(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text_of("a") + text_of("b"))
    assert run(tmp_path / "a.yaml") == (
        0,
        ["a.yaml:2: default/a: ok", "a.yaml:7: default/b: ok"],
        [],
    )


def test_a_refusal_names_file_line_key_field_and_reason(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text_of("a", "1.5Gi") + text_of("b"))
    code, verdicts, refusals = run(tmp_path / "a.yaml")
    assert code == 1
    assert verdicts == ["a.yaml:7: default/b: ok"]
    assert refusals == [
        "a.yaml:5: default/a: spec.dailyLimit: '1.5Gi' is not a whole number of bytes: write 1536Mi"
    ]


def test_a_refusal_without_a_key_names_the_rest(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: ConfigMap\n")
    assert run(tmp_path / "a.yaml") == (1, [], ["a.yaml:1: apiVersion: missing; tco.io/v1 is due"])


def test_a_key_that_two_files_give_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text_of("a"))
    (tmp_path / "b.yaml").write_text(text_of("a"))
    assert run(tmp_path / "b.yaml", tmp_path / "a.yaml") == (
        1,
        ["b.yaml:2: default/a: ok"],
        ["a.yaml:2: default/a: second document of this key, the first is b.yaml:2"],
    )


def test_a_directory_stands_for_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "budgets"
    folder.mkdir()
    (folder / "b.yaml").write_text(text_of("b"))
    (folder / "a.yml").write_text("# for later\n")
    (folder / "c.txt").write_text("[")
    assert run(folder) == (0, ["budgets/b.yaml:2: default/b: ok"], [])


def test_a_file_given_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text_of("a"))
    code, verdicts, refusals = run(tmp_path / "a.yaml", tmp_path / "a.yaml", tmp_path)
    assert (code, len(verdicts), refusals) == (0, 1, [])


@pytest.mark.parametrize(
    ("content", "refusal"),
    [
        (b"", "a.yaml: no document in it"),
        (b"---\n# nothing\n", "a.yaml: no document in it"),
        (b"\na: [}", "a.yaml:2: not YAML: did not find expected node content"),
        (b"\n\n\xff", "a.yaml:3: byte 0xff is not UTF-8"),
    ],
)
def test_a_file_without_documents_is_refused(tmp_path: Path, content: bytes, refusal: str) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    (tmp_path / "b.yaml").write_text(text_of("b"))
    assert run(tmp_path / "a.yaml", tmp_path / "b.yaml") == (
        1,
        ["b.yaml:2: default/b: ok"],
        [refusal],
    )


def test_what_is_missing_or_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "nowhere", tmp_path / "empty") == (
        1,
        [],
        ["nowhere: No such file or directory", "empty: no document in it"],
    )


def test_a_dead_link_in_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("nowhere")
    (tmp_path / "b.yaml").write_text(text_of("b"))
    code, verdicts, refusals = run(tmp_path / "b.yaml", tmp_path)
    assert code == 1
    assert verdicts == ["b.yaml:2: default/b: ok"]
    assert refusals == ["a.yaml: No such file or directory"]
