"""Prometheus as the keeper of records: one that scrapes `run`, or the agents and the controller.

Whole numbers come out where they can be had. increase() guesses what lies between the ends of its
range and the samples in it; here a value is subtracted from the one before it, so that steps add
up to what was counted, to the byte. Only where a counter began anew is increase() left.
"""

import base64
import contextlib
import http.client
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import orjson
import urllib3

from sluice import errors
from sluice.dashboard import counted
from sluice.records import Event, NotKept, Place, Point

# What Prometheus gives at most. Source: web/api/v1/api.go, query_range.
POINTS_MAX = 11_000
# The same question within this time is asked once.
CACHE_S = 5
# A failure is not found out anew for so long, from its end on.
FAILED_S = 10
# Questions at a time, and how long others wait for the answer to the same one.
ASKING_MAX, PATIENCE_S = 4, 2.0
MS = 1000
# How far back the value before a step is looked for: scrapes may fail for so long.
BACK_S = 3600
# The longest time between two scrapes that is reckoned with: what Prometheus looks back by itself.
SCRAPE_S = 300
# Bytes of an answer: a point has less than 100 in each of at most 6 series.
ANSWER_MAX = 16 * 2**20
# Bytes shown of an answer that is not JSON.
SAMPLE = 80
OUTCOMES = ("forwarded", "sampled", "dropped", "refused")
NO_ANSWER = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)

# By window, at each step's end. Several controllers say the same, or one of them is late.
USED = "max by (window) (last_over_time(tco_budget_used_bytes{team}[{inside}ms]))"
# By outcome, in each step. These counters outlive their process, so that one that is new has
# counted before: only what comes after its first sample is known.
COUNTED = """sum by (outcome) (
  (
    last_over_time({counter}[{inside}ms])
    - (last_over_time({counter}[{back}s] offset {step}s) or min_over_time({counter}[{inside}ms]))
  ) unless resets({counter}[{reach}s]) > 0
  or increase({counter}[{step}s])
)"""
# By application or by source, since {length} seconds. These counters begin with their process. One
# that was not there then has counted all of it since, if its process was scraped then, or has begun
# since; a job that wrote once and ended has no other sample.
GREW = """sum by ({label}) (
  (last_over_time({counter}[{length}s]) - last_over_time({counter}[{scrape}s] offset {length}s))
    unless resets({counter}[{length}s]) > 0
  or (last_over_time({counter}[{length}s]) unless resets({counter}[{length}s]) > 0)
    and on (job, instance) (
      last_over_time(process_start_time_seconds[{length}s]) >= {start}
      or last_over_time(process_start_time_seconds[{scrape}s] offset {length}s)
    )
  or (last_over_time({counter}[{length}s]) - min_over_time({counter}[{length}s]))
    unless resets({counter}[{length}s]) > 0
  or increase({counter}[{length}s])
)"""

# Labels, and (epoch seconds, value) in order.
Series = tuple[Mapping[str, str], Sequence[tuple[float, str]]]


@dataclass(slots=True)
class Asked:
    """A question that was asked at `at` (epoch seconds); its answer lasts so long from then."""

    at: float
    lasts_s: float = CACHE_S
    answer: futures.Future[list[Series]] = field(default_factory=futures.Future)


