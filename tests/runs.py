"""What tests of running processes share: a budget, pushes of a size, half a push, and commands of
`sluice` that end by themselves."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import shippers
from harness import TESTS, Sluice, budget, wait_until
from shippers import PUSH_PATH, Entry, Push, Stream

SHOP = budget("shop", "1Gi")


def push_of(size: int, namespace: str = "shop", line: int = 100) -> Push:
    """A push of `size` bytes in lines of `line`."""
    held = [Entry(i + 1, "x" * line) for i in range(size // line)]
    return shippers.promtail([Stream({"namespace": namespace, "app": "a"}, held)])


def small(_: int) -> Push:
    return push_of(1000)


@contextlib.contextmanager
def half_a_push(server: Sluice) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(head_of(1000) + b"x" * 10)
        wait_until(lambda: server.metric("tco_bodies_receiving") == 1, "it is being read")
        yield sock


def head_of(length: int, path: str = PUSH_PATH) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {length}\r\n\r\n".encode()


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
