"""The dashboard's server: http_server.py with a thread more for each page that is live."""

import flask

from sluice import http_server, settings
from sluice.dashboard import app as apps

# Pages and the API are answered by these; each page that is live has a thread of its own beside.
THREADS = 8


class Server(http_server.Server):
    """Serves an application of create_app().

    Raises:
        CannotStart: the port is taken, or is not ours to take.
    """

    def __init__(self, app: flask.Flask, listen: settings.Address) -> None:
        super().__init__(app, listen, threads=THREADS, name="dashboard")
        self._board = apps.board_of(app)
        self._board.tell(lambda count: self.set_threads(THREADS + count))

    def stop(self) -> None:
        """End: live pages are let go, answers being written have a second."""
        self._board.stop()
        super().stop()
