"""What hostile pushes cost a real `sluice run` at the worst: memory and CPU, for all at once."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hostile
import psutil
import pytest
import shippers
from harness import Reply, Sluice, Unmeasured, Upstream, budget, running, wait_until, write_budgets
from runs import push_of
from shippers import Entry, Stream

from sluice import settings

MIB = 2**20
# As in docs/decisions/0011: what --max-in-flight of them may take.
RESIDENT_MAX, CPU_MAX_S = 400 * MIB, 2.0
IN_FLIGHT = 14
BODIES = {name: (headers, path, make) for name, headers, path, make in hostile.bodies()}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sluice]:
    """`sluice run` with default settings; the budget of `spent` is all but used up."""
    folder = tmp_path_factory.mktemp("worst")
    for name in ("upstream", "sluice"):
        (folder / name).mkdir()
    upstream = Upstream(folder / "upstream")
    budgets = [budget("shop", "1Ti"), budget("spent", "1Gi"), budget("neighbour", "1Gi")]
    path = write_budgets(folder / "budgets.yaml", budgets)
    made = Unmeasured(folder / "sluice", path, f"http://127.0.0.1:{upstream.port}")
    with running(upstream, made):
        yield made


class Resident:
    """A with block, and the most memory that was resident in all processes during it."""

    def __init__(self, server: Sluice) -> None:
        self._processes = server.family()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.most = 0

    def _look(self) -> None:
        while not self._is_over.wait(0.005):
            self.most = max(self.most, sum(p.memory_info().rss for p in self._processes))

    def __enter__(self) -> "Resident":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()


def cpu_s(process: psutil.Process) -> float:
    return sum(process.cpu_times()[:2])


def send_at_once(server: Sluice, name: str, times: int) -> tuple[list[Reply], int, float]:
    """The answers to a hostile push sent so often at once, resident bytes, CPU of each."""
    headers, path, make = BODIES[name]
    body = make()
    assert len(body) <= settings.PUSH_MAX
    worker = server.worker()
    before = cpu_s(worker)

    def send(_: int) -> Reply:
        try:
            return server.push(body, headers, path=path, timeout=120)
        finally:
            server.close()

    with Resident(server) as resident, ThreadPoolExecutor(times) as threads:
        replies = list(threads.map(send, range(times)))
    return replies, resident.most, (cpu_s(worker) - before) / times


@pytest.mark.slow
@pytest.mark.parametrize("name", BODIES)
def test_hostile_pushes_stay_within_400_mib_and_2_s_of_cpu_each(server: Sluice, name: str) -> None:
    replies, resident, each_s = send_at_once(server, name, IN_FLIGHT)
    # Alone there is room for it, so that all of it is read.
    (alone,), _, alone_s = send_at_once(server, name, 1)
    print(
        f"{name}: {resident / MIB:.0f} MiB, {alone_s:.2f} s alone: {alone.status} {alone.text[:90]}"
    )
    assert {reply.status for reply in [*replies, alone]} <= {204, 400, 413, 503}
    assert alone.status != 503
    assert resident < RESIDENT_MAX
    assert max(each_s, alone_s) < CPU_MAX_S
    # The next push of a neighbour passes.
    assert server.send(push_of(1000, "neighbour")).status == 204


def test_a_backlog_of_12_000_lines_in_one_push_passes(server: Sluice) -> None:
    held = [Entry(i + 1, "x" * 1000 + "y" * 100) for i in range(12_000)]
    push = shippers.vector_json([Stream({"namespace": "shop", "app": "a"}, held)])
    assert len(push.body) > 13_200_000
    with Resident(server) as resident:
        assert server.send(push).status == 204
    assert server.counts("shop")["forwarded"]["bytes"] >= 13_200_000
    assert resident.most < RESIDENT_MAX


@pytest.mark.parametrize("name", ["U+2028", "escaped letters", "escaped line ends", "entries"])
def test_one_hostile_push_is_answered_within_a_second_of_cpu(server: Sluice, name: str) -> None:
    _, resident, each_s = send_at_once(server, name, 1)
    assert each_s < 1
    assert resident < RESIDENT_MAX


@pytest.mark.parametrize("namespace", [b"shop", b"spent"])
def test_a_push_of_64_mib_passes_alone_whole_or_thinned_out(
    server: Sluice, namespace: bytes
) -> None:
    body = hostile.lines(63 * MIB, namespace)
    with Resident(server) as resident:
        reply = server.push(body, hostile.JSON, timeout=120)
    print(f"{resident.most / MIB:.0f} MiB")
    assert reply.status == 204
    assert resident.most < RESIDENT_MAX


def test_memory_comes_back(server: Sluice) -> None:
    """Run last: what is resident after all of the above is near what it was."""
    idle = [0]

    def is_small() -> bool:
        time.sleep(0.1)
        idle[0] = sum(p.memory_info().rss for p in server.family())
        return idle[0] < 260 * MIB

    wait_until(is_small, "the memory of large pushes is given back")
    assert Path(server.state_dir).exists()
