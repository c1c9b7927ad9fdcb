"""The sisters of `sluice run` as processes: demo, validate, and help."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from harness import TESTS, budget, free_port, wait_until, write_budgets
from runs import SHOP, sluice_command


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


def test_a_process_carries_no_library_that_only_other_commands_need():
    code = (
        "import sys, sluice.commands, sluice.standalone\n"
        "print(*{'rich', 'kubernetes', 'apprise'} & sys.modules.keys())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=TESTS.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout == "\n"


@contextlib.contextmanager
def demoing(log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A demo that serves, in a session of its own; what it shows goes to `log`."""
    listen = f"127.0.0.1:{free_port()}"
    with log.open("wb") as out:
        demo = subprocess.Popen(
            [
                *(sys.executable, "-m", "sluice", "demo"),
                *("--listen", listen, "--dashboard-listen", "127.0.0.1:0"),
            ],
            cwd=TESTS.parent,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        wait_until(lambda: not is_free(listen), "the demo serves")
        yield demo
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_demo_ends_in_order_when_it_is_told_to_stop(tmp_path, number):
    log = tmp_path / "demo.log"
    with demoing(log) as demo:
        family = [psutil.Process(demo.pid), *psutil.Process(demo.pid).children(recursive=True)]
        os.killpg(demo.pid, number)
        assert demo.wait(15) == 0
        assert not psutil.wait_procs(family, timeout=5)[1]
    assert "Traceback" not in log.read_text()


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
    log = tmp_path / "demo.log"
    with demoing(log) as demo:
        wait_until(lambda: "checkout" in log.read_text(), "it shows teams")
        (run,) = psutil.Process(demo.pid).children()
        run.kill()
        assert demo.wait(15) == 1
    assert "sluice demo: its sluice run ended, with -9" in log.read_text()


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


def test_the_public_names_are_listed_before_they_are_loaded() -> None:
    code = "import sluice; print(set(sluice.__all__) <= set(dir(sluice)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "True\n"
