"""Folding: the counts of a node that is gone move into the ledger object, exactly once.

    1. mark    the object gets MARK; its agent, should it live, leaves it alone from then on
    2. fold    the ledger object takes its counts and its uid in one write
    3. let go  the finalizer is removed, and the API server deletes the object
    4. forget  once it is gone, its uid leaves the ledger object

Every write names the version that it replaces. A crash between two steps repeats the next one: a
marked object does not change, and one whose uid is in the ledger object is not added again.
"""

import datetime
import logging
from collections.abc import Callable, Mapping
from typing import Any

from sluice import ledger, nodeusage, window
from sluice.columns import COUNT_MAX
from sluice.kube import client

log = logging.getLogger("sluice.controller")

# Every zone's yesterday, today and tomorrow are among these days around UTC's.
DAYS_BEHIND, DAYS_AHEAD = 3, 2

Object = dict[str, Any]


def fold(api: client.Api, judged: Mapping[str, int], now: float) -> list[str]:
    """Fold objects, as far as they are still to be deleted.

    Args:
        judged: the version of each, by name, whose agent was found to have stopped. One that has
            been written since is left alone: its agent may not know yet that this write arrived,
            and would report it again under another object.

    Returns:
        The names of those that were folded and let go.

    Raises:
        client.ApiError: the API server does not answer; what is left is done by the next fold().
    """
    done = []
    for name, version in judged.items():
        try:
            if _fold_one(api, name, version, now):
                done.append(name)
        except (client.Unreachable, client.Throttled, client.Unauthorized):
            raise
        except client.ApiError as error:
            # The others are not to wait for it.
            log.warning("NodeLogUsage/%s is not folded: %s", name, error.message)
    return done


def _fold_one(api: client.Api, name: str, version: int, now: float) -> bool:
    found = _marked(api, name, version)
    if found is None:
        return False
    _take_in(api, found, now)
    _let_go(api, found)
    log.info("folded NodeLogUsage/%s of a node that is gone", name)
    return True


def _marked(api: client.Api, name: str, version: int) -> Object | None:
    """The object with its mark, or None if it is not, or not any more, to be folded."""
    found = api.node_usage(name)
    if found is None or not _is_ours_to_fold(found):
        return None
    if nodeusage.is_folding(found):
        return found
    metadata = found["metadata"]
    if int(metadata["resourceVersion"]) != version:
        return None
    marks = {**(metadata.get("annotations") or {}), nodeusage.MARK: "true"}
    return api.put_node_usage({**found, "metadata": {**metadata, "annotations": marks}})


def _is_ours_to_fold(found: Object) -> bool:
    return "deletionTimestamp" in found["metadata"] and _has_finalizer(found)


def _has_finalizer(found: Object) -> bool:
    return nodeusage.FINALIZER in (found["metadata"].get("finalizers") or ())


def _take_in(api: client.Api, found: Object, now: float) -> None:
    """Add the counts of an object that is not in the ledger object yet, in one write."""
    book = ledger_object(api)
    status = book.get("status") or {}
    merged = list(status.get("merged") or ())
    uid = found["metadata"]["uid"]
    if uid not in merged:
        theirs = recent(nodeusage.counted(found.get("status") or {}), now)
        ours = recent(nodeusage.counted(status), now)
        sums = nodeusage.combined(ours, theirs, lambda a, b: min(COUNT_MAX, a + b))
        _write(api, book, [*merged, uid], sums, now)


def _let_go(api: client.Api, found: Object) -> None:
    """Remove the finalizer from the version that was folded."""
    metadata = found["metadata"]
    finalizers = [name for name in metadata["finalizers"] if name != nodeusage.FINALIZER]
    try:
        api.put_node_usage({**found, "metadata": {**metadata, "finalizers": finalizers}})
    except client.NotFound:
        log.info("NodeLogUsage/%s is gone already", metadata["name"])


def forget(api: client.Api, is_there: Callable[[str], bool], seen: int, now: float) -> None:
    """Take the uids of objects that are gone off the ledger object.

    Args:
        is_there: whether an object with this uid exists.
        seen: the resource version of which it knows. An object that was made and folded later
            would be taken for one that is gone, and be folded twice.
    """
    book = api.node_usage(nodeusage.LEDGER)
    if book is None or int(book["metadata"]["resourceVersion"]) > seen:
        return
    status = book.get("status") or {}
    merged = list(status.get("merged") or ())
    kept = [uid for uid in merged if is_there(uid)]
    if kept != merged:
        _write(api, book, kept, recent(nodeusage.counted(status), now), now)


def ledger_object(api: client.Api) -> Object:
    """The ledger object; made if there is none."""
    found = api.node_usage(nodeusage.LEDGER)
    if found is not None:
        return found
    metadata = {"name": nodeusage.LEDGER}
    return api.create_node_usage(
        {"apiVersion": nodeusage.API_VERSION, "kind": nodeusage.KIND, "metadata": metadata}
    )


def _write(
    api: client.Api, book: Object, merged: list[str], sums: ledger.Counted, now: float
) -> None:
    status = {
        "instance": "sluice-controller",
        "seq": (book.get("status") or {}).get("seq", 0) + 1,
        "reportedAt": window.iso(now),
        "merged": merged,
        **nodeusage.status_of(sums),
    }
    api.put_node_usage_status({**book, "status": status})


def recent(sums: ledger.Counted, now: float) -> ledger.Counted:
    """The windows that may be open somewhere, and the last few: an object has room for 16.

    Not those that a clock far ahead has counted into.
    """
    today = datetime.datetime.fromtimestamp(now, datetime.UTC).date().toordinal()
    month = window.open_windows("UTC", now).month
    kept = {window.day_key(today + ahead) for ahead in range(-DAYS_BEHIND, DAYS_AHEAD + 1)}
    kept |= {window.month_key(month + ahead) for ahead in (-1, 0, 1)}
    return {name: teams for name, teams in sums.items() if name in kept}


def release_all(api: client.Api) -> int:
    """Take the finalizer off every NodeLogUsage, for an uninstall; returns how many had it."""
    return sum(_released(api, found) for found in api.node_usages())


def _released(api: client.Api, listed: Object) -> bool:
    found: Object | None = listed
    while found is not None and _has_finalizer(found):
        try:
            _let_go(api, found)
        except client.Conflict:
            found = api.node_usage(listed["metadata"]["name"])
        else:
            return True
    return False
