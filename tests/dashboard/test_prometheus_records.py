"""Records from Prometheus: the real one, over samples made for it and over a real Sluice."""

import base64
import contextlib
import http.server
import json
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from harness import Sluice, Upstream, budget, running, wait_until
from monitoring.harness import Prometheus, program
from shippers import Entry, Stream, promtail

from sluice import errors
from sluice.dashboard import prometheus
from sluice.records import NotKept, Place

KEY = "default/shop"
SCRAPE_S, STEP_S, HOUR_S = 15, 60, 3600
# Names that would end a string, or the query, if they were not escaped.
HOSTILE = 'a"} or {x="\\'
STRANGE = "ünïcode \\n new\nline \ufffd \U0001f600 {team} {step}"

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], list[tuple[int, int]]]


def series(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    own = {"team": "shop", "namespace": "default", "job": "sluice", "instance": "node-1", **labels}
    return name, tuple(sorted(own.items()))


def open_metrics(samples: Samples) -> str:
    """The samples as promtool reads them."""

    def quoted(value: str) -> str:
        for plain, written in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n")):
            value = value.replace(plain, written)
        return f'"{value}"'

    lines = []
    for (name, labels), values in sorted(samples.items()):
        shown = ",".join(f"{label}={quoted(value)}" for label, value in labels)
        lines += [f"{name}{{{shown}}} {value} {at}" for at, value in values]
    return "\n".join([*lines, "# EOF\n"])


@contextlib.contextmanager
def filled(folder: Path, samples: Samples) -> Iterator[Prometheus]:
    """A Prometheus that scrapes nobody, and has these samples."""
    folder.mkdir()
    text = folder / "samples.txt"
    text.write_text(open_metrics(samples))
    promtool = program("promtool")
    assert promtool
    command = [promtool, "tsdb", "create-blocks-from", "openmetrics", text, folder / "data"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    server = Prometheus(folder, {})
    with running(server):
        yield server


def recent() -> int:
    """A full hour some hours ago: Prometheus has no other past."""
    return int(time.time()) // HOUR_S * HOUR_S - 6 * HOUR_S


@pytest.mark.prometheus
def test_steps_add_up_to_what_was_counted_whatever_happens_between(tmp_path: Path) -> None:
    """Two agents; scrapes fail for a while, one agent gets another address, one ledger is lost."""
    rng = random.Random(5)
    start, samples = recent(), Samples()
    end = start + 2 * HOUR_S
    # What each agent has counted before, by outcome; it goes on with another address.
    total = {"node-1": 10**12, "node-2": 7 * 10**11}
    wanted: dict[int, int] = {}
    for at in range(start, end + 1, SCRAPE_S):
        step = -(-at // STEP_S) * STEP_S
        is_gap = start + 1800 < at <= start + 3000
        if not is_gap:
            day = at - start + 5_000_000_000_000
            for window, used in (("day", day), ("month", 3 * day)):
                one = series("tco_budget_used_bytes", window=window, instance="controller")
                samples.setdefault(one, []).append((at, used))
        for node in total:
            grown = rng.randrange(10**9) if at > start else 0
            total[node] += grown
            if is_gap:
                # In the first scrape after the gap.
                wanted[start + 3060] = wanted.get(start + 3060, 0) + grown
                continue
            address = "node-2-again" if node == "node-2" and at > start + 5400 else node
            is_first = address == "node-2-again" and at == start + 5400 + SCRAPE_S
            # Of a new series only growth is known.
            wanted[step] = wanted.get(step, 0) + (0 if is_first else grown)
            one = series("tco_log_bytes_total", outcome="forwarded", instance=address)
            samples.setdefault(one, []).append((at, total[node]))
            for outcome, value in (("sampled", 5), ("dropped", at - start), ("refused", 0)):
                one = series("tco_log_bytes_total", outcome=outcome, instance=address)
                samples.setdefault(one, []).append((at, value))
    with filled(tmp_path / "prometheus", samples) as server:
        past = prometheus.Prometheus(server.url)
        points = past.history(KEY, start, end, STEP_S)
        assert [one.at for one in points] == [
            at
            for at in range(start + STEP_S, end + 1, STEP_S)
            if not start + 1860 <= at <= start + 3000
        ]
        assert {one.at: one.forwarded for one in points} == {
            at: size for at, size in wanted.items() if at > start
        }
        assert all(one.day_usage == one.at - start + 5_000_000_000_000 for one in points)
        assert all(one.month_usage == 3 * one.day_usage for one in points)
        assert {(one.sampled, one.refused) for one in points} == {(0, 0)}
        coarse = past.history(KEY, start, end, 900)
        assert sum(one.forwarded for one in coarse) == sum(one.forwarded for one in points)
        assert past.history("default/nobody", start, end, STEP_S) == []


@pytest.mark.prometheus
def test_a_counter_that_begins_anew_makes_no_step_negative_or_huge(tmp_path: Path) -> None:
    start, samples = recent(), Samples()
    end, lost = start + HOUR_S, start + 1800 + 4
    for at in range(start, end + 1, SCRAPE_S):
        value = 10**12 + (at - start) * 1000 if at < lost else (at - lost) * 1000
        samples.setdefault(series("tco_log_bytes_total", outcome="forwarded"), []).append(
            (at, value)
        )
        samples.setdefault(series("tco_budget_used_bytes", window="day"), []).append((at, value))
    with filled(tmp_path / "prometheus", samples) as server:
        points = prometheus.Prometheus(server.url).history(KEY, start, end, STEP_S)
        away = [one for one in points if abs(one.at - lost) > prometheus.SCRAPE_S + STEP_S]
        assert {one.forwarded for one in away} == {STEP_S * 1000}
        assert all(0 < one.forwarded < 2 * STEP_S * 1000 for one in points)
        assert sum(one.forwarded for one in points) == pytest.approx(HOUR_S * 1000, rel=0.02)


@pytest.mark.prometheus
def test_the_top_counts_what_began_ended_or_wrote_once_since(tmp_path: Path) -> None:
    start, samples = recent(), Samples()
    now = start + 2 * HOUR_S

    def put(name: str, begin: int, until: int, value: Callable[[int], int], **labels: str) -> None:
        samples[series(name, **labels)] = [
            (at, value(at)) for at in range(begin, until + 1, SCRAPE_S)
        ]

    def put_app(app: str, begin: int, until: int, value: Callable[[int], int], node: str) -> None:
        put("tco_app_bytes_total", begin, until, value, app=app, instance=node)
        put("tco_source_bytes_total", begin, until, value, source=f"ns-{app}", instance=node)

    before, later = start - HOUR_S, start + HOUR_S
    for node, begun in (("node-1", before), ("node-2", later), ("node-3", before)):
        first = start + 1800 if node == "node-3" else begun
        put("process_start_time_seconds", first, now, lambda at, b=begun: b, instance=node)
    put_app("steady", before, now, lambda at: 10**12 + at - start, "node-1")
    put_app("steady", later, now, lambda at: 50 + at - later, "node-2")
    put_app("ended", before, start + 600, lambda at: 900 + at - start, "node-1")
    put_app("job", start + 900, now, lambda at: 7777, "node-1")
    put_app("late job", later + 60, now, lambda at: 33, "node-2")
    # Nobody knows what this one had counted when Prometheus heard of it first.
    put_app("unknown", start + 1800, now, lambda at: 10**15, "node-3")
    put_app("idle", before, now, lambda at: 5, "node-1")
    # Began anew in the middle: the bytes on both sides count, as increase() sees them.
    put_app("anew", before, now, lambda at: at % HOUR_S + 1, "node-4")
    put_app("not ours", before, now, lambda at: at - before, "node-1")
    moved = series("tco_app_bytes_total", app="not ours")
    samples[series("tco_app_bytes_total", app="theirs", team="other")] = samples.pop(moved)
    samples.pop(series("tco_source_bytes_total", source="ns-not ours"))
    with filled(tmp_path / "prometheus", samples) as server:
        past = prometheus.Prometheus(server.url, clock=lambda: now + 2.5)
        sources, apps = past.top(KEY, start, 10)
        exact = {one.name: one.size for one in apps if one.name != "anew"}
        assert exact == {
            "steady": 2 * HOUR_S + 50 + HOUR_S,
            "ended": 600,
            "job": 7777,
            "late job": 33,
        }
        anew = next(one for one in apps if one.name == "anew")
        assert anew.size == pytest.approx(2 * HOUR_S, rel=0.02)
        assert [(f"ns-{one.name}", one.size) for one in apps] == [
            (one.name, one.size) for one in sources
        ]
        assert [one.size for one in apps] == sorted((one.size for one in apps), reverse=True)
        assert past.top(KEY, start, 2) == (sources[:2], apps[:2])
        assert past.top(KEY, now + 10, 2) == ([], [])


@pytest.mark.prometheus
@pytest.mark.parametrize("name", [HOSTILE, STRANGE])
def test_hostile_names_find_their_own_series_and_no_other(tmp_path: Path, name: str) -> None:
    start, samples = recent(), Samples()
    for at in range(start, start + 601, SCRAPE_S):
        own = {"team": name, "namespace": name, "instance": "node-1"}
        for one, value in (
            (series("tco_budget_used_bytes", window="day", **own), 5),
            (series("tco_app_bytes_total", app=name, **own), at),
            (series("tco_budget_used_bytes", window="day"), 6),
            (series("tco_app_bytes_total", app="cart"), 2 * at),
        ):
            samples.setdefault(one, []).append((at, value))
    with filled(tmp_path / "prometheus", samples) as server:
        past = prometheus.Prometheus(server.url, clock=lambda: start + 600)
        key = f"{name}/{name}".replace("/", "-") if "/" in name else f"{name}/{name}"
        assert {one.day_usage for one in past.history(key, start, start + 600, 60)} == {5}
        assert past.top(key, start, 5)[1] == [Place(name, 600)]
        assert past.top(KEY, start, 5)[1] == [Place("cart", 1200)]


@pytest.mark.prometheus
def test_a_real_sluice_has_pushed_what_prometheus_says(
    tmp_path: Path, sluice: Callable[..., Sluice], upstream: Upstream
) -> None:
    limits = [budget("shop", 10**9, namespace="default"), budget("tight", 3000)]
    server = sluice(limits, upstream.url)
    scraper = Prometheus(tmp_path / "prometheus", {f"127.0.0.1:{server.port}": {}})

    def push(namespace: str, app: str, lines: int) -> None:
        labels = {"namespace": namespace, "app": app}
        entries = [Entry(time.time_ns(), "x" * 100) for _ in range(lines)]
        assert server.send(promtail([Stream(labels, entries)])).status == 204

    push("default", "cart", 50)
    with running(scraper):

        def scraped(key: str) -> int:
            name = key.rpartition("/")[2]
            found = scraper.query(f'sum(tco_log_bytes_total{{team="{name}"}})')
            return int(found[0]["value"][1]) if found else -1

        wait_until(lambda: scraped(KEY) == 5000, "the first push is scraped")
        start = int(time.time()) // 2 * 2 + 2
        # What was there before has been scraped before.
        wait_until(lambda: time.time() > start, "the next step")
        for app, lines in (("cart", 20), ("search", 30), ("cart", 5)):
            push("default", app, lines)
        for _ in range(5):
            push("tight", "noisy", 10)
        counts = server.counts("tight")
        assert counts["dropped"]["bytes"] > 0
        total = counts["received"]["bytes"]
        wait_until(lambda: scraped(KEY) == 10_500, "all of shop is scraped")
        wait_until(lambda: scraped("tight/tight") == total, "all of tight is scraped")
        past = prometheus.Prometheus(scraper.url)
        end = int(time.time())

        def shop() -> Sequence[Any]:
            return past.history(KEY, start, int(time.time()), 2)

        wait_until(lambda: shop() and shop()[-1].at > end, "a step that ended since")
        points = shop()
        assert sum(one.forwarded for one in points) == 5500
        assert points[-1].day_usage == points[-1].month_usage == 10_500
        tight = past.history("tight/tight", start, int(time.time()), 2)
        for outcome in ("forwarded", "sampled", "dropped", "refused"):
            assert sum(getattr(one, outcome) for one in tight) == counts[outcome]["bytes"]

        def top() -> tuple[Sequence[Place], Sequence[Place]]:
            return past.top(KEY, start, 5)

        wanted = ([Place("default", 5500)], [Place("search", 3000), Place("cart", 2500)])
        wait_until(lambda: top() == wanted, f"{wanted}, not {top()}")
        assert server.stop() == 0
        server.start()
        push("default", "late", 7)
        wait_until(lambda: scraped(KEY) == 11_200, "a push after the restart is scraped")
        end = int(time.time())
        wait_until(lambda: shop()[-1].at > end, "a step that ended since")
        assert sum(one.forwarded for one in shop()) == 6200
        wait_until(lambda: Place("late", 700) in top()[1], "an application of the new process")


class Fake(http.server.BaseHTTPRequestHandler):
    """Stands in for what a proxy, or something that is no Prometheus, may answer."""

    status, body, asked = 200, b"", []  # type: ignore[var-annotated]
    hold: threading.Event | None = None

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        self.asked.append((self.path, self.headers.get("Authorization"), self.rfile.read(size)))
        if self.hold is not None:
            self.hold.wait(30)
        with contextlib.suppress(OSError):
            self.send_response(self.status)
            self.send_header("Location", "http://127.0.0.1:9/")
            self.end_headers()
            self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def faking(body: bytes | Mapping[str, Any], status: int = 200, hold: Any = None) -> Iterator[Any]:
    """A server that always answers so; gives its handler, which has its `url` and what it heard."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    made = {"status": status, "body": content, "hold": hold, "asked": []}
    handler: Any = type("Handler", (Fake,), made)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield handler
        finally:
            if hold is not None:
                hold.set()
            server.shutdown()
            thread.join()


EMPTY = {"status": "success", "data": {"resultType": "matrix", "result": []}}
ERROR = {"status": "error", "errorType": "bad_data", "error": "too many samples"}


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, b"<html>hello</html>", "status 200, no answer of Prometheus' but '<html>hello"),
        (502, b"bad gateway", "status 502, no answer of Prometheus' but 'bad gateway'"),
        (302, b"", "status 302, no answer"),
        (200, b"[1]", "no answer of Prometheus' but '[1]'"),
        (200, b'{"status": "success", "data": {"result": [{}]}}', "no answer of Prometheus'"),
        (422, ERROR, "status 422, bad_data: too many samples"),
        (200, b" " * (prometheus.ANSWER_MAX + 1), f"more than {prometheus.ANSWER_MAX} bytes"),
    ],
)
def test_what_is_no_answer_is_unavailable_and_says_why(
    status: int, body: bytes | Mapping[str, Any], words: str
) -> None:
    with faking(body, status) as server:
        secret = server.url.replace("//", "//someone:hush%20hush@")
        past = prometheus.Prometheus(f"{secret}/prefix/")
        with pytest.raises(errors.Unavailable) as refused:
            past.history(KEY, 0, 600, 60)
    assert words in refused.value.message
    assert f"Prometheus {server.url}/prefix: " in refused.value.message
    assert "hush" not in refused.value.message
    path, given, _ = server.asked[0]
    assert path == "/prefix/api/v1/query_range"
    assert given == "Basic " + base64.b64encode(b"someone:hush hush").decode()
    assert refused.value.status == 503


def test_nobody_there_or_no_answer_in_time_is_unavailable() -> None:
    with faking(EMPTY) as server:
        pass
    past = prometheus.Prometheus(server.url)
    with pytest.raises(errors.Unavailable, match=f"Prometheus {server.url}: .*refused"):
        past.top(KEY, 0, 5)
    with faking(EMPTY, hold=threading.Event()) as server:
        slow = prometheus.Prometheus(server.url, timeout_s=0.2)
        with pytest.raises(errors.Unavailable, match=r"no answer within 0\.2 s"):
            slow.history(KEY, 0, 600, 60)


def test_many_viewers_cost_one_question() -> None:
    now, hold = [9000.0], threading.Event()
    found: list[Sequence[Any]] = []
    with faking(EMPTY, hold=hold) as server:
        past = prometheus.Prometheus(server.url, clock=lambda: now[0])

        def view() -> None:
            found.append(past.history(KEY, 0, 999, 60))

        viewers = [threading.Thread(target=view) for _ in range(10)]
        for viewer in viewers:
            viewer.start()
        wait_until(lambda: server.asked, "the first question")
        hold.set()
        for viewer in viewers:
            viewer.join()
        assert found == [[]] * 10
        assert len(server.asked) == 2
        past.history(KEY, 0, 990, 60)
        assert len(server.asked) == 2
        now[0] += prometheus.CACHE_S
        past.history(KEY, 0, 990, 60)
        assert len(server.asked) == 4
        now[0] -= 3600
        past.history(KEY, 0, 60, 60)
        past.history(KEY, 0, 60, 60)
        assert len(server.asked) == 6


def test_a_failure_is_told_to_all_for_a_while_and_then_tried_again() -> None:
    now = [1000.0]
    with faking(b"", 503) as server:
        past = prometheus.Prometheus(server.url, clock=lambda: now[0])
        for _ in range(3):
            with pytest.raises(errors.Unavailable):
                past.history(KEY, 0, 600, 60)
        assert len(server.asked) == 1
        now[0] += prometheus.FAILED_S
        server.status, server.body = 200, json.dumps(EMPTY).encode()
        assert past.history(KEY, 0, 600, 60) == []


def test_a_prometheus_that_hangs_holds_few_threads() -> None:
    hold, found = threading.Event(), []
    with faking(EMPTY, hold=hold) as server:
        past = prometheus.Prometheus(server.url)

        def view(team: str) -> None:
            with contextlib.suppress(errors.Unavailable):
                past.history(team, 0, 600, 60)
            found.append(team)

        teams = [f"default/team-{i}" for i in range(12)]
        viewers = [threading.Thread(target=view, args=(team,)) for team in teams]
        for viewer in viewers:
            viewer.start()
        wait_until(lambda: len(found) == len(teams) - prometheus.ASKING_MAX, "the others go on")
        hold.set()
        for viewer in viewers:
            viewer.join()
    assert sorted(found) == sorted(teams)


def test_too_many_points_and_events_are_refused_without_a_question() -> None:
    past = prometheus.Prometheus("http://127.0.0.1:9")
    with pytest.raises(errors.BadRequest, match=r"11001 points of 60 seconds .* at most 11000"):
        past.history(KEY, 0, 11_001 * 60, 60)
    assert past.history(KEY, 0, 59, 60) == []
    with pytest.raises(NotKept):
        past.events(KEY, 5)


@pytest.mark.parametrize(
    "url",
    ["ftp://host", "http://", "host:9090", "http://host:x", "http://host/?q=1", "http://[::1"],
)
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(errors.BadRequest):
        prometheus.Prometheus(url)


def test_values_that_are_no_numbers_of_bytes_are_none() -> None:
    assert [prometheus.whole(value) for value in ("1.6", "1e3", "-3", "NaN", "+Inf")] == [
        *(2, 1000, 0),
        *(0, 0),
    ]
