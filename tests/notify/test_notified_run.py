"""The notifier in a real `sluice run`: once per change, and not again after a restart."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fakes import Listener, listening
from harness import Sluice, Upstream, budget, wait_until, write_budgets
from shippers import make_streams, promtail

from sluice.agent import serve


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as made:
        yield made


def spend(sluice: Sluice, team: str, pushes: int) -> None:
    """Push more than the team may."""
    for seed in range(pushes):
        streams = make_streams(seed, [team], streams=1, entries=50)
        assert sluice.send(promtail(streams)).status == 204


def titles(listener: Listener) -> list[str]:
    return [body["title"] for body in listener.bodies]


def reasons(sluice: Sluice) -> list[str]:
    events = sluice.get("/api/events?team=shop").json["events"]
    return [event["reason"] for event in events]


def test_a_team_over_its_budget_is_told_once_also_across_a_restart(
    upstream: Upstream, sluice: Callable[..., Sluice], listener: Listener
) -> None:
    quiet = budget("quiet", 5000)
    quiet["metadata"]["annotations"] = {"tco.io/notify": "none"}
    url = f"json://127.0.0.1:{listener.port}/hook"
    running: Sluice = sluice(
        [budget("shop", 5000, namespace="default", namespaces=["shop"]), quiet],
        upstream.url,
        args=("--notify", url, "--dashboard-url", "http://sluice.example"),
    )
    for team in ("shop", "quiet"):
        spend(running, team, 10)
    wait_until(lambda: any("shop" in title for title in titles(listener)), "shop was told of")
    wait_until(lambda: "Exceeded" in reasons(running), "the event is listed")
    heard = listener.bodies[-1]
    assert "http://sluice.example/teams/default/shop" in heard["message"]
    assert not any("quiet" in str(body) for body in listener.bodies)
    (sink,) = (s for s in running.get("/api/health").json["notifications"] if s["id"] != "events")
    assert (sink["waiting"], sink["error"]) == (0, None)
    assert "hook" not in running.get("/api/health").text
    assert 'tco_notifications_total{result="sent",sink="json-' in running.get("/metrics").text

    count, known = len(listener.bodies), reasons(running)
    assert running.stop() == 0
    running.start()
    spend(running, "shop", 1)
    # A later change is told; that it is the next thing told says that nothing was repeated.
    budgets = [
        budget("shop", 5000, namespace="default", namespaces=["shop"]),
        budget("fresh", 5000),
    ]
    write_budgets(running.budgets, budgets)
    wait_until(lambda: "fresh" in running.teams(), "the new budget is in force")
    spend(running, "fresh", 10)
    wait_until(lambda: any("fresh" in title for title in titles(listener)), "fresh was told of")
    assert not any("shop" in title for title in titles(listener)[count:])
    assert reasons(running) == known


def test_a_sink_that_is_dead_holds_up_nothing(
    upstream: Upstream, sluice: Callable[..., Sluice], listener: Listener
) -> None:
    running: Sluice = sluice(
        [budget("shop", 5000)],
        upstream.url,
        args=(
            "--notify",
            "json://127.0.0.1:9/dead",
            "--notify",
            f"json://127.0.0.1:{listener.port}/",
        ),
    )
    spend(running, "shop", 10)
    wait_until(lambda: any("shop" in title for title in titles(listener)), "the other sink heard")

    def dead() -> Any:
        sinks = running.get("/api/health").json["notifications"]
        return [sink for sink in sinks if sink["failures"]]

    (found,) = wait_until(dead, "the dead one is known")
    assert found["waiting"] == 1
    assert found["error"]


@pytest.mark.parametrize("scheme", ["json", "alertmanager"])
def test_told_to_stop_while_a_sink_hangs_it_ends_in_time_and_its_books_are_whole(
    upstream: Upstream, sluice: Callable[..., Sluice], listener: Listener, scheme: str
) -> None:
    listener.answer = "hang"
    running: Sluice = sluice(
        [budget("shop", 5000), budget("pay", 1_000_000)],
        upstream.url,
        args=("--notify", f"{scheme}://127.0.0.1:{listener.port}/"),
    )
    spend(running, "shop", 10)
    wait_until(lambda: listener.attempts, "the sink was asked")
    # After it, and so soon before the end that no snapshot of the usual ones has it.
    spend(running, "pay", 3)
    before = used(running)
    assert before["pay"] > 0
    began = time.monotonic()
    assert running.stop(10) == 0, running.tail()
    # By itself: after these seconds the supervisor would have killed the worker.
    assert time.monotonic() - began < serve.STOP_WAIT_S
    assert "the ledger is written" in running.log.read_text()

    running.start()
    assert used(running) == before
    assert running.get("/api/health").json["ledger"]["origin"] == "file"
    # What the sink did not take is told again.
    wait_until(lambda: listener.attempts >= 2, "the sink is asked again")
    assert running.stop(10) == 0, running.tail()
    (running.state_dir / "ledger.map").unlink()
    running.start()
    assert used(running) == before
    assert running.get("/api/health").json["ledger"]["origin"] == "snapshot"


def used(sluice: Sluice) -> dict[str, int]:
    return {name: team["currentUsage"] for name, team in sluice.teams().items()}


def test_a_sink_that_nobody_can_reach_is_an_error_at_once_and_its_secret_is_not_shown(
    tmp_path: Any, upstream: Upstream
) -> None:
    path = write_budgets(tmp_path / "budgets.yaml", [budget("shop", 5000)])
    server = Sluice(
        tmp_path / "sluice", path, upstream.url, args=("--notify", "nosuch://hunter2secret@host")
    )
    server.launch()
    assert server.wait() == 2
    assert "hunter2secret" not in server.tail()
    assert "--notify" in server.tail()
