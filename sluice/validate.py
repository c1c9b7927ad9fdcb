"""Checks budgets offline: the verdicts of `run`, which are the CRD's but for unknown zones."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from sluice import errors, manifest, watch


def validate(paths: Sequence[Path], out: TextIO, err: TextIO) -> int:
    """Check the budgets in files and directories; returns the exit code, 1 if any is refused.

    Writes a line per good budget to `out` and a line per refusal to `err`: file, line, key,
    field and reason. A file that cannot be read, and a path without a document, are refused.
    """
    claims: dict[str, str] = {}
    code = 0
    for path, found in _read(paths):
        if isinstance(found, errors.BadBudget):
            code = 1
            print(watch.failure(path, found), file=err)
            continue
        name = watch.printable(path)
        for document in found:
            problem = watch.complaint(name, document, claims)
            if problem is None:
                print(f"{name}:{document.line}: {document.key}: ok", file=out)
            else:
                code = 1
                print(problem, file=err)
    return code


def _read(
    paths: Sequence[Path],
) -> Iterator[tuple[Path, list[manifest.Document] | errors.BadBudget]]:
    """Each file and its documents, or why there are none. A file given twice is read once."""
    seen: set[Path] = set()
    for path in paths:
        try:
            files = watch.manifest_files(path)
        except OSError as error:
            yield path, errors.BadBudget(watch.reason(error))
            continue
        empty = True
        for file in files:
            found = _documents(file)
            empty = empty and found == []
            if found and file.absolute() not in seen:
                yield file, found
            seen.add(file.absolute())
        if empty:
            yield path, errors.BadBudget("no document in it")


def _documents(file: Path) -> list[manifest.Document] | errors.BadBudget:
    try:
        return watch.read_file(file)
    except errors.BadBudget as error:
        return error
