"""`sluice run` as a process: how it does not start, how it stops, and what it weighs."""

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from click.testing import CliRunner
from harness import Sluice, Unmeasured, Upstream, free_port, running, wait_until, write_budgets
from runs import SHOP, half_a_push, sluice_command, small
from shipping import shipping

from sluice.commands import main

NOWHERE = "http://127.0.0.1:9"


# how it does not start


def refused(server: Sluice, timeout_s: float = 20) -> str:
    """What a `sluice run` that does not start says; the end of it is exit code 2."""
    server.launch()
    assert server.wait(timeout_s) == 2, server.tail()
    said = server.log.read_text()
    assert "Traceback" not in said
    return said.splitlines()[-1]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Sluice]]:
    """A maker of `sluice run` processes that are not started yet."""
    made: list[Sluice] = []

    def make(text: str | None = None, upstream: str = NOWHERE, **more: Any) -> Sluice:
        path = write_budgets(tmp_path / "budgets.yaml", [SHOP])
        if text is not None:
            path.write_text(text)
        made.append(Sluice(tmp_path / f"sluice-{len(made)}", path, upstream, **more))
        return made[-1]

    yield make
    for server in made:
        server.kill()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no TeamBudget"),
        ("a: [b\n", "budgets.yaml:2: not YAML"),
        (yaml.safe_dump(SHOP).replace("1Gi", "1Gib"), "no valid budget: "),
        ("kind: ConfigMap\n", "no valid budget: "),
        ("\x00", "is not allowed"),
    ],
)
def test_without_a_budget_that_can_be_read_it_says_why_and_exits_with_2(launch, text, words):
    said = refused(launch(text))
    assert said.startswith("sluice run: ")
    assert "budgets.yaml" in said
    assert words in said


def test_a_budget_file_that_is_not_there_is_refused(launch):
    server = launch()
    server.budgets.unlink()
    assert "budgets.yaml: No such file or directory" in refused(server)


@pytest.mark.parametrize("url", ["loki:3100", "http://loki:99999", "http://a:b@loki"])
def test_an_upstream_that_is_no_url_is_refused(launch, url):
    said = refused(launch(upstream=url))
    assert said.startswith("sluice run: upstream")
    assert "a:b" not in said


@pytest.mark.parametrize(
    "args",
    [
        ["--max-in-flight", "17"],
        ["--listen", "nonsense"],
        ["--listen", "127.0.0.1:\u00b2"],
        ["--listen", "127.0.0.1:" + "9" * 5000],
        ["--state-dir", ""],
        ["--budgets", ""],
        ["--upstream-timeout", "nan"],
        ["--cost-per-gib", "nan"],
        ["--max-body", "-1"],
        ["--max-decoded", "169Mi"],
        ["--max-body", "169Mi"],
        ["--max-body", "\u00b2"],
        ["--max-body", "9" * 5000],
        ["--upstream-header", "no equals sign"],
        ["--upstream-header", "X-Ź=1"],
        ["--upstream-header", "X-A=\u0141"],
        ["--upstream-header", "Content-Length=1"],
        ["--upstream-ca", "/nowhere/ca.pem"],
        ["--log-level", "loud"],
    ],
)
def test_a_flag_that_makes_no_sense_is_refused_by_its_name(tmp_path, args):
    path = write_budgets(tmp_path / "budgets.yaml", [SHOP])
    wanted = ["run", "--budgets", str(path), "--upstream", NOWHERE]
    done = CliRunner().invoke(main, [*wanted, "--state-dir", str(tmp_path / "state"), *args])
    assert done.exit_code == 2
    assert args[0] in done.output
    assert "Error: " in done.output
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--upstream-header", "Authorization: Bearer SECRET=="),
        ("--upstream-header", "Authorization=SECRET\x7f"),
        ("--prometheus-url", "https://user:SECRET@host:99999"),
        ("--upstream", "ftp://user:SECRET@host"),
        ("--upstream", "http://user:SECRET@host:99999"),
        ("--upstream", "loki:3100/?token=SECRET"),
    ],
)
def test_what_may_be_a_secret_is_not_shown_when_it_is_refused(tmp_path, flag, value):
    path = write_budgets(tmp_path / "budgets.yaml", [SHOP])
    wanted = {"--budgets": str(path), "--upstream": NOWHERE, "--state-dir": str(tmp_path / "state")}
    port = f"127.0.0.1:{free_port()}"
    given = [word for pair in (wanted | {"--listen": port, flag: value}).items() for word in pair]
    done = sluice_command("run", *given)
    assert done.returncode == 2
    assert flag.lstrip("-") in done.stderr
    assert "SECRET" not in done.stderr


