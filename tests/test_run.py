"""`sluice run` and its sisters as processes: how they start, stop, reload, and what they weigh."""

import contextlib
import json
import os
import shutil
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
import shippers
import yaml
from click.testing import CliRunner
from harness import TESTS, Sluice, Upstream, budget, free_port, running, wait_until, write_budgets
from shippers import PUSH_PATH, Entry, Push, Stream
from shipping import shipping

from sluice.__main__ import main
from sluice.chores import ClockWatch

MIB = 2**20
NOWHERE = "http://127.0.0.1:9"
SHOP = budget("shop", "1Gi")


def push_of(size: int, namespace: str = "shop", line: int = 100) -> Push:
    """A push of `size` bytes in lines of `line`."""
    held = [Entry(i + 1, "x" * line) for i in range(size // line)]
    return shippers.promtail([Stream({"namespace": namespace, "app": "a"}, held)])


def small(_: int) -> Push:
    return push_of(1000)


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
        ("", "no valid budget: no document in it"),
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
        ["--max-decoded", "129Mi"],
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
from sluice import __main__, ledger_file
def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
ledger_file.FileRows.write_names = full
__main__.main()
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


@contextlib.contextmanager
def half_a_push(server: Sluice) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(head_of(1000) + b"x" * 10)
        wait_until(lambda: server.metric("tco_pushes_in_flight") == 1, "it is being read")
        yield sock


def head_of(length: int, path: str = PUSH_PATH) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {length}\r\n\r\n".encode()


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


# how it reloads


def test_budgets_replaced_under_load_apply_and_no_push_is_dropped(sluice, upstream):
    upstream.control(keep=False)
    server = sluice([SHOP], upstream.url)
    with shipping(server, small) as load:
        for limit in (10**9, 2 * 10**9, 500):
            load.wait_for(20)
            write_budgets(server.budgets, [budget("shop", limit), budget("pay", limit)])
            wait_until(
                lambda limit=limit: server.teams()["shop"]["dailyLimit"] == limit,
                f"the limit is {limit}",
            )
        load.wait_for(20)
    assert set(load.answers) == {204}
    assert server.teams()["pay"]["dailyLimit"] == 500
    # Over the lowered limit from then on.
    before = upstream.count()["requests"]
    assert server.send(small(0)).status == 204
    assert upstream.count()["requests"] == before
    write_budgets(server.budgets, [budget("pay", 500)])
    wait_until(lambda: "shop" not in server.teams(), "the budget is gone")
    assert server.send(small(0)).status == 204
    assert upstream.count()["requests"] == before + 1


def write_configmap(folder: Path, version: str, *budgets: dict[str, Any]) -> None:
    """Write budgets as a kubelet does: a new directory, and one rename that shows it."""
    new = folder / f"..{version}"
    new.mkdir(parents=True)
    (new / "budgets.yaml").write_text(yaml.safe_dump_all(budgets))
    link = folder / "..data_tmp"
    link.symlink_to(new.name)
    old = (folder / "..data").resolve() if (folder / "..data").exists() else None
    link.rename(folder / "..data")
    if old is None:
        (folder / "budgets.yaml").symlink_to("..data/budgets.yaml")
    else:
        shutil.rmtree(old)


@pytest.mark.parametrize("what", ["directory", "file"])
def test_a_configmap_that_changes_is_seen_and_no_push_is_dropped(tmp_path, upstream, what):
    folder = tmp_path / "configmap"
    write_configmap(folder, "1", SHOP)
    path = folder if what == "directory" else folder / "budgets.yaml"
    server = Sluice(tmp_path / "sluice", path, upstream.url)
    with running(server), shipping(server, small) as load:
        for version, limit in (("2", 10**9), ("3", 2 * 10**9)):
            load.wait_for(10)
            write_configmap(folder, version, budget("shop", limit))
            wait_until(
                lambda limit=limit: server.teams()["shop"]["dailyLimit"] == limit,
                f"the limit is {limit}",
            )
        load.stop()
    assert set(load.answers) == {204}


def test_a_refused_document_leaves_its_last_good_version_and_everybody_is_told(sluice, upstream):
    server = sluice([budget("shop", 111), budget("pay", 222)], upstream.url)
    health = server.get("/api/health").json
    assert (health["status"], health["problems"]) == ("ok", [])
    write_budgets(server.budgets, [budget("shop", "1Gib"), budget("pay", 333)])
    wait_until(lambda: server.teams()["pay"]["dailyLimit"] == 333, "the good one applies")
    assert server.teams()["shop"]["dailyLimit"] == 111
    health = server.get("/api/health").json
    assert health["status"] == "degraded"
    assert health["ready"] is True
    (problem,) = health["problems"]
    assert problem["key"] == "shop/shop"
    assert "spec.dailyLimit" in problem["message"]
    assert problem["file"].endswith("budgets.yaml")
    assert server.metric("tco_budget_problems") == 1
    assert server.metric("tco_budget_reloads_total", result="refused") == 1
    assert "shop/shop: spec.dailyLimit" in server.log.read_text()

    # An unparsable file keeps them all.
    server.budgets.write_text("a: [b\n")
    wait_until(
        lambda: "not YAML" in server.get("/api/health").json["problems"][0]["message"], "it is seen"
    )
    assert {name: team["dailyLimit"] for name, team in server.teams().items()} == {
        "shop": 111,
        "pay": 333,
    }

    # The same key twice: the first counts.
    twice = [budget("shop", 444), budget("pay", 333), budget("shop", 555)]
    write_budgets(server.budgets, twice)
    wait_until(lambda: server.teams()["shop"]["dailyLimit"] == 444, "the first of two applies")
    (problem,) = server.get("/api/health").json["problems"]
    assert "second document" in problem["message"]

    write_budgets(server.budgets, [budget("shop", 666)])
    wait_until(lambda: server.metric("tco_budget_problems") == 0, "all is well")
    assert set(server.teams()) == {"shop"}
    assert server.get("/api/health").json["status"] == "ok"


def test_a_refused_document_is_skipped_at_the_first_start_and_the_rest_apply(sluice, upstream):
    server = sluice([budget("shop", "1Gib"), budget("pay", 222)], upstream.url)
    assert set(server.teams()) == {"pay"}
    assert server.get("/api/health").json["problems"][0]["key"] == "shop/shop"
    assert server.metric("tco_budget_problems") == 1
    assert server.send(small(0)).status == 204
    assert server.counts("pay")["received"]["entries"] == 0


def test_a_jump_of_the_wall_clock_is_told_from_time_that_passes():
    wall, monotonic = [1000.0], [5.0]
    clock = ClockWatch(lambda: wall[0], lambda: monotonic[0])
    for passed, jump in ((10, 0), (1, 3600), (1, 0), (5, -86_400), (1, 0)):
        wall[0] += passed + jump
        monotonic[0] += passed
        assert clock.step() == jump


# settings


class Configured(Sluice):
    """`sluice run` with every setting from the environment."""

    def command(self) -> list[str]:
        return [sys.executable, *self.program(), "run"]


def test_settings_come_from_the_environment_too(tmp_path, upstream):
    budgets = write_budgets(tmp_path / "budgets.yaml", [SHOP])
    server = Configured(tmp_path / "sluice", budgets, upstream.url)
    server.env = {
        "SLUICE_BUDGETS": str(budgets),
        "SLUICE_UPSTREAM": upstream.url,
        "SLUICE_LISTEN": f"127.0.0.1:{server.port}",
        "SLUICE_STATE_DIR": str(tmp_path / "elsewhere"),
        "SLUICE_UPSTREAM_HEADER": "X-Scope-OrgID=ours\nX-Other=a b",
        "SLUICE_MAX_BODY": "2Ki",
        "SLUICE_UNBUDGETED": "drop",
        "SLUICE_NAMESPACE_LABEL": "team namespace",
        "SLUICE_LOG_FORMAT": "json",
        "SLUICE_LOG_LEVEL": "debug",
        # Nobody's header, though a WSGI environment cannot tell.
        "HTTP_PROXY": "http://user:secret@proxy.example",
        "CONTENT_TYPE": "application/json",
    }
    with running(server):
        labels = {"namespace": "free", "team": "shop"}
        streams = [Stream(labels, [Entry(1, "line")]), Stream({"app": "a"}, [Entry(1, "line")])]
        assert server.send(shippers.promtail(streams), "theirs").status == 204
        (push,) = upstream.received()
        sent = shippers.decode(push["body"], push["headers"])
        assert sent == streams[:1]
        assert push["tenant"] == "ours"
        assert push["headers"]["X-Other"] == "a b"
        assert "secret" not in str(push["headers"])
        assert server.push(b"x" * 2049, {"Content-Type": "application/json"}).status == 413
        assert server.push(b"{}", {}).status == 400
        assert (tmp_path / "elsewhere" / "ledger.map").exists()
        assert server.stop() == 0
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, lines))
    assert any("the ledger is written" in line["message"] for line in lines)