class Prometheus:
    """The Records of a Prometheus.

    Args:
        url: http or https, with the prefix of its paths if it has one; a user and a password in it
            are sent as basic authentication, and shown to nobody.
        timeout_s: seconds for its answer.
        clock: epoch seconds.

    Raises:
        BadRequest: `url` cannot be used.

    Threads: any number.
    """

    def __init__(
        self, url: str, *, timeout_s: float = 5, clock: Callable[[], float] = time.time
    ) -> None:
        self._url, self._headers = without_credentials(url)
        self._timeout_s, self._clock = timeout_s, clock
        self._places = threading.BoundedSemaphore(ASKING_MAX)
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=timeout_s, read=timeout_s), retries=False
        )
        self._lock = threading.Lock()
        self._asked: dict[tuple[str, tuple[tuple[str, str], ...]], Asked] = {}

    def history(self, key: str, start: int, end: int, step_s: int) -> Sequence[Point]:
        """See records.Records.

        Raises:
            BadRequest: more points than Prometheus gives. Unavailable: it does not answer.
        """
        first = (start // step_s + 1) * step_s
        last = min(end, int(self._clock())) // step_s * step_s
        if last < first:
            return []
        count = (last - first) // step_s + 1
        if count > POINTS_MAX:
            raise errors.BadRequest(
                f"{count} points of {step_s} seconds each: Prometheus gives at most {POINTS_MAX}"
            )
        span = {"start": str(first), "end": str(last), "step": str(step_s)}
        team = selector(key)
        # A sample at the very end of the step before is that one's.
        inside = step_s * MS - 1
        used = filled(USED, team=team, inside=inside)
        reach = {"step": step_s, "inside": inside, "back": BACK_S, "reach": step_s + SCRAPE_S}
        log_bytes = filled(COUNTED, counter=f"tco_log_bytes_total{team}", **reach)
        return points(
            self._ask("query_range", {"query": used, **span}),
            self._ask("query_range", {"query": log_bytes, **span}),
        )

    def top(self, key: str, start: int, count: int) -> tuple[Sequence[Place], Sequence[Place]]:
        """See records.Records.

        Raises:
            Unavailable: Prometheus does not answer.
        """
        now = int(self._clock()) // CACHE_S * CACHE_S
        if now <= start:
            return [], []
        since = {"start": start, "length": now - start, "scrape": SCRAPE_S}

        def places(name: str, label: str) -> Sequence[Place]:
            query = filled(GREW, counter=f"{name}{selector(key)}", label=label, **since)
            found = self._ask("query", {"query": query, "time": str(now)})
            sizes = [(labels.get(label, ""), whole(values[-1][1])) for labels, values in found]
            return counted.largest((one for one in sizes if one[1]), count)

        return places("tco_source_bytes_total", "source"), places("tco_app_bytes_total", "app")

    def events(self, key: str | None, count: int) -> Sequence[Event]:
        """Never any: Prometheus keeps numbers."""
        raise NotKept("Prometheus keeps no events")

    def _ask(self, path: str, fields: Mapping[str, str]) -> list[Series]:
        """What a query finds; asked once for all who ask within CACHE_S.

        A Prometheus that hangs must not hang what does not need it: few threads may wait for it.
        """
        question, now = (path, tuple(fields.items())), self._clock()
        with self._lock:
            asked = self._asked.get(question)
            if asked is not None and (is_fresh(asked, now) or not asked.answer.done()):
                is_mine = False
            else:
                self._asked = {q: one for q, one in self._asked.items() if is_fresh(one, now)}
                asked, is_mine = Asked(now), True
                self._asked[question] = asked
        if is_mine:
            try:
                if not self._places.acquire(blocking=False):
                    raise self._unavailable(f"{ASKING_MAX} questions wait for it already")
                try:
                    asked.answer.set_result(self._answer(path, fields))
                finally:
                    self._places.release()
            except BaseException as error:
                # Those who wait, and those who come at once, need not find out for themselves.
                asked.at, asked.lasts_s = self._clock(), FAILED_S
                asked.answer.set_exception(error)
        try:
            return asked.answer.result(None if is_mine else PATIENCE_S)
        except TimeoutError:
            raise self._unavailable(f"no answer within {PATIENCE_S:g} s, and others wait") from None

    def _answer(self, path: str, fields: Mapping[str, str]) -> list[Series]:
        fields = {**fields, "timeout": f"{self._timeout_s:g}s"}
        with self._failures():
            response = self._pool.request(
                "POST",
                f"{self._url}/api/v1/{path}",
                body=urllib.parse.urlencode(fields),
                headers={"Content-Type": "application/x-www-form-urlencoded", **self._headers},
                preload_content=False,
            )
            # Whole, and the connection is kept for the next question; else it is closed.
            with contextlib.closing(response):
                body = response.read(ANSWER_MAX + 1)
        if len(body) > ANSWER_MAX:
            raise self._unavailable(f"an answer of more than {ANSWER_MAX} bytes")
        try:
            answer: Any = orjson.loads(body)
            if answer["status"] != "success":
                kind, text = answer.get("errorType", "error"), answer.get("error", "")
                raise self._unavailable(f"status {response.status}, {kind}: {text}")
            return [read(one) for one in answer["data"]["result"]]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            shown = body[:SAMPLE].decode(errors="replace")
            raise self._unavailable(
                f"status {response.status}, no answer of Prometheus' but {shown!r}"
            ) from None

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except NO_ANSWER as error:
            words = f"{type(error).__name__}: {' '.join(str(error).split())}"
            # One that is refused is a child of this class, too.
            late = (urllib3.exceptions.ReadTimeoutError, urllib3.exceptions.ConnectTimeoutError)
            if type(error) in late:
                words = f"no answer within {self._timeout_s:g} s"
            raise self._unavailable(words) from error

    def _unavailable(self, words: str) -> errors.Unavailable:
        return errors.Unavailable(f"Prometheus {self._url}: {words}")


def without_credentials(url: str) -> tuple[str, dict[str, str]]:
    """A URL that may be shown, and the headers with what was taken out of it."""
    refusal = errors.BadRequest("Prometheus: not an http:// or https:// URL")
    try:
        parts = urllib.parse.urlsplit(url)
        # Asking for the port checks it.
        has_port = parts.port != 0
    except ValueError:
        raise refusal from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not has_port:
        raise refusal
    if parts.query or parts.fragment:
        raise errors.BadRequest("Prometheus: a URL with a query or a fragment")
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    if parts.username is None:
        return shown, {}
    given = urllib.parse.unquote(f"{parts.username}:{parts.password or ''}").encode()
    return shown, {"Authorization": f"Basic {base64.b64encode(given).decode()}"}


def selector(key: str) -> str:
    """The labels of a team's series."""
    namespace, _, name = key.rpartition("/")
    return f'{{team="{escaped(name)}",namespace="{escaped(namespace)}"}}'


def escaped(text: str) -> str:
    """Text as it stands between double quotes in PromQL: no more than letters as they are.

    Prometheus takes Go's escapes, and refuses U+FFFD as it is.
    """
    return "".join(
        c if c.isascii() and c.isalnum() else f"\\U{ord(c):08x}"
        for c in text.encode("utf-8", "replace").decode()
    )


def filled(query: str, **parts: object) -> str:
    """A query with its {parts}; its own braces are in them."""
    for name, value in parts.items():
        query = query.replace(f"{{{name}}}", str(value))
    return query


def is_fresh(asked: Asked, now: float) -> bool:
    """Whether a question was asked just now; not in the future, by a clock that was put back."""
    return 0 <= now - asked.at < asked.lasts_s


def read(found: Mapping[str, Any]) -> Series:
    """A series of an answer, of either kind of query."""
    values = found["values"] if "values" in found else [found["value"]]
    return found["metric"], [(float(at), value) for at, value in values]


def whole(value: str) -> int:
    """A value as a number of bytes; Prometheus calculates with floats."""
    number = float(value)
    return max(0, round(number)) if abs(number) < float("inf") else 0


def points(used: Sequence[Series], grew: Sequence[Series]) -> list[Point]:
    """Points where usage is known; bytes of the steps in between are in the next one's."""
    usages: dict[int, dict[str, int]] = {}
    sizes: dict[int, dict[str, int]] = {}
    for series, label, into in ((used, "window", usages), (grew, "outcome", sizes)):
        for labels, values in series:
            for at, value in values:
                into.setdefault(int(at), {})[labels.get(label, "")] = whole(value)
    found, waiting = [], dict.fromkeys(OUTCOMES, 0)
    for at in sorted(usages.keys() | sizes.keys()):
        for outcome in OUTCOMES:
            waiting[outcome] += sizes.get(at, {}).get(outcome, 0)
        if at in usages:
            here = usages[at]
            found.append(Point(at, here.get("day", 0), here.get("month", 0), **waiting))
            waiting = dict.fromkeys(OUTCOMES, 0)
    return found