def test_a_list_of_headers_in_the_environment_may_end_with_a_line_end(tmp_path):
    done = CliRunner().invoke(
        main,
        ["run", "--budgets", str(tmp_path), "--upstream", NOWHERE, "--max-in-flight", "17"],
        env={"SLUICE_UPSTREAM_HEADER": "Authorization=Bearer x\r\n\nX-Scope-OrgID=a\n"},
    )
    # Found when all flags have been taken.
    assert "--max-in-flight 17 exceeds --threads 16" in done.output


def test_a_file_of_certificates_that_is_none_is_refused(launch, tmp_path):
    file = tmp_path / "ca.pem"
    file.write_text("nonsense")
    said = refused(launch(upstream="https://127.0.0.1:9", args=["--upstream-ca", str(file)]))
    assert said.startswith("sluice run: upstream certificates")


def test_a_state_directory_that_cannot_be_made_is_refused(launch, tmp_path):
    file = tmp_path / "file"
    file.touch()
    said = refused(launch(state_dir=file / "state"))
    assert said == f"sluice run: state directory {file / 'state'}: Not a directory"


FULL_DISK = """
import errno, os
from sluice import commands, ledger_file
def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
ledger_file.FileRows.write_names = full
commands.main()
"""


def test_a_state_directory_without_room_for_the_budgets_is_refused(tmp_path):
    budgets = write_budgets(tmp_path / "budgets.yaml", [SHOP])
    state = tmp_path / "state"
    flags = {"--budgets": budgets, "--upstream": NOWHERE, "--state-dir": state}
    flags |= {flag: f"127.0.0.1:{free_port()}" for flag in ("--listen", "--dashboard-listen")}
    args = [str(word) for pair in flags.items() for word in pair]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, "run", *args], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert done.stderr == f"sluice run: state directory {state}: No space left on device\n"


def test_a_listening_address_that_is_not_this_machines_is_refused(launch):
    said = refused(launch(args=["--listen", "192.0.2.1:8080"]))
    assert said.startswith("sluice run: listen on 192.0.2.1:8080: Cannot assign")


@pytest.mark.parametrize(("own", "pages"), [("127.0.0.1",) * 2, ("localhost", ""), ("", "[::]")])
def test_one_port_for_pushes_and_pages_is_refused(launch, own, pages):
    server = launch()
    ports = (f"{own}:{server.port}", f"{pages}:{server.port}")
    server.args = ["--listen", ports[0], "--dashboard-listen", ports[1]]
    assert refused(server).endswith("one port for two")


def test_a_name_that_has_no_address_is_refused(launch):
    said = refused(launch(args=["--listen", "none.invalid:18080"]))
    assert said.startswith("sluice run: listen on none.invalid:18080: ")


def test_it_listens_on_an_address_that_is_given_by_name(launch):
    server = launch()
    server.args = ["--listen", f"localhost:{server.port}"]
    server.start()
    assert server.get("/ready").status == 200
    assert server.stop() == 0


def test_a_port_that_somebody_has_is_refused_after_a_short_wait(launch):
    server = launch()
    with socket.create_server(("127.0.0.1", server.port)):
        began = time.monotonic()
        said = refused(server)
    assert said == f"sluice run: listen on 127.0.0.1:{server.port}: Address already in use"
    assert time.monotonic() - began > 4


def test_a_port_that_becomes_free_in_time_is_taken(launch):
    server = launch()
    with socket.create_server(("127.0.0.1", server.port)):
        server.launch()
        wait_until(lambda: (server.state_dir / "lock").exists(), "it has come to the port")
    wait_until(server.is_ready, "it serves")
    assert server.stop() == 0


def test_a_second_instance_on_the_same_state_waits_and_gives_up(launch):
    first, second = launch(), launch()
    second.state_dir = first.state_dir
    first.start()
    began = time.monotonic()
    said = refused(second)
    assert said.startswith(f"sluice run: state directory {first.state_dir}: another process has it")
    assert time.monotonic() - began > 4
    assert first.get("/ready").status == 200
    assert first.stop() == 0


def test_a_second_instance_takes_over_when_the_first_ends_in_time(launch):
    first, second = launch(), launch()
    second.state_dir = first.state_dir
    first.start()
    second.launch()
    assert first.stop() == 0
    wait_until(second.is_ready, "the second serves")
    assert second.stop() == 0


# how it stops


def pushing(server: Sluice, upstream: Upstream, n: int) -> tuple[list[threading.Thread], list[int]]:
    """Start `n` pushes of 1000 bytes that upstream keeps waiting; their statuses come later."""
    statuses: list[int] = []

    def ship() -> None:
        statuses.append(server.send(small(0)).status)
        server.close()

    threads = [threading.Thread(target=ship) for _ in range(n)]
    for thread in threads:
        thread.start()
    wait_until(lambda: upstream.count()["waiting"] == n, f"{n} pushes wait for upstream")
    return threads, statuses


def is_gone(server: Sluice, family: list[psutil.Process]) -> bool:
    with (
        contextlib.suppress(ConnectionRefusedError),
        socket.create_connection(("127.0.0.1", server.port)),
    ):
        return False
    return not any(process.is_running() for process in family)


