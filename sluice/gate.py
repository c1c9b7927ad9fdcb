"""The gate: (body, now) -> judgement. The one door between budgets and bytes.

    scan (core) -> assign (here: label string -> row of the ledger) -> judge (core) -> split (core)

What nothing was taken from goes on byte for byte. A judgement has reserved what it forwards;
commit() or refund() ends it, and only then is anything booked.

Threads: any number. Each push works in a scratch of its own, handed back before the caller
talks to upstream, so that pushes that wait hold no decoded bytes.

Memory: what a push needs beside its body is taken from `memory` before it is allocated, and is
given back when the push ends: decoded bytes, index, filtered copy, and what is sent instead of the
body. See docs/decisions/0011.
"""

import contextlib
import functools
import threading
from collections.abc import Iterable, Sequence
from datetime import datetime

import numpy as np
import numpy.typing as npt

from sluice import _core, assign, budget, errors, judgement, ledger, memory, table, usage, window
from sluice.policy import Action
from sluice.scratch import KIND, Scratch
from sluice.wire import loki

MIB = 2**20
# From here on an uncompressed body is sent from the buffer that it was made in: a copy would need
# new pages as well.
DETACHED_LEAST = 4 * MIB
# Bytes for an entry where some are lost, and for a stream and a team until the push ends.
LOST_BYTES, WAITING_BYTES, TEAM_BYTES = 24, 16, 256

Now = float | int | datetime
Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]


