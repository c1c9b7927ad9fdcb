"""Runs an unpacked image as a container runtime would, and says whether it behaves. Needs root.

    python3 tools/image_check.py ROOT INSPECTED

ROOT is the image's file system, INSPECTED what `buildah inspect` says of it. The container gets a
mount and a process namespace of its own, a read-only root, its state directory as the only place
to write, no capabilities and the image's user; the network is the host's.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "deploy" / "k8s" / "example-teambudget.yaml"
STATE = "/var/lib/sluice"
USER = "65532:65532"
COMPILERS = ("gcc", "cc", "g++", "clang", "tcc", "as", "ld", "make", "cython")
START_S = 30.0
# A push in flight may take 9 s; there is none.
STOP_S = 15.0

# What the runtime does before the image's program becomes the namespace's first process.
PREPARE = """
root=$1; user=$2; shift 2
mount --bind "$root" "$root"
mount -t tmpfs -o mode=0700,uid=${user%:*},gid=${user#*:} state "$root/var/lib/sluice"
cp "$BUDGETS" "$root/var/lib/sluice/budgets.yaml"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -o remount,bind,ro "$root"
exec chroot "$root" /usr/bin/setpriv --reuid="${user%:*}" --regid="${user#*:}" --clear-groups \\
    --no-new-privs --bounding-set=-all /usr/bin/env -i --chdir=/var/lib/sluice "$@"
"""


class Wrong(Exception):
    """The image does not behave; the text says how."""


class Image:
    """An unpacked image and how it wants to be run."""

    def __init__(self, root: Path, config: dict[str, Any]) -> None:
        self.root = root
        self.env: list[str] = config["Env"]
        self.entrypoint: list[str] = config["Entrypoint"]
        self.user: str = config["User"]

    def start(self, *args: str, program: list[str] | None = None) -> subprocess.Popen[str]:
        """Start the image's program, or another one, and return the process that waits for it."""
        apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation=private"]
        prepare = ["sh", "-euc", PREPARE, "sh", str(self.root), self.user]
        return subprocess.Popen(
            [*apart, *prepare, *self.env, *(program or self.entrypoint), *args],
            env={**os.environ, "BUDGETS": str(EXAMPLE)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *args: str, program: list[str] | None = None) -> tuple[int, str]:
        """Run it to its end: exit code and output."""
        process = self.start(*args, program=program)
        output, _ = process.communicate(timeout=START_S)
        return process.returncode, output.strip()


def expect(wanted: object, found: object, what: str) -> None:
    """Say that it is so, or end."""
    if found != wanted:
        raise Wrong(f"{what}: {found!r}, {wanted!r} expected")
    print(f"  {what}: {found}")


def check_contents(image: Image) -> None:
    """What is in it, what is not, and who runs it."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    python = ["/opt/sluice/bin/python", "-c"]
    core = (
        "from sluice import _core, evaluate_usage_stateless as e; print(e('t', 100, 70, 11).name)"
    )
    expect((0, f"sluice, version {version}"), image.run("--version"), "sluice --version")
    expect((0, "throttle"), lower(image.run(program=[*python, core])), "the core decides")
    for command in ("run", "demo", "agent", "controller", "dashboard", "top", "validate"):
        expect(0, image.run(command, "--help")[0], f"sluice {command} --help")
    cluster = "import sluice.agent.daemon, sluice.controller.process, sluice.dashboard.process"
    expect((0, ""), image.run(program=[*python, cluster]), "what the cluster's processes need")
    expect(USER, image.user, "user of the image")
    expect((0, "65532"), image.run(program=["id", "-u"]), "id -u")
    search = f"for tool in {' '.join(COMPILERS)}; do command -v $tool; done; true"
    expect((0, ""), image.run(program=["sh", "-c", search]), "compilers in it")
    pip = "import importlib.util as u; print(u.find_spec('pip'))"
    expect((0, "None"), image.run(program=[*python, pip]), "pip in Sluice's environment")
    touch = f"for each in / /tmp /opt/sluice {STATE}; do touch $each/x 2>&- && echo $each; done"
    expect((0, STATE), image.run(program=["sh", "-c", touch]), "what can be written")


def lower(answer: tuple[int, str]) -> tuple[int, str]:
    return answer[0], answer[1].lower()


def check_service(image: Image) -> None:
    """`sluice run` with a budget and a dead upstream is ready, and ends when it is told to."""
    port, pages_port = free_port(), free_port()
    process = image.start(
        *("run", "--budgets", f"{STATE}/budgets.yaml", "--upstream", "http://127.0.0.1:9"),
        *("--listen", f"127.0.0.1:{port}", "--dashboard-listen", f"127.0.0.1:{pages_port}"),
    )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answer(url + "/ready", process)[0] == 200, START_S, "/ready answers 200")
        teams = json.loads(answer(url + "/api/teams", process)[1])["teams"]
        expect(["backend-team"], [team["name"] for team in teams], "teams of /api/teams")
        expect("new", json.loads(answer(url + "/api/health", process)[1])["ledger"]["origin"],
               "the ledger")  # fmt: skip
        pages = f"http://127.0.0.1:{pages_port}"
        for path in ("/", "/teams/default/backend-team", "/static/style.css",
                     "/static/plotly.min.js"):  # fmt: skip
            expect(200, answer(pages + path, process)[0], f"the dashboard's {path}")
        os.kill(first_child(process.pid), signal.SIGTERM)
        output, _ = process.communicate(timeout=STOP_S)
        expect(0, process.returncode, "exit code after SIGTERM")
        if "the ledger is written" not in output:
            raise Wrong(f"it did not end in order:\n{output}")
    except BaseException:
        process.kill()
        print(process.communicate()[0], file=sys.stderr)
        raise


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def first_child(pid: int) -> int:
    """The first process of the container: what unshare forked."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def answer(url: str, process: subprocess.Popen[str]) -> tuple[int, str]:
    """Status and body; status 0 while nobody answers."""
    if process.poll() is not None:
        raise Wrong(f"it ended with exit code {process.returncode}")
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def wait_until(holds: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise Wrong(f"not in {timeout_s:g} s: {what}")
        time.sleep(0.05)
    print(f"  {what}")


def main() -> int:
    root, inspected = sys.argv[1:]
    image = Image(Path(root), json.loads(Path(inspected).read_text())["OCIv1"]["config"])
    try:
        check_contents(image)
        check_service(image)
    except (Wrong, subprocess.TimeoutExpired) as wrong:
        print(f"image: {wrong}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
