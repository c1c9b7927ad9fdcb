"""`sluice top`: the overview in a terminal, from the API of `run`, agent, controller or dashboard.

Where there is no terminal to draw on, or with --once, it is printed once and that is all.
"""

import contextlib
import http.client
import io
import json
import signal
import ssl
import sys
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any

import click
import rich.console
import rich.live

from sluice import auth, errors, flags, overview

# Of one read, and of all of an answer.
SILENCE_S, ANSWER_S = 5.0, 15.0
ANSWER_MAX, PIECE = 64 * 2**20, 2**16
FRAMES_PER_S = 2
# What is not cut to a terminal's width must fit nevertheless.
PAPER_WIDTH = 10_000
NOT_LET_IN = (401, 403)


class NoOverview(errors.SluiceError):
    """There is no answer to show, or one that is no overview; there may be one in a moment."""


class NotLetIn(errors.SluiceError):
    """The API wants to know who asks."""


class Client:
    """Asks an API for its teams.

    Args:
        url: where it is, with a path before /api if a proxy has put one there.
        token_file: whose token is sent, read anew each time.
        ca: certificates to trust instead of the system's.

    Raises:
        BadRequest: the URL or the certificates are none.
    """

    def __init__(self, url: str, token_file: Path | None, ca: Path | None) -> None:
        self._parts = urllib.parse.urlsplit(url)
        self._token_file = token_file
        try:
            self._address = self._parts.hostname or "", self._parts.port
            self._tls = ssl.create_default_context(cafile=ca) if url.startswith("https") else None
        except (ValueError, OSError) as error:
            raise errors.BadRequest(f"{ca or url}: {error}") from None
        # As people see it: without a password that somebody has put there.
        self.where = f"{self._parts.scheme}://{self._parts.netloc.rpartition('@')[2]}"
        self.where += self._parts.path

    def teams(self) -> Any:
        """The JSON of /api/teams.

        Raises:
            NoOverview, NotLetIn: there is none. BadToken: there is no token to send.
        """
        headers = {"Accept": "application/json", "User-Agent": "sluice-top"}
        if self._token_file is not None:
            headers["Authorization"] = f"Bearer {auth.read_token(self._token_file).decode()}"
        try:
            status, reason, body = self._get(f"{self._parts.path}/api/teams", headers)
        except UnicodeError as error:
            raise errors.BadRequest(f"{self.where} cannot be asked: {error}") from None
        except (OSError, http.client.HTTPException) as error:
            raise NoOverview(f"{self.where}: {words_of(error)}") from error
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            found = None
        said = found.get("error", reason) if isinstance(found, dict) else reason
        said = overview.printable(str(said))
        if status in NOT_LET_IN:
            raise NotLetIn(f"{self.where} answered {status}: {said}. {self._advice()}")
        if status != http.HTTPStatus.OK:
            raise NoOverview(f"{self.where} answered {status}: {said}")
        if found is None:
            raise NoOverview(f"{self.where} answered with what is no JSON: is it Sluice?")
        return found

    def _advice(self) -> str:
        if self._token_file is None:
            return "Give --token-file FILE, if it is a token that is wanted"
        return f"The token in {self._token_file} is not the one of its --auth"

    def _get(self, path: str, headers: dict[str, str]) -> tuple[int, str, bytes]:
        host, port = self._address
        if self._tls is None:
            connection = http.client.HTTPConnection(host, port, timeout=SILENCE_S)
        else:
            connection = http.client.HTTPSConnection(
                host, port, timeout=SILENCE_S, context=self._tls
            )
        until, body = time.monotonic() + ANSWER_S, bytearray()
        with contextlib.closing(connection):
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            while piece := response.read1(PIECE):
                body += piece
                if len(body) > ANSWER_MAX:
                    raise NoOverview(f"{self.where}: an answer of more than {ANSWER_MAX} bytes")
                if time.monotonic() > until:
                    raise NoOverview(f"{self.where}: no whole answer in {ANSWER_S:g} s")
        return response.status, response.reason, bytes(body)


