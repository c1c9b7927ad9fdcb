"""Runs the agent under granian: a supervisor and exactly one worker process.

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
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import granian
from granian.constants import HTTPModes, Interfaces, RuntimeModes
from granian.http import HTTP1Settings
from granian.log import LogLevels

from sluice import connections, port, settings
from sluice.agent import inline, intake

log = logging.getLogger("sluice")

LOCK_WAIT_S = 5.0
# After SIGTERM, pushes in flight have IN_FLIGHT_S, and CUT_S once they are cut off. What is written
# down and reported after that takes up to 4 s more; then the supervisor kills. Kubernetes kills
# after 30.
IN_FLIGHT_S, CUT_S, STOP_WAIT_S = 4.0, 0.5, 9
# A head that is dripped. It is also how long the server keeps an idle connection, which
# connections.py closes before.
HEAD_S = connections.IDLE_S + 10
# Files that are no connections.
SPARE_FILES = 256
FLUSH_S = 0.2
STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}
PR_SET_PDEATHSIG = 1
# glibc's M_ARENA_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD; a libc without them says no.
MALLOC_OPTIONS = ((-8, 1), (-3, 4 * 2**20), (-1, 8 * 2**20))


class Service(Protocol):
    """What runs in the worker beside the server."""

    def start(self) -> intake.Intake:
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
    a push of 1 MiB took 1.2 CPU ms and not 0.9, for its pages are mapped anew each time. Where more
    than 2 or 4 MiB free at the end were given back, a body of 2 MB cost 60 to 160 page faults.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in MALLOC_OPTIONS:
            mallopt(option, value)


def end_on_signals() -> None:
    """End with exit code 0 when told to stop, until the server has handlers of its own.

    Not by SystemExit, which is lost where the signal comes inside a callback. What is on disk is
    safe from kills, and there are no children yet.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: os._exit(0))


def block_signals_in_children() -> None:
    """Have children begin with STOP_SIGNALS blocked; none is lost before they can heed it."""
    mask = signal.pthread_sigmask
    os.register_at_fork(
        before=lambda: mask(signal.SIG_BLOCK, STOP_SIGNALS),
        after_in_parent=lambda: mask(signal.SIG_UNBLOCK, STOP_SIGNALS),
    )


def heed_one_signal(
    app: intake.Intake, guard: connections.Guard, give_up: Callable[[], None]
) -> None:
    """Have the first signal to stop handled by a thread, and no other one at all.

    Ctrl-C and systemd signal the whole group, and the supervisor then signals the worker once
    more. Requests at work are waited for here: granian waits for senders that never finish.
    """

    def heed() -> None:
        signal.sigwait(STOP_SIGNALS)
        # It may come before the server is there to handle it.
        while app.loop is None:
            time.sleep(0.01)
        app.loop.handlers[signal.SIGTERM]()
        if not app.stop(IN_FLIGHT_S):
            give_up()
            app.stop(CUT_S)
        guard.stop()
        # Answers that are being sent have a moment.
        time.sleep(FLUSH_S)
        guard.close_all()
        app.loop.stop()

    threading.Thread(target=heed, name="signals", daemon=True).start()


def serve(
    service: Service, address: settings.Address, *, threads: int, log_config: dict[str, Any]
) -> None:
    """Serve until SIGTERM or SIGINT; ends with SystemExit(1) if the worker died by itself.

    Args:
        threads: what the application needs, see intake.threads_for().
    """
    # Forked, so that lock and ledger are the supervisor's own; before any thread is started.
    multiprocessing.set_start_method("fork", force=True)
    supervisor = os.getpid()
    block_signals_in_children()
    files = connections.raise_file_limit()
    server = granian.Granian(
        "sluice",
        address=port.numeric(address.host, address.port),
        port=address.port,
        interface=Interfaces.RSGI,
        # HTTP/2 would have limits of its own, and no shipper speaks it without TLS.
        http=HTTPModes.http1,
        workers=1,
        runtime_mode=RuntimeModes.st,
        loop=inline.NAME,  # type: ignore[arg-type]
        http1_settings=HTTP1Settings(
            header_read_timeout=round(HEAD_S * 1000), max_buffer_size=2**20
        ),
        backlog=4096,
        # The guard thins out a crowd long before; at the limit nobody is let in, probes neither.
        backpressure=max(files - SPARE_FILES, files // 2),
        websockets=False,
        workers_kill_timeout=STOP_WAIT_S,
        log_level=LogLevels.warning,
        log_dictconfig=log_config,
    )

    def widen() -> None:
        # Not before: it believes that all threads but one would be of no use without WSGI.
        server.blocking_threads = threads
        server.blocking_threads_idle_timeout = 600

    server.on_startup(widen)
    # There must never be a second worker, and budgets are read anew without being told.
    server.signal_handler_reload = lambda *_: None  # type: ignore[method-assign]

    def load(_target: str) -> intake.Intake:
        die_with(supervisor)
        return_memory()
        app = service.start()
        guard = connections.Guard(address.port, app.is_busy)
        guard.start()
        heed_one_signal(app, guard, service.give_up)
        # Start-up objects are no garbage: to scan them stalled all pushes for 40 ms.
        gc.collect()
        gc.freeze()
        return app

    def work(*args: Any, **kwargs: Any) -> None:
        try:
            granian.Granian._spawn_rsgi_worker(*args, **kwargs)
        finally:
            service.stop()

    try:
        server.serve(spawn_target=work, target_loader=load)  # type: ignore[arg-type]
    except SystemExit:
        # Ctrl-C reaches the worker too, which may be gone before the supervisor asks it to go.
        if not server.interrupt_signal:
            raise
