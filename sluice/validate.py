"""Checks budgets offline: the same verdicts as `run` and, the zone aside, as the CRD."""

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from sluice import errors, manifest, watch


def validate(paths: Sequence[Path], out: TextIO, err: TextIO) -> int:
    """Check the budgets in files and directories; returns the exit code, 0 if all are good.

    Writes a line per good budget to `out` and a line per refusal to `err`: file, line, key,
    field and reason. A file that is given twice is read once.
    """
    claims: dict[str, str] = {}
    seen: set[Path] = set()
    code = 0
    for path in paths:
        count = 0
        for file, documents in _read(path, seen):
            if isinstance(documents, errors.BadBudget):
                count, code = count + 1, 1
                print(f"{file}: {documents.message}", file=err)
                continue
            count += len(documents)
            for document in documents:
                problem = watch.complaint(file, document, claims)
                if problem is None:
                    print(f"{file}:{document.line}: {document.key}: ok", file=out)
                else:
                    code = 1
                    print(problem, file=err)
