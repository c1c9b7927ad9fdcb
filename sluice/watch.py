"""Budgets in files: read whole, then watched by asking again. Reads the file system.

Rule 1: the unit is the document. A refused one leaves the last good version of its key in
force, and the rest apply.
Rule 2: nothing that goes wrong with a file takes a budget away; only a document that is gone
does, or a file that is gone from its directory. A file without a document went wrong: a save that
truncates it, or a full disk, leaves it so. A file that ends in a refused document, or has one that
does not tell its key, may have been cut: what it does not name any more stays until it is mended.
Rule 3: a key belongs to the first document that names it, in the order of file names, then
of documents, be that document good or bad: which of two governs must not change with a typo.
"""

import hashlib
import os
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sluice import block, budget, errors, manifest

FILE_MAX = 16 * 2**20
SUFFIXES = (".yaml", ".yml")

# A file written within the last step of the file system's clock may be written again without
# a change to its times. Two seconds, FAT's step, is the longest in use.
CLOCK_STEP_S = 2.0
NS_PER_S = 1_000_000_000

Signature = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a file that is not in force, and where.

    `index` and `line` are those of manifest.Document; `index` is None when the whole file is
    meant, and `line` too unless it is known where the file stops being YAML.
    """

    file: str
    index: int | None
    line: int | None
    key: str | None
    message: str

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(part for part in (where, self.key, self.message) if part)


@dataclass(frozen=True, slots=True)
class Reading:
    """What the files say now: the budgets in force and what is wrong.

    `changed` says whether either differs from the reading before.
    """

    budgets: tuple[budget.Budget, ...]
    problems: tuple[Problem, ...]
    changed: bool


@dataclass(frozen=True, slots=True)
class _File:
    """What is known of one file.

    `signature` is None when the content has to be looked at again whatever the file's times
    say. `failure` is set when `documents` could not be read: what was read before holds.
    """

    signature: Signature | None = None
    digest: bytes = b""
    documents: tuple[manifest.Document, ...] = ()
    failure: Problem | None = None


class BudgetFiles:
    """The budgets in a file, or in the *.yaml and *.yml of a directory.

    Args:
        path: may be or hold symbolic links, as a mounted ConfigMap does.
        clock_step_s: how far apart two changes must be for the file's times to differ.

    Threads: one at a time.
    """

    def __init__(self, path: Path, clock_step_s: float = CLOCK_STEP_S) -> None:
        self.path = path
        self._clock_step_ns = int(clock_step_s * NS_PER_S)
        self._files: dict[Path, _File] = {}
        # The files that the last reading was made from; none if they could not be listed.
        self._merged: dict[Path, _File] = {}
        self._held: dict[Path, dict[str, budget.Budget]] = {}
        self._reading: Reading | None = None

    def read(self, first: bool = False) -> Reading:
        """Read what has changed. Cheap when nothing has.

        Args:
            first: nothing is in force yet, so that there is nothing to fall back on.

        Raises:
            BadBudget: only if `first`: a file cannot be read, or holds no YAML, or there is
                no valid budget at all.
        """
        try:
            paths = manifest_files(self.path)
        except OSError as error:
            problem = failure(self.path, errors.BadBudget(reason(error)))
            if first:
                raise errors.BadBudget(str(problem)) from None
            self._merged = {}
            return self._publish(self._held, [problem])
        files = {path: self._look(path, self._files.get(path, _File())) for path in paths}
        failures = [file.failure for file in files.values() if file.failure]
        if first and failures:
            raise errors.BadBudget(str(failures[0]))
        if self._reading is not None and _are_same(files, self._merged):
            return replace(self._reading, changed=False)
        held, problems = self._merge(files)
        if first and not any(held.values()):
            why = str(problems[0])
            raise errors.BadBudget(f"{printable(self.path)}: no valid budget: {why}")
        self._files = self._merged = files
        return self._publish(held, problems)

    def _look(self, path: Path, old: _File) -> _File:
        """Read a file again if it may have changed."""
        try:
            signature, content = _fetch(path, old.signature, self._clock_step_ns)
            if content is None:
                return old
            digest = hashlib.blake2b(content).digest()
            if digest == old.digest:
                return old if signature == old.signature else replace(old, signature=signature)
        except errors.BadBudget as error:
            return _failed(path, old, error)
        try:
            documents = tuple(_parse(content))
        except errors.BadBudget as error:
            return replace(_failed(path, old, error), signature=signature, digest=digest)
        return _File(signature, digest, documents)

    def _publish(
        self, held: dict[Path, dict[str, budget.Budget]], problems: list[Problem]
    ) -> Reading:
        budgets = tuple(own for by_key in held.values() for own in by_key.values())
        before = self._reading
        changed = before is None or (budgets, tuple(problems)) != (before.budgets, before.problems)
        self._held = held
        self._reading = Reading(budgets, tuple(problems), changed)
        return self._reading

    def _merge(
        self, files: Mapping[Path, _File]
    ) -> tuple[dict[Path, dict[str, budget.Budget]], list[Problem]]:
        """The budgets in force by file, in order, and what is wrong."""
        in_force = {key: own for by_key in self._held.values() for key, own in by_key.items()}
        held: dict[Path, dict[str, budget.Budget]] = {}
        problems: list[Problem] = []
        claims: dict[str, str] = {}
        for path, file in files.items():
            name, own = printable(path), held.setdefault(path, {})
            last = self._held.get(path, {})
            if file.failure is not None or not file.documents:
                problems.append(file.failure or _empty(name, len(last)))
                keep(last, own, claims, name)
                continue
            for document in file.documents:
                second = document.key in claims
                problem = complaint(name, document, claims)
                if problem is not None:
                    problems.append(problem)
                good = document.budget or in_force.get(document.key or "")
                if good is not None and not second:
                    own[good.key] = good
            if may_be_cut(file.documents):
                keep(last, own, claims, name)
        if not files:
            problems.append(Problem(printable(self.path), None, None, None, "no budget file in it"))
        return held, problems


def keep(
    last: Mapping[str, budget.Budget],
    own: dict[str, budget.Budget],
    claims: dict[str, str],
    name: str,
) -> None:
    """Have those of a file's last good budgets stay that no document names."""
    for key, good in last.items():
        if key not in claims:
            claims[key], own[key] = name, good


