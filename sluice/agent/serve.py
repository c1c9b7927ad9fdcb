"""Runs a WSGI application under granian: a supervisor and exactly one worker process.

The supervisor checks what can be checked (state directory, port) before it forks, so that
mistakes end with exit code 2 and a sentence. The worker dies with its supervisor, and the lock
on the state directory is one open file of both: while either lives, nobody else serves.
"""

import ctypes
import fcntl
import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import flask
import granian
from granian.constants import Interfaces, RuntimeModes
from granian.http import HTTP1Settings
from granian.log import LogLevels

from sluice import port, settings

log = logging.getLogger("sluice")

LOCK_WAIT_S = 5.0
# After SIGTERM, pushes in flight have IN_FLIGHT_S. What is written down and reported after that
# takes up to 4 s more; then the supervisor kills. Kubernetes kills after 30.
IN_FLIGHT_S, STOP_WAIT_S = 5.0, 9
STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}
PR_SET_PDEATHSIG = 1
# glibc's M_ARENA_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD; a libc without them says no.
MALLOC_OPTIONS = ((-8, 1), (-3, 4 * 2**20), (-1, 2 * 2**20))


class Service(Protocol):
    """What runs in the worker beside the server."""

    def start(self) -> flask.Flask:
        """Called in the worker before it serves; returns what it serves."""

    def give_up(self) -> None:
        """Called in the worker IN_FLIGHT_S after a signal to stop: end pushes that still wait."""

    def stop(self) -> None:
        """Called in the worker after the last answer."""


def locked(directory: Path, wait: float = LOCK_WAIT_S) -> int:
    """Take the directory for this process and its children; returns the lock's descriptor.

    Raises:
        CannotStart: somebody else has it, still after `wait` seconds, or it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise port.CannotStart(f"state directory {directory}: {error.strerror}") from error
    until = time.monotonic() + wait
    is_told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(descriptor)
                raise port.CannotStart(
                    f"state directory {directory}: another process has it,"
                    f" and still had after {wait:g} s"
                ) from None
            if not is_told:
                is_told = True
                log.warning(
                    "state directory %s: another process has it; waiting up to %g s",
                    directory,
                    wait,
                )
            time.sleep(0.05)
        else:
            return descriptor


def kept(directory: Path, descriptor: int) -> int:
    """The lock on the directory, taken again if its file was removed; returns its descriptor.

    Raises:
        CannotStart: another process has it now, or it cannot be made.
    """
    try:
        if os.path.samestat((directory / "lock").stat(), os.fstat(descriptor)):
            return descriptor
    except OSError:
        pass
    new = locked(directory, wait=0)
    os.close(descriptor)
    return new


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def return_memory() -> None:
    """Have malloc keep one arena, and give back what it has free at its end.

    With an arena for each of many threads, what a few large pushes needed stays for good: 70 MB
    more than idle at 8 connections, 48 so. A threshold below the usual body costs more: at 128 KiB
    a push of 1 MiB took 1.2 CPU ms and not 0.9, for its pages are mapped anew each time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in MALLOC_OPTIONS:
            mallopt(option, value)


def end_on_signals() -> None:
    """End with exit code 0 when told to stop; until the server has handlers of its own."""
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: sys.exit(0))


def block_signals_in_children() -> None:
    """Have children begin with STOP_SIGNALS blocked; none is lost before they can heed it."""
    mask = signal.pthread_sigmask
    os.register_at_fork(
        before=lambda: mask(signal.SIG_BLOCK, STOP_SIGNALS),
        after_in_parent=lambda: mask(signal.SIG_UNBLOCK, STOP_SIGNALS),
    )


def heed_one_signal(give_up: Callable[[], None]) -> None:
    """Have the first signal to stop handled by a thread, and no other one at all.

    Ctrl-C and systemd signal the whole group, and the supervisor then signals the worker once
    more. granian's handler takes a lock; a second one on top of it would wait for the first.
    """
    supervisors = signal.getsignal(signal.SIGTERM)

    def heed() -> None:
        signal.sigwait(STOP_SIGNALS)
        # It may come before the server is there to handle it.
        while (handler := signal.getsignal(signal.SIGTERM)) is supervisors:
            time.sleep(0.01)
        handler(signal.SIGTERM, None)  # type: ignore[operator, misc]
        time.sleep(IN_FLIGHT_S)
        give_up()

    threading.Thread(target=heed, name="signals", daemon=True).start()


def serve(
    service: Service, address: settings.Address, *, threads: int, log_config: dict[str, Any]
) -> None:
    """Serve until SIGTERM or SIGINT; ends with SystemExit(1) if the worker died by itself.

    Args:
        threads: requests at work at a time.
    """
    # Forked, so that lock and ledger are the supervisor's own; before any thread is started.
    multiprocessing.set_start_method("fork", force=True)
    supervisor = os.getpid()
    block_signals_in_children()
    server = granian.Granian(
        "sluice",
        address=port.numeric(address.host, address.port),
        port=address.port,
        interface=Interfaces.WSGI,
        workers=1,
        blocking_threads=threads,
        blocking_threads_idle_timeout=600,
        runtime_mode=RuntimeModes.st,
        http1_settings=HTTP1Settings(max_buffer_size=2**20),
        backpressure=4096,
        websockets=False,
        workers_kill_timeout=STOP_WAIT_S,
        log_level=LogLevels.warning,
        log_dictconfig=log_config,
    )

    # There must never be a second worker, and budgets are read anew without being told.
    server.signal_handler_reload = lambda *_: None  # type: ignore[method-assign]

    def load(_target: str) -> flask.Flask:
        die_with(supervisor)
        return_memory()
        heed_one_signal(service.give_up)
        # HTTP_PROXY is no header that a shipper sent.
        settings.keep_from_requests()
        app = service.start()
        # What stands from the start is no garbage; to look through it held all pushes for 40 ms.
        gc.collect()
        gc.freeze()
        return app

    def work(*args: Any, **kwargs: Any) -> None:
        try:
            granian.Granian._spawn_wsgi_worker(*args, **kwargs)
        finally:
            service.stop()

    try:
        server.serve(spawn_target=work, target_loader=load)
    except SystemExit:
        # Ctrl-C reaches the worker too, which may be gone before the supervisor asks it to go.
        if not server.interrupt_signal:
            raise