@pytest.mark.parametrize("how", ["SIGTERM", "SIGTERM to all", "SIGINT", "Ctrl-C"])
def test_told_to_stop_it_ends_what_it_began_and_writes_down_the_rest(sluice, upstream, how):
    server = sluice([SHOP], upstream.url)
    assert server.send(small(0)).status == 204
    upstream.control("slow:0.8")
    threads, statuses = pushing(server, upstream, 5)
    family = server.family()
    number = signal.SIGTERM if "TERM" in how else signal.SIGINT
    # A connection that is kept and says nothing is no reason to stay.
    with socket.create_connection(("127.0.0.1", server.port)):
        began = time.monotonic()
        if how in ("SIGTERM to all", "Ctrl-C"):
            os.killpg(server.process.pid, number)
        else:
            server.signal(number)
        assert server.wait(10) == 0, server.tail()
    assert time.monotonic() - began < 5
    for thread in threads:
        thread.join()
    assert statuses == [204] * 5
    assert is_gone(server, family)
    assert "the ledger is written" in server.log.read_text()
    assert "rror" not in server.log.read_text()
    # Even the snapshot alone, without the map, knows it all.
    (server.state_dir / "ledger.map").unlink()
    server.start()
    assert server.teams()["shop"]["currentUsage"] == 6000


@pytest.mark.slow
def test_an_answer_that_comes_late_is_waited_for_and_nothing_comes_again(sluice, upstream):
    """Given up after 8 s, what Loki stored was refunded, and sent again by every shipper."""
    server = sluice([SHOP], upstream.url)
    upstream.control("slow:9")
    assert server.send(small(0), timeout=20).status == 204
    assert upstream.count()["requests"] == 1
    assert server.teams()["shop"]["currentUsage"] == 1000
    assert server.metric("tco_upstream_settled_bytes_total", settlement="unanswered") == 0


def test_a_snapshot_that_cannot_be_written_does_not_keep_the_rest_from_being(sluice, upstream):
    server = sluice([SHOP], upstream.url)
    assert server.send(small(0)).status == 204
    # In the way of the snapshot, like a disk that is full.
    (server.state_dir / "ledger.new").mkdir()
    assert server.stop() == 0
    said = server.log.read_text()
    assert "no snapshot of it" in said
    assert "Traceback" not in said
    history = sqlite3.connect(server.state_dir / "history.db")
    with contextlib.closing(history):
        assert history.execute("SELECT max(day_usage) FROM usage").fetchone() == (1000,)
    server.start()
    assert server.teams()["shop"]["currentUsage"] == 1000


def test_told_to_stop_before_it_serves_it_stops_at_once(launch):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        server = launch()
        server.launch()
        wait_until(lambda server=server: "push to" in server.log.read_text(), "it is starting")
        began = time.monotonic()
        os.killpg(server.process.pid, number)
        assert server.wait() == 0
        assert time.monotonic() - began < 5


def test_it_stops_within_ten_seconds_even_when_upstream_never_answers(sluice, upstream):
    server = sluice([SHOP], upstream.url)
    upstream.control("hang")
    threads, statuses = pushing(server, upstream, 3)
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 10
    for thread in threads:
        thread.join()
    assert statuses == [503] * 3
    assert "the ledger is written" in server.log.read_text()


def test_it_stops_in_time_though_a_shipper_has_half_sent_a_push(sluice, upstream):
    server = sluice([SHOP], upstream.url)
    with half_a_push(server):
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 10


def test_a_hangup_neither_ends_it_nor_makes_a_second_worker(sluice, upstream):
    server = sluice([SHOP], upstream.url)
    worker = server.worker().pid
    with shipping(server, small) as load:
        load.wait_for(5)
        os.killpg(server.process.pid, signal.SIGHUP)
        load.wait_for(50)
    assert set(load.answers) == {204}
    assert server.worker().pid == worker
    assert len(server.family()) == 2


def test_it_ends_when_its_worker_dies(sluice, upstream):
    server = sluice([SHOP], upstream.url)
    family = server.family()
    server.worker().kill()
    assert server.wait() == 1
    assert is_gone(server, family)
    server.start()
    assert server.send(small(0)).status == 204


# what it weighs


def test_idle_it_is_smaller_than_140_mb(tmp_path, upstream):
    server = Unmeasured(tmp_path, write_budgets(tmp_path / "budgets.yaml", [SHOP]), upstream.url)
    with running(server):
        sizes = {process.pid: process.memory_info().rss / 1e6 for process in server.family()}
        shared = sum(process.memory_full_info().pss for process in server.family()) / 1e6
    print(f"resident, idle: {sum(sizes.values()):.0f} MB in {len(sizes)} processes,")
    print(f"without what they share counted twice: {shared:.0f} MB")
    assert len(sizes) == 2
    assert sum(sizes.values()) < 140