def test_a_refused_budget_is_a_json_line_too(sluice, upstream):
    server = sluice([SHOP, budget("pay", "1Gib")], upstream.url, args=["--log-format", "json"])
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (refusal,) = (line for line in lines if line["level"] == "warning")
    assert "pay/pay" in refusal["message"]


# what a shipper sees through a real server


def exchange(sock: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read one answer: status, headers in lower case, body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += received(sock)
    head, _, body = data.partition(b"\r\n\r\n")
    first, *rows = head.decode().split("\r\n")
    headers = dict(row.lower().split(": ", 1) for row in rows)
    while len(body) < int(headers.get("content-length", 0)):
        body += received(sock)
    return int(first.split()[1]), headers, body


def received(sock: socket.socket) -> bytes:
    data = sock.recv(65_536)
    assert data, "the server hung up"
    return data


@pytest.mark.parametrize("chunked", [False, True])
def test_a_shipper_of_a_body_that_is_too_large_sees_the_413_and_may_go_on(
    sluice, upstream, chunked
):
    server = sluice([SHOP], upstream.url)
    size = 20 * MIB
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        if chunked:
            sock.sendall(head_of(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
            for _ in range(size // MIB):
                sock.sendall(b"%x\r\n" % MIB + b"x" * MIB + b"\r\n")
            sock.sendall(b"0\r\n\r\n")
        else:
            sock.sendall(head_of(size) + b"x" * size)
        status, headers, body = exchange(sock)
        assert status == 413
        assert headers["content-type"] == "application/json"
        assert "at most 8388608" in json.loads(body)["error"]
        push = small(0)
        sock.sendall(
            f"POST {push.path} HTTP/1.1\r\nHost: x\r\nContent-Type: {shippers.PROTOBUF}\r\n"
            f"Content-Length: {len(push.body)}\r\n\r\n".encode()
            + push.body
        )
        assert exchange(sock)[0] == 204


def test_a_shipper_that_declares_far_too_much_is_not_listened_to_for_ever(sluice, upstream):
    server = sluice([SHOP], upstream.url)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(head_of(2**40))
        with contextlib.suppress(ConnectionError):
            for _ in range(80):
                sock.sendall(b"x" * MIB)
        assert exchange(sock)[0] == 413


def test_a_shipper_that_hangs_up_in_the_middle_costs_nothing(sluice, upstream):
    server = sluice([SHOP], upstream.url)
    whole = shippers.vector_json([Stream({"namespace": "shop"}, [Entry(1, "line")])]).body
    with half_a_push(server):
        pass
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        # The JSON is complete, the body is not.
        sock.sendall(head_of(len(whole) + 10) + whole)
        sock.shutdown(socket.SHUT_WR)
        wait_until(lambda: server.metric("tco_requests_refused_total") == 2, "both are refused")
    assert server.counts("shop")["received"]["entries"] == 0
    assert upstream.count()["requests"] == 0


def test_a_bad_push_of_megabytes_is_answered_before_the_connection_ends(sluice, upstream):
    server = sluice([SHOP], upstream.url)
    body = b"x" * 5 * MIB
    assert server.push(body, {"Content-Type": "///"}).status == 400
    reply = server.push(body, {"Content-Type": "application/json"})
    assert reply.status == 400
    assert reply.json["status"] == 400


def test_every_status_of_upstream_passes_through_the_server(sluice, upstream):
    server = sluice([SHOP], upstream.url)
    for status in (200, 204, 260, 400, 429, 500, 503):
        upstream.control(f"status:{status}")
        reply = server.send(small(0))
        assert reply.status == status
        assert reply.text == ("" if status == 204 else f"upstream says {status}")
    upstream.control("status:302")
    assert server.send(small(0)).status == 502


def test_a_header_that_is_no_text_does_not_break_a_push(sluice, upstream):
    server = sluice([SHOP], upstream.url)
    push = small(0)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(
            f"POST {push.path} HTTP/1.1\r\nHost: x\r\nContent-Type: {shippers.PROTOBUF}\r\n"
            f"Content-Length: {len(push.body)}\r\n".encode()
            + b"X-Bytes: \xff\xfe\r\nX-Text: za\xc5\xbc\xc3\xb3\xc5\x82\xc4\x87\r\n\r\n"
            + push.body
        )
        assert exchange(sock)[0] == 204


def test_it_serves_on_an_ipv6_address_and_says_from_where_a_push_came(tmp_path, upstream):
    budgets = write_budgets(tmp_path / "budgets.yaml", [SHOP])
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on this machine's loopback")
    server = Sluice(tmp_path / "sluice", budgets, upstream.url)
    server.args = ["--listen", f"[::1]:{server.port}"]
    server.is_ready = lambda: "push to" in server.log.read_text()  # type: ignore[method-assign]
    with running(server):
        push = small(0)

        def connect() -> socket.socket | None:
            with contextlib.suppress(ConnectionRefusedError):
                return socket.create_connection(("::1", server.port), timeout=30)
            return None

        with wait_until(connect, "it serves") as sock:
            sock.sendall(
                f"POST {push.path} HTTP/1.1\r\nHost: x\r\nContent-Type: {shippers.PROTOBUF}\r\n"
                f"Content-Length: {len(push.body)}\r\n\r\n".encode()
                + push.body
            )
            assert exchange(sock)[0] == 204
    (found,) = upstream.received()
    headers = {name.lower(): value for name, value in found["headers"].items()}
    assert headers["x-forwarded-for"] == "::1"


# what it weighs


def test_idle_it_is_smaller_than_140_mb(sluice, upstream):
    server = sluice([SHOP], upstream.url)
    sizes = {process.pid: process.memory_info().rss / 1e6 for process in server.family()}
    shared = sum(process.memory_full_info().pss for process in server.family()) / 1e6
    print(f"resident, idle: {sum(sizes.values()):.0f} MB in {len(sizes)} processes,")
    print(f"without what they share counted twice: {shared:.0f} MB")
    assert len(sizes) == 2
    assert sum(sizes.values()) < 140


# its sisters


def sluice_command(
    *args: str, timeout_s: float = 60, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {n: v for n, v in os.environ.items() if not n.startswith("SLUICE_")}
    environment |= {"SLUICE_DASHBOARD_LISTEN": "127.0.0.1:0"} | variables
    return subprocess.run(
        [sys.executable, "-m", "sluice", *args],
        cwd=TESTS.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def test_the_demo_shows_its_teams_and_ends_when_it_was_told_to():
    listen = f"127.0.0.1:{free_port()}"
    done = sluice_command("demo", "--seconds", "5", "--listen", listen)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for words in ("checkout", "payments", "search", "batch-jobs", "allow", f"http://{listen}/"):
        assert words in done.stdout
    assert is_free(listen)


def is_free(listen: str) -> bool:
    host, _, port = listen.partition(":")
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection((host, int(port))):
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_demo_ends_in_order_when_it_is_told_to_stop(tmp_path, number):
    listen = f"127.0.0.1:{free_port()}"
    with (tmp_path / "demo.log").open("wb") as log:
        demo = subprocess.Popen(
            [
                *(sys.executable, "-m", "sluice", "demo"),
                *("--listen", listen, "--dashboard-listen", "127.0.0.1:0"),
            ],
            cwd=TESTS.parent,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_until(lambda: not is_free(listen), "the demo serves")
        family = [psutil.Process(demo.pid), *psutil.Process(demo.pid).children(recursive=True)]
        os.killpg(demo.pid, number)
        assert demo.wait(15) == 0
        assert not psutil.wait_procs(family, timeout=5)[1]
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.wait()
    assert "Traceback" not in (tmp_path / "demo.log").read_text()


def test_the_demo_says_so_when_its_port_is_taken():
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        done = sluice_command("demo", "--seconds", "5", "--listen", f"127.0.0.1:{port}")
    assert done.returncode == 2
    assert "Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_demo_leaves_a_sluice_alone_that_has_its_port(sluice, upstream):
    server = sluice([SHOP], upstream.url)
    done = sluice_command("demo", "--seconds", "3", "--listen", f"127.0.0.1:{server.port}")
    assert done.returncode == 2
    assert "Address already in use" in done.stderr
    assert upstream.received() == []
    assert done.stdout == ""


def test_what_is_set_for_a_run_in_earnest_is_not_for_the_demo():
    listen = f"127.0.0.1:{free_port()}"
    settings = {"SLUICE_AUTH": "header:X-User", "SLUICE_UPSTREAM_TIMEOUT": "none"}
    done = sluice_command("demo", "--seconds", "3", "--listen", listen, **settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert "checkout" in done.stdout


def test_the_demo_ends_when_what_it_shows_has_ended(tmp_path):
    listen = f"127.0.0.1:{free_port()}"
    with (tmp_path / "demo.log").open("wb") as log:
        demo = subprocess.Popen(
            [
                *(sys.executable, "-m", "sluice", "demo"),
                *("--listen", listen, "--dashboard-listen", "127.0.0.1:0"),
            ],
            cwd=TESTS.parent,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: not is_free(listen), "the demo serves")
        wait_until(lambda: "checkout" in (tmp_path / "demo.log").read_text(), "it shows teams")
        (run,) = psutil.Process(demo.pid).children()
        run.kill()
        assert demo.wait(15) == 1
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.wait()
    assert "sluice demo: its sluice run ended, with -9" in (tmp_path / "demo.log").read_text()


def test_the_demo_has_to_know_its_port():
    done = sluice_command("demo", "--seconds", "3", "--listen", "127.0.0.1:0")
    assert done.returncode == 2
    assert "has to know its port" in done.stderr


def test_validate_tells_good_budgets_from_bad_ones_by_its_exit_code(tmp_path):
    good = write_budgets(tmp_path / "good.yaml", [SHOP])
    bad = write_budgets(tmp_path / "bad.yaml", [budget("pay", "1Gib")])
    done = sluice_command("validate", str(good))
    assert (done.returncode, done.stderr) == (0, "")
    assert "shop/shop: ok" in done.stdout
    done = sluice_command("validate", str(good), str(bad))
    assert done.returncode == 1
    assert "bad.yaml" in done.stderr
    assert "spec.dailyLimit" in done.stderr


def test_every_command_has_a_help_that_names_its_settings():
    assert "SLUICE_UPSTREAM_TIMEOUT" in sluice_command("run", "--help").stdout
    assert "validate" in sluice_command("--help").stdout
    assert sluice_command("--version").stdout.startswith("sluice, version ")
