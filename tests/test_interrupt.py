"""Ctrl-C while a process of Sluice starts: it ends at once, and shows no traceback.

The interpreter's own start is not Sluice's, so that each test waits for a module that Sluice has
imported; `-X importtime` says when.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from harness import TESTS, free_port, write_budgets
from runs import SHOP

INTERRUPTED = 130
# In the order in which `run` loads them.
MODULES = ("click.core", "numpy", "flask", "sluice.settings", "sluice.flags", "sluice.agent.serve")


def interrupted(args: Sequence[str], module: str, delay_s: float = 0) -> tuple[int, str]:
    """Start `sluice`, and send SIGINT `delay_s` after a module was loaded; exit code and output."""
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "sluice", *args],
        cwd=TESTS.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Where the tests run in the background it may be ignored, and processes inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    deadline = threading.Timer(30, process.kill)
    deadline.start()
    try:
        for line in process.stderr:
            if line.startswith("import time:") and line.rpartition("|")[2].strip() == module:
                break
        else:
            raise AssertionError(f"it did not load {module}")
        time.sleep(delay_s)
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
    finally:
        deadline.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    lines = (line for line in said.splitlines() if not line.startswith("import time:"))
    return process.returncode, "\n".join(lines)


@pytest.fixture
def run_args(tmp_path: Path) -> list[str]:
    """Arguments of a `sluice run` that would start."""
    budgets = write_budgets(tmp_path / "budgets.yaml", [SHOP])
    flags = {"--budgets": budgets, "--upstream": "http://127.0.0.1:9"}
    flags |= {"--state-dir": tmp_path / "state"}
    flags |= {name: f"127.0.0.1:{free_port()}" for name in ("--listen", "--dashboard-listen")}
    return ["run", *(str(word) for pair in flags.items() for word in pair)]


@pytest.mark.parametrize("module", MODULES)
def test_interrupted_while_it_loads_it_ends_with_130_and_says_nothing(run_args, module: str):
    assert interrupted(run_args, module) == (INTERRUPTED, "")


@pytest.mark.parametrize("delay_s", [0.05, 0.1, 0.2, 0.4])
def test_interrupted_at_any_moment_of_its_start_it_shows_no_traceback(run_args, delay_s: float):
    code, said = interrupted(run_args, "click.core", delay_s)
    # 0: it was about to serve, and stopped as if it had.
    assert code in (0, INTERRUPTED)
    assert "Traceback" not in said


@pytest.mark.parametrize("command", ["controller", "dashboard", "agent"])
@pytest.mark.parametrize("module", ["click.core", "sluice.flags"])
def test_the_processes_of_a_cluster_end_as_quietly(tmp_path: Path, command: str, module: str):
    nowhere = ["--kubeconfig", str(tmp_path / "config")]
    code, said = interrupted([command, *nowhere], module)
    assert code == INTERRUPTED
    assert "Traceback" not in said


def test_what_a_shell_starts_in_the_background_goes_on():
    ignoring = "import signal, os, sys; signal.signal(signal.SIGINT, signal.SIG_IGN);"
    program = f"{ignoring} from sluice import __main__; sys.argv = ['sluice', '--version'];"
    interrupt = "import importlib; load = importlib.import_module;"
    kill = "importlib.import_module = lambda n: (os.kill(os.getpid(), signal.SIGINT), load(n))[1];"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}{interrupt}{kill} __main__.main()"],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("sluice, version ")