class Gate:
    """Judges pushes and (namespace, size) pairs against budgets.

    Args:
        budgets: what to enforce; replaced by load(). None: not known yet, and nothing passes.
        ledger: where to count; None counts in memory.
        max_decoded: bytes that one push may decode to, else TooLarge.
        max_memory: bytes that all pushes may hold, else Unavailable; see memory.Memory.
        namespace_labels: the labels that may name a stream's namespace, first present first.
        exempt_loki_streams: no budget governs the streams that Loki makes itself, see table.Table.
        system_namespace: budgets come from a cluster, and only those in this namespace may govern
            others; None: from a file, and each may.
    """

    def __init__(
        self,
        budgets: Iterable[budget.Budget] | None = (),
        ledger: ledger.Ledger | None = None,
        *,
        max_decoded: int = 64 * MIB,
        max_memory: int = 176 * MIB,
        namespace_labels: Sequence[str] = table.NAMESPACE_LABELS,
        drop_unbudgeted: bool = False,
        exempt_loki_streams: bool = False,
        system_namespace: str | None = None,
    ) -> None:
        self.ledger = new_ledger(drop_unbudgeted) if ledger is None else ledger
        self.apps = usage.Apps()
        self.loki_streams = assign.LokiStreams()
        self._max_decoded = max_decoded
        self.memory = memory.Memory(max_memory)
        self._namespace_labels = tuple(namespace_labels)
        self._exempt_loki_streams = exempt_loki_streams
        self._system_namespace = system_namespace
        self._known_lock = threading.Lock()
        if budgets is not None:
            self.load(budgets)

    def load(self, budgets: Iterable[budget.Budget]) -> table.Table:
        """Enforce these budgets from the next push on; returns their table."""
        new = table.Table(
            budgets,
            trusted=self._system_namespace is None,
            system_namespace=self._system_namespace or table.SYSTEM_NAMESPACE,
            namespace_labels=self._namespace_labels,
            exempt_loki_streams=self._exempt_loki_streams,
        )
        self.ledger.load(new)
        with self._known_lock:
            self._known = assign.Known(self.ledger.rows(), self.apps)
        return new

    def resolve(self, namespaces: Sequence[str]) -> Int32s:
        """int32 [n]: the team that governs each namespace's entries, -1 where none does."""
        rows = self.ledger.rows()
        found = {name: rows.row_of[rows.table.of_namespace(name)] for name in set(namespaces)}
        teams = np.array([found[name] for name in namespaces], np.int32)
        teams[teams == ledger.UNBUDGETED] = -1
        return teams

    def evaluate(
        self, teams: npt.ArrayLike, sizes: npt.ArrayLike, *, now: Now, charge: bool = True
    ) -> npt.NDArray[np.int8]:
        """Judge entries that somebody else forwards; charges allow and throttle in full.

        Args:
            teams: int32 [n], from resolve().
            sizes: int64 [n], bytes, together below 2^63.
            charge: False says what would be, and charges and counts nothing.

        Returns:
            int8 [n] of Action values. What they charge is committed at once as forwarded.

        Raises:
            ValueError, IndexError: a size below 0, or a team that is not one. Nothing was charged.
        """
        rules = self.ledger.rules_at(window.instant(now))
        team = np.ascontiguousarray(teams, np.int32)
        size = np.ascontiguousarray(sizes, np.int64)
        action = np.empty(len(team), np.uint8)
        tally = np.zeros((len(rules.rule), 8), np.int64)
        used = rules.used if charge else rules.used.copy()
        every, charged = np.arange(len(tally), dtype=np.int32), np.zeros(len(tally), np.int64)
        try:
            _core.evaluate(team, size, rules.rule, used, action, tally)
            rows = np.flatnonzero(tally[:, :3].any(axis=1)).astype(np.int32)
            share = ledger.Share(rows, tally[rows, 3], rules.era)
            totals = judgement.batch_totals(tally[rows])
            if charge and len(rows):
                self.ledger.register(share)
        except BaseException:
            np.negative(tally[:, 3], out=charged)
            _core.add(used, every, charged)
            raise
        if charge and len(rows):
            self.ledger.commit(share, totals)
        if self.ledger.drop_unbudgeted:
            action[team < 0] = Action.DROP
        return action.view(np.int8)

    def sample_rate(self, team: int) -> float:
        """The share of a team's entries that are kept in the throttle band."""
        rows = self.ledger.rows()
        for row, own in zip(rows.row_of.tolist(), rows.table.budgets, strict=False):
            if row == team:
                return own.sample_rate
        # Its budget was removed since the team was resolved.
        return 1.0

    def push(
        self,
        body: loki.Body,
        encoding: str | None = "",
        *,
        now: Now,
        dialect: loki.Dialect = loki.Dialect.PROTOBUF,
    ) -> judgement.Judgement:
        """Judge a push and reserve what of it goes on.

        Args:
            body: as received. Its bytes are the caller's: they are not taken from `memory`.
            encoding: its Content-Encoding, "" or None for none.

        Raises:
            BadPush, TooLarge: it cannot be read, or is over a limit.
            Unavailable: pushes hold too much memory right now, or no budgets are loaded.
            In every case nothing was charged and nothing counted.
        """
        rules = self.ledger.rules_at(window.instant(now))
        claim = memory.Claim(self.memory, len(body))
        lent = claim.lend(KIND)
        if lent is not None:
            # There may be room for what this push needs, and none beside what it was lent. That is
            # idle again then, and goes.
            with contextlib.suppress(errors.Unavailable):
                return self._push(body, encoding or "", dialect, rules, lent, claim)
            claim = memory.Claim(self.memory, len(body))
        return self._push(body, encoding or "", dialect, rules, Scratch(), claim)

    def _push(
        self,
        body: loki.Body,
        encoding: str,
        dialect: loki.Dialect,
        rules: ledger.Rules,
        scratch: Scratch,
        claim: memory.Claim,
    ) -> judgement.Judgement:
        """As push(); the scratch is kept for another push."""
        waiting = 0
        scratch.begin(claim)
        try:
            decoded = loki.decode(body, encoding, dialect, self._max_decoded, scratch.decoded)
            judged, waiting = self._judge(body, decoded, dialect, rules, scratch, claim)
        finally:
            claim.end(waiting, KIND, scratch, scratch.end())
        return judged

    def _judge(
        self,
        body: loki.Body,
        decoded: loki.Decoded,
        dialect: loki.Dialect,
        rules: ledger.Rules,
        scratch: Scratch,
        claim: memory.Claim,
    ) -> tuple[judgement.Judgement, int]:
        """The judgement, and the bytes that it holds until it ends."""
        view = decoded.view
        stream, entry, is_mixed = self._scan(view, dialect, scratch)
        known = self._known_for(rules)
        learn = assign.Lookup(known, claim).learn
        team, app = np.empty((2, len(stream)), np.int32)
        found = _core.assign(view, dialect.value, stream, known.owners, learn, team, app)
        rows = np.array(found, np.int32)
        claim.take(TEAM_BYTES * len(rows))
        if known.has_loki_streams:
            totals = stream[:, judgement.STREAM_COUNT : judgement.STREAM_SIZE + 1]
            app = self.loki_streams.count(app, totals)
        tally = np.zeros((len(rows), judgement.TALLY_COLUMNS), np.int64)
        outcome = np.zeros(len(entry), np.uint8)
        # All that may fail is made before anything is charged.
        share = ledger.Share(rows, np.zeros(len(rows), np.int64), rules.era)
        judged = judgement.Judgement(self.ledger, share, tally, claim)
        kept_bytes = tally[:, judgement.KEPT_BYTES]
        try:
            _core.judge(
                *(view, dialect.value, stream, entry, team, rows),
                *(rules.rule, rules.used, outcome, tally),
            )
            share.reserved[:] = kept_bytes
            self.ledger.register(share)
        except BaseException:
            np.negative(kept_bytes, out=share.reserved)
            _core.add(rules.used, rows, share.reserved)
            raise
        waiting = WAITING_BYTES * len(stream) + TEAM_BYTES * len(rows)
        try:
            outcomes = tally[:, judgement.KEPT_ENTRIES : judgement.TALLY_DRY : 2]
            kept_entries, *lost_entries = np.add.reduce(outcomes).tolist()
            lost = sum(lost_entries)
            filtered = (stream, entry, outcome) if lost or is_mixed else None
            kept = stream[:, judgement.STREAM_SIZE].copy()
            if lost:
                claim.take(LOST_BYTES * len(entry))
                kept = judgement.kept_per_stream(stream, entry, outcome)
            if kept_entries or not filtered:
                judged.body, judged.encoding, held = self._forwarded(
                    body, decoded, dialect, filtered, scratch, claim
                )
                waiting += held
            judged.by_app = functools.partial(self.apps.add, app, kept)
        except BaseException:
            judged.cancel()
            raise
        return judged, waiting

    def _known_for(self, rules: ledger.Rules) -> assign.Known:
        """What is known of label strings under these rules' table."""
        known = self._known
        if known.rules.table is not rules.table:
            return assign.Known(rules, self.apps)
        if known.turn == self.apps.turns:
            return known
        new = assign.Known(rules, self.apps)
        with self._known_lock:
            # load() may have been faster.
            if self._known is known:
                self._known = new
        return new

    def _scan(
        self, view: memoryview, dialect: loki.Dialect, scratch: Scratch
    ) -> tuple[Int64s, Int64s, bool]:
        """Scan into the scratch's rows.

        Returns:
            Rows of streams and entries, and whether Loki would read more than they say.
        """
        while True:
            is_mixed = False
            if dialect is loki.Dialect.PROTOBUF:
                streams, entries = _core.scan_push(view, scratch.stream, scratch.entry)
            else:
                streams, entries, is_mixed = _core.scan_json(
                    view, dialect is loki.Dialect.LEGACY, scratch.stream, scratch.entry
                )
            if scratch.fits(streams, entries):
                return scratch.stream[:streams], scratch.entry[:entries], is_mixed

    def _forwarded(
        self,
        body: loki.Body,
        decoded: loki.Decoded,
        dialect: loki.Dialect,
        filtered: tuple[Int64s, Int64s, npt.NDArray[np.uint8]] | None,
        scratch: Scratch,
        claim: memory.Claim,
    ) -> tuple[loki.Body, str, int]:
        """What goes on, its Content-Encoding, and the bytes that it holds beside the body.

        Args:
            filtered: rows and outcomes; None: all of the push goes on.
        """
        view = decoded.view
        if filtered is None:
            if decoded.as_received:
                return body, decoded.encoding, 0
            claim.take(loki.encoded_max(len(view)))
            made, encoding = loki.encode(view, dialect, compressed=True)
            return made, encoding, len(made)
        out = scratch.filtered.room(len(view) + 64 * len(filtered[0]) + 64)
        size = _core.split(view, dialect.value, *filtered, out)
        if dialect is not loki.Dialect.PROTOBUF and not decoded.encoding and size > DETACHED_LEAST:
            left, held = scratch.filtered.detached(size)
            return left, "", held
        if len(view) > memory.PART_BYTES:
            # It is not read any more, nor kept, and what follows needs as much again.
            view.release()
            scratch.decoded.trim(memory.PART_BYTES)
        claim.take(loki.encoded_max(size))
        made, encoding = loki.encode(out[:size], dialect, compressed=bool(decoded.encoding))
        return made, encoding, len(made)


def new_ledger(drop_unbudgeted: bool) -> ledger.Ledger:
    """A ledger in memory."""
    return ledger.Ledger(drop_unbudgeted=drop_unbudgeted)
