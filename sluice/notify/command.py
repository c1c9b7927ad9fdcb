"""`sluice notify test`: tells each sink that this is a test, and says what came of it."""

from collections.abc import Sequence
from typing import TextIO

from sluice.notify import sinks
from sluice.notify.sink import SinkFailed


def test(urls: Sequence[str], dashboard_url: str | None, team: str, out: TextIO) -> int:
    """Tell them; returns the exit code: 1 if any did not take it.

    Raises:
        BadRequest: a URL is none that anybody can reach. Nothing was sent.
    """
    code = 0
    for sink in sinks.open_all(urls, dashboard_url):
        # Labels may be alike; the id is what log, metrics and alerts have.
        name = f"{sink.label} ({sink.id})"
        try:
            sink.test(team)
        except SinkFailed as error:
            code = 1
            print(f"{name}: failed: {error.message}", file=out, flush=True)
        else:
            print(f"{name}: ok", file=out, flush=True)
    return code
