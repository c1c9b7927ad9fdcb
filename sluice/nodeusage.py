"""NodeLogUsage: what one node counted, as the resource that its agent writes.

    status.usage   window -> team -> bytes that upstream took
    status.counts  day -> team -> outcome -> {entries, bytes}; what is 0 is left out

Counters are absolute and only grow, and each object has one writer, so that a report that is lost,
repeated or overtaken does no harm. A node that goes leaves its object to the controller, which
folds it into a ledger object. MARK says that this has begun, and which ledger object takes it; from
then on no one else writes there.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sluice import columns, ledger, window

API_VERSION = "tco.io/v1"
KIND = "NodeLogUsage"
FINALIZER = "tco.io/fold-usage"
MARK = "tco.io/folding"
LEDGER_PREFIX = "sluice-ledger-"
LEDGER = f"{LEDGER_PREFIX}0"
# Agents look for proof of a fold in each of them.
LEDGERS_MAX = 16
# Teams in a window of an object: the CRD's maxProperties.
TEAMS_MAX = 2000
# A day's values: the bytes, then outcome counts. A month's: the bytes.
DAY_VALUES = 1 + columns.COUNTS
NONE = [0]


def is_folding(node_usage: Mapping[str, Any]) -> bool:
    """Whether the controller has begun to fold this object: it is nobody's to write any more."""
    return MARK in (node_usage["metadata"].get("annotations") or {})


def is_ledger(name: str) -> bool:
    """Whether an object of this name is the controller's own. Admission keeps nodes off it."""
    return name.startswith(LEDGER_PREFIX)


def folded_into(node_usage: Mapping[str, Any]) -> str | None:
    """The name of the ledger object that MARK says takes this one; None without a mark."""
    mark = (node_usage["metadata"].get("annotations") or {}).get(MARK)
    # Versions with one ledger object marked with "true".
    return LEDGER if mark == "true" else mark


def ledger_name(number: int) -> str:
    """The name of a ledger object; their numbers begin at 0 and leave none out."""
    return f"{LEDGER_PREFIX}{number}"


def counted(status: Mapping[str, Any]) -> ledger.Counted:
    """What a status says was counted."""
    found: ledger.Counted = {}
    for name, teams in _windows(status.get("usage")):
        found[name] = {team: [size] for team, size in teams.items()}
    for name, teams in _windows(status.get("counts")):
        if not name.startswith("d/"):
            continue
        here = found.setdefault(name, {})
        for team, outcomes in teams.items():
            here[team] = [*here.get(team, [0])[:1], *columns.read_outcomes(outcomes)]
    for name, teams in found.items():
        if name.startswith("d/"):
            for team, values in teams.items():
                if len(values) < DAY_VALUES:
                    teams[team] = values + [0] * (DAY_VALUES - len(values))
    return found


def size_of(what: ledger.Counted, name: str, team: str) -> int:
    """Bytes of a team in a window; 0 where there is nothing of it."""
    return what.get(name, {}).get(team, NONE)[0]


def _windows(part: Mapping[str, Any] | None) -> Iterator[tuple[str, Any]]:
    """The windows of a status, and nothing else that somebody may have written into it."""
    for name, teams in (part or {}).items():
        try:
            window.parse_key(name)
        except ValueError:
            continue
        yield name, teams


def status_of(
    what: ledger.Counted, has_counts: Callable[[str, str], bool] = lambda name, team: True
) -> dict[str, Any]:
    """The parts of a status that say what was counted; the other way round of counted().

    Args:
        has_counts: whether to say the outcome counts of a day (by window key) and team too.
    """
    usage = {name: {team: values[0] for team, values in teams.items()}
             for name, teams in what.items()}  # fmt: skip
    counts: dict[str, dict[str, Any]] = {}
    for name, teams in what.items():
        for team, (_, *values) in teams.items():
            if any(values) and has_counts(name, team):
                counts.setdefault(name, {})[team] = outcomes(values)
    return {"usage": usage, "counts": counts}


def outcomes(values: list[int]) -> dict[str, dict[str, int]]:
    """Outcome counts as {"received": {"entries": ..., "bytes": ...}, ...} without the zeros."""
    return {
        outcome: {"entries": values[at], "bytes": values[at + 1]}
        for outcome, at in columns.OUTCOMES.items()
        if values[at] or values[at + 1]
    }


def plus(one: ledger.Counted, other: ledger.Counted) -> ledger.Counted:
    """The sums of both."""
    return combined(one, other, lambda a, b: a + b)


def beyond(one: ledger.Counted, other: ledger.Counted) -> ledger.Counted:
    """What `one` has more than `other`; where it has less, nothing."""
    less = combined(one, other, lambda a, b: max(0, a - b))
    return {
        name: kept
        for name, teams in less.items()
        if (kept := {team: values for team, values in teams.items() if any(values)})
    }


def combined(
    one: ledger.Counted, other: ledger.Counted, how: Callable[[int, int], int]
) -> ledger.Counted:
    """Value by value; one that either lacks is 0."""
    found: ledger.Counted = {}
    for name in one.keys() | other.keys():
        mine, theirs = one.get(name, {}), other.get(name, {})
        zeros = [0] * (DAY_VALUES if name.startswith("d/") else 1)
        found[name] = {
            team: [how(a, b) for a, b in zip(mine.get(team, zeros), theirs.get(team, zeros),
                                             strict=True)]
            for team in mine.keys() | theirs.keys()
        }  # fmt: skip
    return found


def is_extra(node_usage: Mapping[str, Any]) -> bool:
    """Whether an object is that of a second agent pod on its node."""
    metadata = node_usage["metadata"]
    return any(owner["name"] != metadata["name"] for owner in metadata.get("ownerReferences") or ())


def new(node: str, node_uid: str, name: str | None = None) -> dict[str, Any]:
    """The object that an agent creates for its node, which owns it: the node gone, it goes too.

    Args:
        name: if it is not that of the node.
    """
    metadata: dict[str, Any] = {"name": name or node, "finalizers": [FINALIZER]}
    if node_uid:
        owner = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": node_uid}
        metadata["ownerReferences"] = [owner]
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata}
