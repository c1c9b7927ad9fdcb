"""Where pushes go, told to a `sluice run`: loops, proxies, ports, and what it waits for."""

import re
import socket
from pathlib import Path

import pytest
from harness import Sluice, Upstream, free_port, running, wait_until, write_budgets
from runs import SHOP, sluice_command, small
from test_upstream_tls import proxying

from sluice.agent.destination import Destination
from sluice.settings import Address


def made(tmp_path: Path, name: str, upstream: str, **more: object) -> Sluice:
    budgets = write_budgets(tmp_path / f"{name}.yaml", [SHOP])
    return Sluice(tmp_path / name, budgets, upstream, **more)  # type: ignore[arg-type]


def pushed_bytes(server: Sluice) -> dict[str, int]:
    return {name: count["bytes"] for name, count in server.counts("shop").items() if count["bytes"]}


def test_a_push_that_comes_back_through_another_sluice_is_a_loop_and_costs_nothing(tmp_path):
    one, two = made(tmp_path, "one", ""), made(tmp_path, "two", "")
    one.upstream, two.upstream = two.url, one.url
    with running(one, two):
        reply = one.send(small(0))
        assert reply.status == 508
        assert "--upstream leads back" in reply.text
        assert [pushed_bytes(server)["refused"] for server in (one, two)] == [1000, 1000]
        assert one.teams()["shop"]["currentUsage"] == two.teams()["shop"]["currentUsage"] == 0
        assert one.metric("tco_requests_refused_total", reason="LoopDetected") == 1


def test_a_chain_of_two_is_no_loop(tmp_path, upstream: Upstream):
    last = made(tmp_path, "last", upstream.url)
    first = made(tmp_path, "first", last.url)
    with running(last, first):
        push = small(0)
        assert first.push(push.body, {**push.headers, "Via": "1.1 nginx"}).status == 204
    (arrived,) = upstream.received()
    via = next(value for name, value in arrived["headers"].items() if name.lower() == "via")
    match = re.fullmatch("1.1 nginx, 1.1 (sluice-[0-9a-f]{16}), 1.1 (sluice-[0-9a-f]{16})", via)
    assert match is not None
    assert match[1] != match[2]


def test_an_upstream_that_is_sluice_itself_is_refused_at_once(tmp_path):
    port = free_port()
    budgets = write_budgets(tmp_path / "budgets.yaml", [SHOP])
    done = sluice_command(
        "run", "--budgets", str(budgets), "--state-dir", str(tmp_path / "state"),
        "--upstream", f"http://localhost:{port}", "--listen", f"0.0.0.0:{port}",
    )  # fmt: skip
    assert done.returncode == 2
    assert f"upstream localhost:{port} is where Sluice itself listens" in done.stderr


@pytest.mark.parametrize(
    ("host", "listen", "is_loop"),
    [
        *((host, "0.0.0.0", True) for host in ("127.0.0.1", "localhost", "0.0.0.0", "127.0.0.9")),
        (socket.gethostname(), "0.0.0.0", True),
        ("[::1]", "::", True),
        ("127.0.0.1", "localhost", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("127.0.0.9", "127.0.0.1", False),
        # Of documentation, RFC 5737: nobody's.
        ("192.0.2.1", "0.0.0.0", False),
        ("nowhere.invalid", "0.0.0.0", False),
    ],
)
def test_an_upstream_is_a_loop_where_its_address_is_listened_on(host, listen, is_loop):
    if ":" in host and not has_ipv6():
        pytest.skip("no IPv6 here")
    to = Destination.parse(f"http://{host}:8080")
    assert to.is_at(Address(listen, 8080)) == is_loop
    assert not to.is_at(Address(listen, 8081))


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_a_port_that_was_free_is_said(tmp_path, upstream):
    server = made(tmp_path, "sluice", upstream.url)
    server.port = server.dashboard_port = 0
    server.launch()
    try:
        found = wait_until(
            lambda: re.search(
                r"push to http://127\.0\.0\.1:(\d+)/.*dashboard on http://127\.0\.0\.1:(\d+)/",
                server.log.read_text(),
            ),
            "the ports are said",
        )
        server.port = int(found[1])
        wait_until(server.is_ready, "it is ready")
        assert server.send(small(0)).status == 204
        with socket.create_connection(("127.0.0.1", int(found[2])), timeout=10):
            pass
        assert server.port != int(found[2]) != 0
    finally:
        server.kill()


def test_what_is_waited_for_at_the_start_is_said_at_once(tmp_path, upstream):
    server = made(tmp_path, "sluice", upstream.url)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", server.port))
        server.launch()
        words = f"port {server.port} of 127.0.0.1 is taken; waiting up to 5 s for it"
        wait_until(lambda: words in server.log.read_text(), "it says that it waits")
    try:
        wait_until(server.is_ready, "it has begun")
        second = made(tmp_path, "second", upstream.url, state_dir=server.state_dir)
        second.launch()
        words = f"state directory {server.state_dir}: another process has it; waiting up to 5 s"
        wait_until(lambda: words in second.log.read_text(), "it says that it waits")
        second.kill()
    finally:
        server.kill()


def test_the_proxy_of_the_environment_is_used_and_no_part_of_it_is_a_header(tmp_path):
    with proxying() as proxy:
        url = f"http://user:secret@127.0.0.1:{proxy.port}"
        env = {"HTTP_PROXY": url, "http_proxy": url, "NO_PROXY": "", "no_proxy": ""}
        # A line end at its end, as of a file.
        server = made(tmp_path, "sluice", " http://loki.invalid:3100/base\n", env=env)
        with running(server):
            assert server.send(small(0)).status == 204
            health = server.get("/api/health").text
            log = server.log.read_text()
    (head,) = proxy.heads
    assert head.startswith(b"POST http://loki.invalid:3100/base/loki/api/v1/push HTTP/1.1\r\n")
    assert b"\r\nproxy:" not in head.lower()
    assert "pushes go to http://loki.invalid:3100/base/loki/api/v1/push" in log
    assert f", through the proxy http://127.0.0.1:{proxy.port}\n" in log
    assert "secret" not in log + health


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--upstream", "https://loki", "--upstream-key", __file__], "without --upstream-cert"),
        (["--upstream", "http://loki", "--upstream-cert", __file__], "is not https://"),
        (["--upstream", "https://loki", "--upstream-cert", __file__], "client certificate"),
        (["--upstream", "http://loki:99999"], "got 99999"),
    ],
)
def test_what_makes_no_sense_together_is_refused(tmp_path, args, words):
    budgets = write_budgets(tmp_path / "budgets.yaml", [SHOP])
    state = str(tmp_path / "state")
    listen = f"127.0.0.1:{free_port()}"
    done = sluice_command(
        "run", "--budgets", str(budgets), "--state-dir", state, "--listen", listen, *args
    )
    assert done.returncode == 2
    assert words in done.stderr