def words_of(error: Exception) -> str:
    """What went wrong on the way, in one printable line."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{error.verify_message}; --ca FILE says which certificates to trust"
    if isinstance(error, TimeoutError) and error.errno is None:
        return f"no answer in {SILENCE_S:g} s"
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return overview.printable(words.strip())


class Watch:
    """Teams as they are, time and again.

    Attributes:
        lines, at: what was seen last, and of when; nothing at first.
    """

    def __init__(self, client: Client, order: str, namespace: str | None) -> None:
        self._client, self._order, self._namespace = client, order, namespace
        self.lines: list[overview.Line] = []
        self.at = ""

    def look(self) -> None:
        """Ask once.

        Raises:
            NoOverview, NotLetIn, BadToken: as Client.teams(); what was seen last stays.
        """
        found = self._client.teams()
        try:
            lines = overview.read(found, self._namespace)
            at = overview.printable(found["time"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise NoOverview(
                f"{self._client.where} answered with what is no list of teams"
                f" ({overview.printable(repr(error))}): is it Sluice?"
            ) from error
        self.lines, self.at = overview.ordered(lines, self._order), at


def print_once(watch: Watch, most: int | None) -> None:
    """Print the table: as wide as a terminal, or, in a file, as wide as it is."""
    watch.look()
    console = rich.console.Console()
    width = console.width if sys.stdout.isatty() else None
    if width is None:
        console = rich.console.Console(width=PAPER_WIDTH)
    console.print(overview.table(watch.lines[:most], width, ascii_only=console.options.ascii_only))


def live(watch: Watch, where: str, most: int | None, interval_s: float) -> None:
    """Draw until Ctrl-C; a moment without an answer is said so, and asked again.

    Raises:
        NotLetIn, BadToken: nobody will be let in without doing something.
    """
    never = threading.Event()

    def seen(caption: str, *, is_trouble: bool = False) -> overview.Overview:
        return overview.Overview(where, watch.at, watch.lines, most, caption, is_trouble)

    with rich.live.Live(
        seen("asking ..."), screen=True, refresh_per_second=FRAMES_PER_S
    ) as screen:  # fmt: skip
        while True:
            try:
                watch.look()
                screen.update(seen("Ctrl-C ends it"))
            except NoOverview as error:
                screen.update(seen(error.message, is_trouble=True))
            never.wait(interval_s)


@click.command()
@flags.option(
    "--url",
    type=flags.UrlType(),
    default="http://127.0.0.1:8080",
    help="The address of `sluice run`, an agent, the controller or the dashboard.",
)
@flags.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file with the token, if that process has --auth bearer:FILE.",
)
@flags.option(
    "--ca",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CA certificates to trust instead of the system's.",
)
@flags.option(
    "--interval",
    type=flags.FloatRange(0.1, 3600),
    default=2.0,
    help="Seconds between two refreshes.",
)
@flags.option(
    "--sort",
    type=click.Choice(list(overview.ORDERS)),
    default="percent",
    help="The order of teams.",
)
@flags.option("--namespace", help="Show only teams of this namespace.")
@flags.option("--limit", type=click.IntRange(1), help="Most teams to show.")
@click.option(
    "--once",
    is_flag=True,
    help="Print the table once and exit, as when the output is not a terminal.",
)
def top(
    url: str,
    token_file: Path | None,
    ca: Path | None,
    interval: float,
    sort: str,
    namespace: str | None,
    limit: int | None,
    once: bool,
) -> None:
    """Watch all teams in the terminal."""
    # A name that the terminal has no letters for is no reason to end.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    # The terminal is put back in order whatever ends this.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        client = Client(url, token_file, ca)
        watch = Watch(client, sort, namespace)
        terminal = rich.console.Console()
        if once or not sys.stdout.isatty() or terminal.is_dumb_terminal:
            print_once(watch, limit)
        else:
            live(watch, client.where, limit, interval)
    except KeyboardInterrupt:
        sys.exit(0)
    except errors.SluiceError as error:
        print(f"sluice top: {error.message}", file=sys.stderr)
        sys.exit(2 if isinstance(error, errors.BadRequest) else 1)