def may_be_cut(documents: Sequence[manifest.Document]) -> bool:
    """Whether more documents may have stood in a file than are there."""
    refused = [document.error is not None for document in documents]
    return refused[-1] or any(document.key is None for document in documents)


def _empty(name: str, held: int) -> Problem:
    """Say that a file has no document; `held` budgets were read from it before."""
    words = "holds no TeamBudget"
    if held:
        words += f"; the last good ones ({held}) stay in force until it does, or is removed"
    return Problem(name, None, None, None, words)


def _are_same(some: Mapping[Path, _File], others: Mapping[Path, _File]) -> bool:
    return bool(some) and [*map(id, some.values())] == [*map(id, others.values())]


def manifest_files(path: Path) -> list[Path]:
    """The files that `path` stands for: itself, or a directory's *.yaml and *.yml by name.

    Raises:
        OSError: there is no such thing, or the directory cannot be listed.
    """
    if not stat.S_ISDIR(path.stat().st_mode):
        return [path]
    return sorted(
        entry
        for entry in path.iterdir()
        if entry.suffix in SUFFIXES and not entry.name.startswith(".") and not _is_directory(entry)
    )


def left_out(path: Path) -> list[str]:
    """The names in a directory that are not read as budgets, hidden ones aside.

    Empty where `path` is a file, or cannot be listed.
    """
    try:
        if not path.is_dir():
            return []
        read = set(manifest_files(path))
        others = [one.name for one in path.iterdir() if one not in read]
    except OSError:
        return []
    return sorted(printable(Path(name)) for name in others if not name.startswith("."))


def read_file(path: Path) -> list[manifest.Document]:
    """Read all documents of one file; none if it is empty.

    Raises:
        BadBudget: it cannot be read, is too large, or is not YAML.
    """
    return _parse(_fetch(path)[1] or b"")


def complaint(file: str, document: manifest.Document, claims: dict[str, str]) -> Problem | None:
    """Say why a document is refused, None if it is not; claims its key for it.

    Args:
        claims: where each key was first named.
    """
    message, key = document.error, document.key
    if key is not None and key in claims:
        message = f"second document of this key, the first is {claims[key]}"
    elif key is not None:
        claims[key] = f"{file}:{document.line}"
    if message is None:
        return None
    return Problem(file, document.index, document.line, key, message)


def failure(path: Path, error: errors.BadBudget) -> Problem:
    """Say why a whole file is refused."""
    if isinstance(error, block.BadYaml):
        return Problem(printable(path), None, error.line, None, error.reason)
    return Problem(printable(path), None, None, None, error.message)


def printable(path: Path) -> str:
    """A path for people to read: on one line, whatever bytes it is made of."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


def _failed(path: Path, old: _File, error: errors.BadBudget) -> _File:
    return replace(old, signature=None, digest=b"", failure=failure(path, error))


def _fetch(
    path: Path, known: Signature | None = None, clock_step_ns: int = 0
) -> tuple[Signature | None, bytes | None]:
    """A file's signature and content; no content if the signature is the `known` one.

    The signature is None while it may still stand for another content a moment later.
    """
    try:
        # Without O_NONBLOCK a pipe would keep us waiting for somebody to write into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise errors.BadBudget("not a regular file")
            times = (found.st_mtime_ns, found.st_ctime_ns)
            signature = (found.st_dev, found.st_ino, found.st_size, *times)
            if signature == known:
                return signature, None
            settled = time.time_ns() - max(times) > clock_step_ns
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                # One byte more than may be, lest a file that grows be cut short unseen.
                content = file.read(FILE_MAX + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise errors.BadBudget(reason(error)) from None
    size = max(found.st_size, len(content))
    if size > FILE_MAX:
        raise errors.BadBudget(f"{size} bytes, more than {FILE_MAX}")
    return signature if settled else None, content


def reason(error: OSError) -> str:
    """What the system said, without the path, which stands before it."""
    return error.strerror or str(error)


def _parse(content: bytes) -> list[manifest.Document]:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise block.BadYaml(f"byte 0x{content[error.start]:02x} is not UTF-8", line) from None
    return manifest.read_documents(text)


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:
        return False
