"""Servers as processes, wrk as their load, and what the servers' CPUs did meanwhile."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from harness import Server, free_port

HERE = Path(__file__).parent
NGINX_CONF = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  client_max_body_size 64m;
  client_body_buffer_size {buffer};
  upstream sink {{ server 127.0.0.1:{sink}; keepalive 32; }}
  server {{
    listen 127.0.0.1:{port};
    location = /ready {{ return 200; }}
    location / {{
      proxy_pass http://sink;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_request_buffering {buffering};
    }}
  }}
}}
"""


def need(*programs: str) -> None:
    """Skip the benchmark if one of these programs is not installed."""
    missing = [name for name in programs if shutil.which(name, path=search_path()) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (Debian packages of that name)")


def search_path() -> str:
    # Debian has nginx where only root's PATH looks.
    return f"{os.environ.get('PATH', '')}:/usr/sbin"


class Script(Server):
    """A Python file of this folder."""

    def __init__(self, folder: Path, script: str, *args: str) -> None:
        self.name = "-".join([script.removesuffix(".py"), *args])
        super().__init__(folder)
        self.port = free_port()
        self.script, self.args = script, args

    def command(self) -> list[str]:
        return [sys.executable, str(HERE / self.script), *self.args, str(self.port)]

    def environment(self) -> dict[str, str]:
        paths = [str(HERE), str(HERE.parent), str(HERE.parent / "tests")]
        return {**super().environment(), "PYTHONPATH": ":".join(paths)}


class Nginx(Server):
    """Debian's nginx, which passes everything on to the sink."""

    name = "nginx"

    def __init__(
        self, folder: Path, sink: Server, *, buffering: str = "off", buffer: str = "2m"
    ) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.config = folder / "nginx.conf"
        self.config.write_text(
            NGINX_CONF.format(
                folder=folder, port=self.port, sink=sink.port, buffering=buffering, buffer=buffer
            )
        )

    def command(self) -> list[str]:
        nginx = shutil.which("nginx", path=search_path())
        assert nginx is not None
        return [nginx, "-c", str(self.config), "-e", str(self.folder / "error.log")]


class Load(NamedTuple):
    """What one run of wrk saw, and the CPU seconds that the servers took."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_s: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    @property
    def cpu_per_request(self) -> float:
        return self.cpu_s / self.requests


def cpu_s(processes: Sequence[psutil.Process]) -> float:
    """CPU seconds of the processes so far: user and system, from /proc/PID/stat."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def drive(
    server: Server,
    bodies: Sequence[Path],
    seconds: float,
    connections: int,
    meanwhile: Callable[[], object] = lambda: time.sleep(0.05),
) -> Load:
    """Push the bodies at the server, in turn, as fast as it takes them.

    Args:
        meanwhile: called again and again until wrk has ended.
    """
    family = server.family()
    before = cpu_s(family)
    command = [
        *("wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "30s"),
        *("-s", str(HERE / "push.lua"), server.url, "--", *map(str, bodies)),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as wrk:
        while wrk.poll() is None:
            meanwhile()
        assert wrk.stdout is not None
        output = wrk.stdout.read()
    used = cpu_s(family) - before
    said = json.loads(output.splitlines()[-1])
    assert said.pop("failed") == 0, f"{output}\n{server.tail()}"
    return Load(**said, cpu_s=used)


@contextlib.contextmanager
def files(folder: Path, bodies: Sequence[bytes]) -> Iterator[list[Path]]:
    """The bodies as files, for wrk."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i}.body" for i in range(len(bodies))]
    for path, body in zip(paths, bodies, strict=True):
        path.write_bytes(body)
    yield paths
    shutil.rmtree(folder)
