"""A candidate for a lease in a process of its own; test_lease.py runs it.

Appends lines `what seconds` to its file: the monotonic clock, which all processes of a machine
share, at each sign that it is leading.
"""

import argparse
import signal
import threading
import time
from pathlib import Path

from sluice.kube import client, lease

HEARTBEAT_S = 0.01


def main() -> None:
    parser = argparse.ArgumentParser()
    for option in ("--kubeconfig", "--log"):
        parser.add_argument(option, type=Path, required=True)
    for option in ("--name", "--namespace", "--identity"):
        parser.add_argument(option, required=True)
    for option in ("--lease", "--deadline", "--retry", "--linger"):
        parser.add_argument(option, type=float, required=True)
    options = parser.parse_args()
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())

    with options.log.open("a", buffering=1) as out:

        def note(what: str) -> None:
            out.write(f"{what} {time.monotonic()}\n")

        def beat_until(ended: threading.Event, seconds: float) -> None:
            begun = time.monotonic()
            while not ended.is_set() and time.monotonic() - begun < seconds:
                note("leading")
                time.sleep(HEARTBEAT_S)

        def work() -> None:
            beat_until(stopping, float("inf"))
            # Work that takes its time to end.
            beat_until(threading.Event(), options.linger)

        note("started")
        lease.lead(
            client.connect(options.kubeconfig),
            name=options.name,
            namespace=options.namespace,
            identity=options.identity,
            work=work,
            stopping=stopping,
            lease_s=options.lease,
            deadline_s=options.deadline,
            retry_s=options.retry,
            on_state=lambda state: note(f"state:{state.holder}:{state.transitions}"),
        )


if __name__ == "__main__":
    main()
