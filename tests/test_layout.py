"""How the core is built in: who opens its door, and that its loops never take the GIL."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sluice"
# What Cython says of a call that takes the GIL back to look for an exception.
TAKES_GIL = "require the GIL"


def imported(source: str) -> set[str]:
    """Every module that the source may import, by its full name."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # relative imports do not occur, and would not be found here
            assert node.level == 0
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_only_the_gate_the_ledger_and_the_counters_open_the_core() -> None:
    opening = {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for path in PACKAGE.rglob("*.py")
        if "sluice._core" in imported(path.read_text())
    }
    assert opening == {"sluice.gate", "sluice.ledger", "sluice.usage"}


@pytest.mark.parametrize(
    "source",
    ["from sluice import _core", "import sluice._core", "from sluice._core import evaluate as e"],
)
def test_every_way_to_import_the_core_is_seen(source: str) -> None:
    assert "sluice._core" in imported(f"def later():\n    {source}\n")


def directives() -> dict[str, object]:
    """The compiler directives of setup.py, without running it; as of a build that is not debug."""
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "directives":
            return eval(ast.unparse(node.value), {"DEBUG": False})
    raise AssertionError("setup.py has no directives")


def cython(source: Path, out: Path) -> str:
    """What Cython says while it translates `source`."""
    options = [f"-X{name}={value}" for name, value in directives().items()]
    done = subprocess.run(
        [sys.executable, "-m", "cython", "-Wextra", *options, str(source), "-o", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout + done.stderr


def test_no_loop_of_the_core_takes_the_gil(tmp_path: Path) -> None:
    said = cython(PACKAGE / "_core.pyx", tmp_path / "core.c")
    assert TAKES_GIL not in said, said


def test_cython_would_say_so(tmp_path: Path) -> None:
    # of a leaf that gives a number it says nothing: hence the test of every leaf's head below
    source = tmp_path / "leaf.pyx"
    source.write_text(
        "cdef void leaf(int *n) nogil:\n    n[0] += 1\n"
        "def door(int n):\n    with nogil:\n        leaf(&n)\n    return n\n"
    )
    assert TAKES_GIL in cython(source, tmp_path / "leaf.c")


def functions(source: str) -> list[str]:
    """The head of every cdef function, on one line each."""
    heads = re.findall(r"^cdef (?!enum|struct|extern|const )[^\n(=]*\([^:]*:$", source, re.M)
    return [re.sub(r"\s+", " ", head) for head in heads]


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("_*.pxd")), ids=lambda path: path.name)
def test_every_leaf_is_inline_and_never_raises(path: Path) -> None:
    source = path.read_text()
    heads = functions(source)
    assert len(heads) == len(re.findall(r"^cdef inline ", source, re.M))
    for head in heads:
        assert head.startswith("cdef inline ")
        assert head.endswith(") noexcept nogil:")


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("_*.p*x*")), ids=lambda path: path.name)
def test_directives_stand_in_setup_py_alone(path: Path) -> None:
    # a line in a file would silently beat the build's
    assert "cython:" not in path.read_text()
    assert "@cython." not in path.read_text()
