"""SIGKILL under load: what upstream acknowledged is usage, and there is never a second server."""

import os
import random
import signal
from collections import Counter
from typing import Any

import psutil
import pytest
import shippers
from harness import NO_ANSWER, READY_S, Server, Sluice, Upstream, budget, wait_until
from shippers import Entry, Push, Stream
from shipping import shipping

ROUNDS = 20
TARGETS = ("supervisor", "worker", "group")
THREADS = 6
LINE = "x" * 100
LINES = 5
# Bytes of one push for each of its namespaces.
PUSHED = LINES * len(LINE)
PAY_LIMIT = 400_000
BUDGETS = [budget("shop", "1Gi", monthlyLimit="10Gi"), budget("pay", PAY_LIMIT)]


def push_of(number: int) -> Push:
    streams = [
        Stream({"namespace": name}, [Entry(number * LINES + i, LINE) for i in range(LINES)])
        for name in ("shop", "pay")
    ]
    return (shippers.promtail, shippers.vector_json, shippers.legacy)[number % 3](streams)


def acknowledged(upstream: Upstream) -> Counter[str]:
    """Bytes that upstream has acknowledged, by namespace."""
    sums: Counter[str] = Counter()
    for push in upstream.acknowledged():
        assert "error" not in push, push
        for namespace, (_, size) in push["namespaces"].items():
            sums[namespace] += size
    return sums


def heard_out(upstream: Upstream, server: Server) -> bool:
    """Whether upstream has read all that servers before this one had sent: they are hung up on."""
    assert upstream.process is not None
    alive = [psutil.Process(), *server.family()]
    known = {link.laddr.port for process in alive for link in tcp_of(process)}
    return all(link.raddr.port in known for link in tcp_of(psutil.Process(upstream.process.pid)))


def tcp_of(process: psutil.Process) -> list[Any]:
    """A process's TCP connections that have two ends."""
    return [link for link in process.net_connections("tcp") if link.raddr]


def kill(server: Sluice, who: str) -> list[psutil.Process]:
    """Kill one process or all, and wait for nothing; returns all that are to be gone soon."""
    assert server.process is not None
    family = server.family()
    if who == "supervisor":
        server.process.kill()
    elif who == "worker":
        server.worker().kill()
    else:
        os.killpg(server.process.pid, signal.SIGKILL)
    return family


def listeners(port: int) -> set[int | None]:
    links = psutil.net_connections("tcp4")
    return {link.pid for link in links if link.status == "LISTEN" and link.laddr.port == port}


def restart(server: Sluice, family: list[psutil.Process]) -> None:
    """Start anew at once, as a supervisor of services does, though the old family may still be."""
    old, server.process = server.process, None
    server.launch()
    assert old is not None
    old.wait(READY_S)
    assert not psutil.wait_procs(family, timeout=READY_S)[1]
    wait_until(server.is_ready, "it serves again")


def check_alone(server: Sluice) -> None:
    """The new server is the only one that listens and answers."""
    family = {process.pid for process in server.family()}
    assert len(family) == 2
    assert listeners(server.port) <= family
    assert server.worker().pid in listeners(server.port)
    began = server.metric("process_start_time_seconds")
    assert began == pytest.approx(server.worker().create_time(), abs=0.1)


@pytest.mark.slow
def test_twenty_kills_under_load_lose_no_usage_but_that_of_pushes_in_flight(sluice, upstream):
    rng = random.Random(20)
    upstream.control("slow:0.002", keep=False)
    server = sluice(BUDGETS, upstream.url)
    missing = Counter()
    for number in range(ROUNDS):
        with shipping(server, push_of, THREADS) as load:
            load.wait_for(rng.randrange(THREADS, 80))
            old = kill(server, TARGETS[number % len(TARGETS)])
            load.stop()
            restart(server, old)
            check_alone(server)
        wait_until(lambda: server.metric("tco_pushes_in_flight") == 0, "no push is being handled")
        wait_until(lambda: heard_out(upstream, server), "what was sent before the kill is read")
        teams, taken = server.teams(), acknowledged(upstream)
        for name in ("shop", "pay"):
            team = teams[name]
            assert team["currentUsage"] == team["monthlyUsage"]
            assert team["currentUsage"] == team["counts"]["forwarded"]["bytes"]
            short = taken[name] - team["currentUsage"]
            assert 0 <= short - missing[name] <= THREADS * PUSHED, (number, name, short)
            missing[name] = short
        assert server.get("/api/health").json["ledger"]["origin"] == "file"
    print(f"bytes of {sum(taken.values())} that the books miss after {ROUNDS} kills: {missing}")
    # The band and the limit were reached, and held but for what a kill made forgotten.
    assert server.teams()["pay"]["action"] == "drop"
    assert taken["pay"] <= PAY_LIMIT + missing["pay"]


def test_a_kill_returns_what_was_reserved_and_not_yet_answered(sluice, upstream):
    server = sluice([budget("pay", 10 * PUSHED, throttle={"sampleRate": 1})], upstream.url)
    upstream.control("hang")
    with shipping(server, push_of, THREADS) as load:
        wait_until(lambda: upstream.count()["waiting"] == THREADS, "all wait")
        load.stop()
        old = kill(server, "group")
    upstream.control("ok")
    restart(server, old)
    # All of it is there again: ten pushes pass, and the eleventh does not.
    for number in range(11):
        assert server.send(push_of(number)).status == 204
    assert server.teams()["pay"]["currentUsage"] == 10 * PUSHED
    assert acknowledged(upstream)["pay"] == 10 * PUSHED


def test_a_push_whose_server_is_killed_gets_no_answer(sluice, upstream):
    server = sluice(BUDGETS, upstream.url)
    upstream.control("hang")
    with shipping(server, push_of, 1) as load:
        wait_until(lambda: upstream.count()["waiting"] == 1, "it waits")
        load.stop()
        kill(server, "worker")
    assert load.answers == {0: 1}
    assert server.wait() == 1
    with pytest.raises(NO_ANSWER):
        server.get("/ready")
