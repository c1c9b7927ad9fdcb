"""A dashboard over a real ledger in memory, some of whose teams are charged each second."""

import argparse
import itertools
import signal
import threading
import time

from harness import budget

from sluice import Budget, Gate, chores, forecast, settings, source, usage
from sluice.dashboard import app, server

OBSERVE_S = 15.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--teams", type=int, required=True)
    parser.add_argument("--changes", type=int, required=True)
    given = parser.parse_args()
    names = [f"team-{i:04}" for i in range(given.teams)]
    limit = 10_000_000_000
    gate = Gate(
        [Budget.from_manifest(budget(name, limit, monthlyLimit=30 * limit)) for name in names]
    )
    teams = gate.resolve(names)
    gate.evaluate(teams, [limit // 1000 * i // given.teams * 900 for i in range(given.teams)],
                  now=time.time())  # fmt: skip
    outlooks = forecast.Outlooks()
    outlooks.observe(usage.rows(gate.ledger, time.time()))
    origin = source.Source(lambda now: usage.rows(gate.ledger, now), outlooks)
    running = server.Server(
        app.create_app(origin, source.Status()), settings.Address("127.0.0.1", given.port)
    )
    running.start()
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    due, observed = itertools.cycle(teams.tolist()), time.monotonic()
    while not stopping.wait(1.0):
        some = list(itertools.islice(due, given.changes))
        gate.evaluate(some, [123_456] * len(some), now=time.time())
        if time.monotonic() - observed > OBSERVE_S:
            observed = time.monotonic()
            outlooks.observe(chores.paced(usage.rows(gate.ledger, time.time())))
    running.stop()


if __name__ == "__main__":
    main()
