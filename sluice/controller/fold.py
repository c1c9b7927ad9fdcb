"""Folding: the counts of a node that is gone move into a ledger object, exactly once.

    1. mark    the object gets MARK, which names the ledger object that takes it. Its agent, if it
               still runs, leaves it alone from then on
    2. fold    the ledger object takes its counts and its uid in one write
    3. let go  the finalizer is removed, and the API server deletes the object
    4. forget  once it is gone, its uid leaves the ledger object's `merged`

Every write names the version that it replaces. A crash between two steps repeats the next one: a
marked object does not change, and one whose uid is in the ledger object is not added again. Two
leaders that overlap for a moment agree on the ledger object, because the mark was written first.

A ledger object that is to be deleted is folded into another one in the same way.
"""

import logging
from collections.abc import Callable, Mapping

from sluice import nodeusage
from sluice.controller.ledgers import Ledgers, Object, Part, holds
from sluice.kube import client

log = logging.getLogger("sluice.controller")


# What concerns all calls; anything else is about one object.
PASSING = (
    *(client.Unreachable, client.Throttled, client.Unauthorized),
    client.Terminating,
)


def fold(
    api: client.Api,
    judged: Mapping[str, int],
    now: float,
    failed: Callable[[str, client.ApiError], object] = lambda name, error: None,
) -> list[str]:
    """Fold objects, as far as they are still to be deleted.

    Args:
        judged: the version of each, by name, whose agent was found to have stopped. One that has
            been written since is left alone: its agent may not know yet that this write arrived,
            and would report it again under another object.
        failed: is called for each that is not folded, with the reason; the others do not wait.

    Returns:
        The names of those that were folded and let go.

    Raises:
        client.Terminating: the CRD is being deleted, and so is every object.
        client.ApiError: the API server does not answer; what is left is done by the next fold().
    """
    books, done = Ledgers(api, now), []
    for name, version in judged.items():
        try:
            if _fold_one(api, books, name, version):
                done.append(name)
        except client.ApiError as error:
            failed(name, error)
            if isinstance(error, PASSING):
                raise
    return done


def _fold_one(api: client.Api, books: Ledgers, name: str, version: int) -> bool:
    found = api.node_usage(name)
    if found is None or not _is_to_be_folded(found):
        return False
    is_marked, is_ledger = nodeusage.is_folding(found), nodeusage.is_ledger(name)
    if not (is_marked or is_ledger) and int(found["metadata"]["resourceVersion"]) != version:
        return False
    part = Part.of(found)
    if not _is_folded(books, found):
        home = _marked_home(books, found, part)
        if home is None:
            home = books.home_for(part)
            found = _mark(api, found, home["metadata"]["name"])
        books.take_in(home, part)
    _let_go(api, found)
    log.info("folded NodeLogUsage/%s, which is to be deleted", name)
    return True


def _is_to_be_folded(found: Object) -> bool:
    return "deletionTimestamp" in found["metadata"] and _has_finalizer(found)


def _has_finalizer(found: Object) -> bool:
    return nodeusage.FINALIZER in (found["metadata"].get("finalizers") or ())


def _is_folded(books: Ledgers, found: Object) -> bool:
    """Whether a ledger object counts this one: only that of its mark, or what took that one in."""
    name, uid = nodeusage.folded_into(found), found["metadata"]["uid"]
    if name is None:
        return False
    home = books.usable(name)
    if home is None:
        return books.holder_of(uid) is not None
    return holds(home, uid)


def _marked_home(books: Ledgers, found: Object, part: Part) -> Object | None:
    """The ledger object that the mark names, if it can take this; else none ever will by it."""
    name = nodeusage.folded_into(found)
    home = None if name is None else books.usable(name)
    if home is None or books.status_with(home, part) is not None:
        return home
    # Another leader may have read the old mark, and be about to write there.
    books.touch(home)
    return None


def _mark(api: client.Api, found: Object, home: str) -> Object:
    metadata = found["metadata"]
    marks = {**(metadata.get("annotations") or {}), nodeusage.MARK: home}
    return api.put_node_usage({**found, "metadata": {**metadata, "annotations": marks}})


def _let_go(api: client.Api, found: Object) -> None:
    """Remove the finalizer from this version of the object."""
    metadata = found["metadata"]
    finalizers = [name for name in metadata["finalizers"] if name != nodeusage.FINALIZER]
    try:
        api.put_node_usage({**found, "metadata": {**metadata, "finalizers": finalizers}})
    except client.NotFound:
        log.info("NodeLogUsage/%s is gone already", metadata["name"])


def restore(books: Ledgers, name: str, part: Part) -> None:
    """Write a ledger object again that went without being folded."""
    if books.holder_of(part.uid) is not None:
        return
    # Of two leaders that both miss it one creates the object, and the other sees it.
    home = books.usable(name) or books.make(name)
    if books.status_with(home, part) is None:
        home = books.home_for(part)
    books.take_in(home, part)
    log.warning("NodeLogUsage/%s was gone with all that it held: written again", name)


def forget(books: Ledgers, name: str, is_there: Callable[[str], bool], seen: int) -> None:
    """Take the uids of objects that are gone off the `merged` of a ledger object.

    Args:
        is_there: whether an object with this uid exists.
        seen: the resource version of which it knows. An object that was made and folded later
            would be taken for one that is gone, and be folded twice.
    """
    book = books.usable(name)
    if book is None or int(book["metadata"]["resourceVersion"]) > seen:
        return
    merged = list((book.get("status") or {}).get("merged") or ())
    kept = [uid for uid in merged if is_there(uid)]
    if kept != merged:
        books.keep_merged(book, kept)


def release(api: client.Api, name: str) -> bool:
    """Take the finalizer off an object that is not to be folded; whether it had one."""
    found = api.node_usage(name)
    while found is not None and _has_finalizer(found):
        try:
            _let_go(api, found)
        except client.Conflict:
            found = api.node_usage(name)
        else:
            return True
    return False


def release_all(api: client.Api) -> int:
    """Take the finalizer off every NodeLogUsage, for an uninstall; returns how many had it."""
    return sum(release(api, found["metadata"]["name"]) for found in api.node_usages())
