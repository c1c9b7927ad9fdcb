"""The leader's notices without a cluster: how it begins, what it keeps, and its Events."""

import datetime
import http.server
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_model import PACE
from harness import wait_until
from notify.fakes import DAY, FREE, NOON, SPENT, Listener, Memory, condition, listening

from sluice import chores, settings, table, window
from sluice.auth import NOBODY_IS_ASKED
from sluice.controller import fleet, loop, notices, totals
from sluice.kube import client
from sluice.notify import url
from sluice.notify.change import FORECAST, NOTHING, Change, Said, difference
from sluice.notify.sink import SinkFailed
from sluice.notify.told import Told, as_status
from sluice.notify.worker import Teller
from sluice.policy import Action

SINK = "json-1a2b3c4d"
TEAMS = ("one", "two", "three")
LIMIT = 1000

# Statuses of answers. "cut": none. "text": 200, of something that is no API server.
PASSING = (401, 429, 500, 503, "cut", "text")
REFUSALS = (400, 403, 409, 410, 413, 422)


class ApiServer(http.server.ThreadingHTTPServer):
    """Merges into statuses, makes Events, and refuses what it is told to.

    Attributes:
        refuses: by the name of a team: what its calls are answered.
        asked: the team of each call, in order.
        events: by name.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.refuses: dict[str, int | str] = {}
        self.asked: list[str] = []
        self.budgets: dict[str, dict[str, Any]] = {}
        self.events: dict[str, dict[str, Any]] = {}
        self.version = 0
        self.lock = threading.Lock()

    def keep(self, found: dict[str, Any]) -> dict[str, Any]:
        """Have a budget, or another version of it."""
        self.version += 1
        meta = {**found["metadata"], "resourceVersion": str(self.version)}
        self.budgets[meta["name"]] = {**found, "metadata": meta}
        return self.budgets[meta["name"]]

    def patched(self, team: str, patch: dict[str, Any]) -> dict[str, Any]:
        old = self.budgets[team]
        return self.keep({**old, "status": {**old.get("status", {}), **patch["status"]}})

    def notified(self) -> set[str]:
        """The teams of which it keeps what was told."""
        return {name for name, found in self.budgets.items() if "notified" in found["status"]}


class Handler(http.server.BaseHTTPRequestHandler):
    server: ApiServer

    def do_PATCH(self) -> None:
        *_, team, _status = self.path.partition("?")[0].split("/")
        patch = self.body()
        self.do(team, lambda: (200, self.server.patched(team, patch)))

    def do_POST(self) -> None:
        event = self.body()
        name, team = event["metadata"]["name"], event["regarding"]["name"]

        def make() -> tuple[int, dict[str, Any]]:
            if name in self.server.events:
                return 409, {"reason": "AlreadyExists", "message": "it is there"}
            self.server.events[name] = event
            return 201, event

        self.do(team, make)

    def do(self, team: str, act: Callable[[], tuple[int, dict[str, Any]]]) -> None:
        with self.server.lock:
            self.server.asked.append(team)
            refusal = self.server.refuses.get(team)
            if refusal == "cut":
                self.close_connection = True
            elif refusal == "text":
                self.answer(200, b"<p>Sign in</p>")
            else:
                status, found = (
                    (int(refusal), {"reason": "Test", "message": "not now"}) if refusal else act()
                )
                self.answer(status, json.dumps(found).encode())

    def body(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return found

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "17")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join()


@pytest.fixture
def api(server: ApiServer, tmp_path: Path) -> client.Api:
    """A client of the fake server."""
    path = tmp_path / "kubeconfig.yaml"
    here = {"server": f"http://127.0.0.1:{server.server_port}"}
    context = {"cluster": "test", "user": "test"}
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "test", "cluster": here}],
                "users": [{"name": "test", "user": {"token": "nobody-asks"}}],
                "contexts": [{"name": "test", "context": context}],
                "current-context": "test",
            }
        )
    )
    return client.connect(path)


@pytest.fixture
def work(api: client.Api) -> loop.Loop:
    return loop.Loop(
        api,
        fleet.Fleet("sluice-system", table.NAMESPACE_LABELS),
        PACE,
        identity="test",
        seen=lambda: 1,
        clock=time.time,
        monotonic=time.monotonic,
    )


def see_budget(server: ApiServer, work: loop.Loop, name: str, **more: Any) -> None:
    """Have a TeamBudget made, and the loop hear of it."""
    meta = {"namespace": "default", "name": name, "uid": f"uid-{name}", "generation": 1}
    spec = {"dailyLimit": LIMIT, **more.pop("spec", {})}
    work.on_budget("ADDED", server.keep({"metadata": meta, "spec": spec, "status": {}, **more}))


@pytest.fixture
def store(server: ApiServer, api: client.Api, work: loop.Loop) -> notices.StatusStore:
    for name in TEAMS:
        see_budget(server, work, name)
    return notices.StatusStore(api, work.members, work.put)


SAID = {SINK: Said(Action.DROP, DAY, NOON)}
SAYINGS = {f"default/{name}": SAID for name in TEAMS}


def test_what_is_kept_is_known_before_the_informer_brings_it(store: notices.StatusStore) -> None:
    assert store.load() == {key: {} for key in SAYINGS}
    store.save(SAYINGS)
    assert store.load() == SAYINGS


@pytest.mark.parametrize("answer", PASSING)
def test_what_concerns_all_calls_ends_the_saving(
    server: ApiServer, store: notices.StatusStore, answer: int | str
) -> None:
    server.refuses["two"] = answer
    with pytest.raises(notices.PASSING):
        store.save(SAYINGS)
    assert (server.asked, server.notified()) == (["one", "two"], {"one"})


@pytest.mark.parametrize("answer", PASSING)
def test_what_could_not_be_kept_is_brought_again(
    server: ApiServer, store: notices.StatusStore, answer: int | str
) -> None:
    told = Told(store)
    told.record(SINK, dict.fromkeys(SAYINGS, SAID[SINK]))
    server.refuses = dict.fromkeys(TEAMS, answer)
    assert not told.flush()
    server.refuses = {}
    assert told.flush()
    assert server.notified() == set(TEAMS)
    assert store.load() == SAYINGS


@pytest.mark.parametrize("answer", REFUSALS)
def test_a_budget_that_is_refused_keeps_no_other_from_being_kept(
    server: ApiServer, store: notices.StatusStore, answer: int, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(store)
    told.record(SINK, dict.fromkeys(SAYINGS, SAID[SINK]))
    server.refuses["two"] = answer
    assert told.flush()
    assert sorted(server.asked) == sorted(TEAMS)
    assert server.notified() == {"one", "three"}
    assert "default/two: what was told is not kept" in caplog.text
    assert f"{answer} Test: not now" in caplog.text
    # Given up: the next flush has nothing to bring.
    assert told.flush()
    assert len(server.asked) == len(TEAMS)


def test_a_budget_that_is_gone_is_passed_over_in_silence(
    server: ApiServer, store: notices.StatusStore, caplog: pytest.LogCaptureFixture
) -> None:
    server.refuses["two"] = 404
    store.save(SAYINGS)
    assert server.notified() == {"one", "three"}
    assert caplog.text == ""


def forecasts(*names: str) -> list[Change]:
    """That each of these teams will have spent its budget before the day ends."""
    return [
        change
        for name in names
        for change in difference(
            NOTHING, condition(FREE, expected=NOON + 900, name=name), (FORECAST,), NOON
        )[0]
    ]


@pytest.fixture
def events(store: notices.StatusStore, api: client.Api, work: loop.Loop) -> notices.ForecastEvents:
    return notices.ForecastEvents(api, work.members, "leader-1", lambda: NOON)


def test_a_forecast_is_an_event_on_its_budget(
    server: ApiServer, events: notices.ForecastEvents
) -> None:
    events.send(forecasts("one"))
    ((name, event),) = server.events.items()
    assert name == "one.forecast-2026-11-23"
    assert event["regarding"]["uid"] == "uid-one"
    assert (event["reportingInstance"], event["eventTime"][:19]) == (
        "leader-1",
        "2026-11-23T12:00:00",
    )


@pytest.mark.parametrize("answer", PASSING)
def test_events_that_could_not_be_made_are_made_later_and_none_twice(
    server: ApiServer,
    events: notices.ForecastEvents,
    answer: int | str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = Told(Memory())
    teller = Teller(events, told)
    holding = {change.key: change.condition for change in forecasts(*TEAMS)}
    server.refuses["two"] = answer
    with pytest.raises(SinkFailed) as failed:
        teller.attempt(holding, NOON)
    assert failed.value.retry_after_s == (17 if answer == 429 else 0)
    assert (server.asked, len(server.events)) == (["one", "two"], 1)
    assert teller.waiting(holding) == len(TEAMS)
    server.refuses = {}
    assert teller.attempt(holding, NOON + 1).has_sent
    assert teller.attempt(holding, NOON + 2) == (False, None)
    assert server.asked == ["one", "two", *TEAMS]
    assert [event["regarding"]["name"] for event in server.events.values()] == list(TEAMS)
    # That the first one is there already is no news.
    assert caplog.text == ""


@pytest.mark.parametrize("answer", [404, *REFUSALS])
def test_an_event_that_is_refused_is_given_up_and_the_others_are_made(
    server: ApiServer,
    events: notices.ForecastEvents,
    answer: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.refuses["two"] = answer
    events.send(forecasts(*TEAMS))
    assert server.asked == list(TEAMS)
    assert [event["regarding"]["name"] for event in server.events.values()] == ["one", "three"]
    assert "no Event for default/two" in caplog.text
    assert f"{answer} Test: not now" in caplog.text


def test_a_team_that_is_gone_has_no_event(
    server: ApiServer, events: notices.ForecastEvents
) -> None:
    events.send(forecasts("gone", "one"))
    assert server.asked == ["one"]


class Leader:
    """The notices of a process of which a test says whether it leads and has seen all."""

    def __init__(
        self, server: ApiServer, api: client.Api, work: loop.Loop, notify: tuple[str, ...]
    ) -> None:
        self.server, self.work = server, work
        self.leads = self.is_whole = False
        # A zone in which it is noon: no test is to run across midnight, or just after.
        utc = datetime.datetime.now(datetime.UTC)
        self.zone = f"Etc/GMT{utc.hour - 12:+d}"
        windows = window.open_windows(self.zone, time.time())
        self.day = window.day_key(windows.day)
        self.used: dict[str, int] = {}
        self.rounds = 0
        options = settings.Controller(
            listen=settings.Address("127.0.0.1", 0),
            kubeconfig=None,
            context=None,
            system_namespace=None,
            report_ceiling=60,
            heartbeat=10,
            lease_duration=15,
            namespace_label=table.NAMESPACE_LABELS,
            uninstall=False,
            notify=notify,
            notify_on=("throttle", "drop", "recovery"),
            dashboard_url=None,
            auth=NOBODY_IS_ASKED,
            log_format="text",
            log_level="info",
        )
        self.notices = notices.Notices(
            api, work, options, "leader-1", lambda: self.leads, lambda: self.is_whole
        )
        self.house = chores.Chores(0.01)
        self.notices.start(self.house)
        self.house.add(0, self._end_round)
        self.house.start()

    def _end_round(self) -> None:
        self.rounds += 1

    def look(self) -> None:
        """Wait until each chore has begun and ended once more."""
        # The round at hand may have begun before what the test did last.
        last = self.rounds + 2
        wait_until(lambda: self.rounds >= last, "two rounds")

    def see(self, name: str, used: int, **status: Any) -> None:
        """The informers bring a budget, and then what a node counted of it."""
        see_budget(self.server, self.work, name, spec={"timeZone": self.zone}, status=status)
        self.use(name, used)

    def use(self, name: str, used: int) -> None:
        self.used[f"default/{name}"] = used
        counts = {
            team: {kind: {"entries": size, "bytes": size} for kind in ("received", "forwarded")}
            for team, size in self.used.items()
        }
        status = {
            "seq": sum(self.used.values()),
            "reportedAt": window.iso(time.time()),
            "usage": {self.day: dict(self.used)},
            "counts": {self.day: counts},
        }
        found = {"metadata": {"name": "a", "uid": "a", "resourceVersion": "1"}, "status": status}
        self.work.on_node("MODIFIED", totals.Node.of(found))

    def stop(self) -> None:
        self.house.stop()
        self.notices.stop()


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as made:
        yield made


@pytest.fixture
def leader(
    server: ApiServer,
    api: client.Api,
    work: loop.Loop,
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Leader]:
    monkeypatch.setattr(notices, "FORECAST_S", 0)
    monkeypatch.setattr(notices, "LOOK_S", 0)
    made = Leader(server, api, work, (hook(listener),))
    yield made
    made.stop()
    defects = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert defects == []


def hook(listener: Listener) -> str:
    return f"json://127.0.0.1:{listener.port}/"


def titles(listener: Listener) -> list[str]:
    return [body["title"] for body in listener.bodies]


def test_nothing_is_learned_before_all_is_seen(leader: Leader) -> None:
    outlooks = leader.notices.outlooks
    leader.see("backend", 0)
    leader.look()
    assert outlooks.of("default/backend") is None
    # What the team sent in half a day comes with the rest of a list.
    leader.use("backend", 300)
    leader.look()
    assert outlooks.of("default/backend") is None
    leader.is_whole = True
    leader.look()
    found = outlooks.of("default/backend")
    # So it has the mean of its day, and does not seem to have sent all of it just now.
    assert found is not None
    assert 0 < found.usual < LIMIT / 86_400
    assert found.day is None


def test_what_was_told_is_not_read_before_all_is_seen(leader: Leader, listener: Listener) -> None:
    """Whoever began with half a list would take the other half for teams never told of."""
    sink = url.id_of(hook(listener))
    leader.leads = True
    leader.see("other", SPENT)
    leader.look()
    said = {sink: Said(Action.DROP, leader.day, time.time())}
    leader.see("backend", SPENT, notified=as_status(said))
    leader.look()
    assert listener.attempts == 0
    leader.is_whole = True
    wait_until(lambda: titles(listener), "the other is told of")
    # That this is the next thing told says that nothing was repeated.
    leader.see("later", SPENT)
    wait_until(lambda: len(titles(listener)) > 1, "the later is told of")
    assert [title.split()[0] for title in titles(listener)] == ["default/other", "default/later"]


def test_who_does_not_lead_tells_nobody_and_who_leads_again_repeats_nothing(
    leader: Leader, server: ApiServer, listener: Listener
) -> None:
    leader.is_whole = True
    leader.see("backend", SPENT)
    leader.look()
    assert listener.attempts == 0
    leader.leads = True
    wait_until(lambda: server.notified() == {"backend"}, "it is told, and that is kept")
    leader.leads = False
    leader.look()
    leader.see("other", SPENT)
    leader.look()
    assert listener.attempts == 1
    leader.leads = True
    wait_until(lambda: server.notified() == {"backend", "other"}, "the other is told of")
    assert [title.split()[0] for title in titles(listener)] == ["default/backend", "default/other"]


def test_who_leads_no_more_leaves_a_sink_that_fails_to_the_next(
    leader: Leader, server: ApiServer, listener: Listener
) -> None:
    def waiting() -> list[object]:
        return [one["waiting"] for one in leader.notices.notifier.health()]

    listener.answer = 500
    leader.leads = leader.is_whole = True
    leader.see("backend", SPENT)
    wait_until(lambda: listener.attempts and waiting() == [0, 1], "the sink has failed")
    leader.leads = False
    leader.look()
    assert waiting() == [0, 0]
    listener.answer = 200
    leader.leads = True
    wait_until(lambda: server.notified() == {"backend"}, "it is told, and that is kept")
    assert len(titles(listener)) == 1
