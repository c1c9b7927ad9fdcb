"""Who may look: nobody is asked, whoever has a token, or whom an authenticating proxy names.

Guards pages and /api/*, evaluate too; never pushes, /ready, /metrics and /api/health. The name
under which a request comes is looked at for all but pushes and /ready, see hosts.py.
"""

import base64
import hmac
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import flask

from sluice import errors, hosts

log = logging.getLogger("sluice.auth")

ANY_HOST_PATHS = frozenset({"/ready", "/loki/api/v1/push", "/api/prom/push"})
OPEN_PATHS = ANY_HOST_PATHS | {"/metrics", "/api/health"}
# Source: RFC 9110, 5.1 and 5.6.2.
HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# Bearer for programs; Basic has browsers ask for a password.
CHALLENGES = ('Bearer realm="sluice"', 'Basic realm="sluice", charset="UTF-8"')
TOKEN = re.compile(rb"[!-~]+")
TOKEN_MIN, TOKEN_MAX = 16, 4096


class Unauthorized(errors.SluiceError):
    """Somebody who has not said who they are, or not so that it is believed."""

    status = 401


class BadToken(errors.SluiceError):
    """The token's file cannot be read, or has no token in it."""


@dataclass(frozen=True, slots=True)
class Auth:
    """What --auth says.

    Attributes:
        token_file: whoever sends the token in it may look, as bearer or as Basic's password.
        header: whoever comes with this header may look. An authenticating proxy must set it, drop
            what clients send of it, and be the only one that reaches the port. (With underscores
            for its dashes it is dropped here.)
        hosts: names of this server beside those that nobody can register; None: any name is.
    """

    token_file: Path | None = None
    header: str | None = None
    hosts: tuple[str, ...] | None = None

    @classmethod
    def parse(cls, value: str) -> Self:
        """Read none, bearer:FILE or header:NAME.

        Raises:
            BadRequest: something else.
        """
        kind, _, rest = value.partition(":")
        if value == "none":
            return cls()
        if kind == "bearer" and rest:
            return cls(token_file=Path(rest))
        if kind == "header" and rest:
            if not HEADER_NAME.fullmatch(rest):
                raise errors.BadRequest(f"{rest!r} is not the name of an HTTP header")
            return cls(header=rest)
        raise errors.BadRequest(f"{value!r} is not none, bearer:FILE or header:NAME")

    def check(self) -> None:
        """See at the start that the guard can do its work.

        Raises:
            BadToken: the token's file cannot be used.
        """
        if self.token_file is None:
            return
        length = len(read_token(self.token_file))
        if length < TOKEN_MIN:
            log.warning(
                "the token in %s has %d characters: %d or more are hard to guess",
                self.token_file,
                length,
                TOKEN_MIN,
            )

    def guard(self, app: flask.Flask) -> None:
        """Have the app ask everybody who they are, before it says which paths there are."""
        own_names = self.hosts
        if own_names is not None:

            @app.before_request
            def look_at_host() -> None:
                if flask.request.path not in ANY_HOST_PATHS:
                    hosts.check_host(flask.request.headers.get("Host", ""), own_names)

        token = None if self.token_file is None else Token(self.token_file)
        if token is None and self.header is None:
            return

        @app.before_request
        def ask() -> None:
            if flask.request.path in OPEN_PATHS:
                return
            if token is not None:
                token.ask(flask.request.headers.get("Authorization", ""))
            elif self.header is not None and not flask.request.headers.get(self.header, "").strip():
                raise Unauthorized(
                    f"the header {self.header} is missing: come through the proxy that sets it"
                )

        @app.after_request
        def challenge(response: flask.Response) -> flask.Response:
            if token is not None and response.status_code == Unauthorized.status:
                for words in CHALLENGES:
                    response.headers.add("WWW-Authenticate", words)
            return response


class Token:
    """A token that a file holds, read anew for each who comes, so that it can be changed.

    While the file is away or empty, the last token stays.

    Threads: any number.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: bytes | None = None
        self._complaint = ""
        self._read()

    def ask(self, authorization: str) -> None:
        """Let pass whoever gives the token.

        Raises:
            Unauthorized: it is another one, or none.
        """
        given, due = credentials(authorization), self._read()
        if not given:
            raise Unauthorized("no token was sent: send `Authorization: Bearer TOKEN`")
        if due is None or not hmac.compare_digest(given, due):
            raise Unauthorized("the token that was sent is not the right one")

    def _read(self) -> bytes | None:
        try:
            self._last = read_token(self._path)
        except BadToken as error:
            if error.message != self._complaint:
                log.warning("%s: the last token stays", error.message)
            self._complaint = error.message
        else:
            self._complaint = ""
        return self._last


def read_token(path: Path) -> bytes:
    """The token in a file: its text without white space around it.

    Raises:
        BadToken: there is none, or one that no header can carry.
    """
    try:
        with path.open("rb") as file:
            text = file.read(TOKEN_MAX + 1)
    except OSError as error:
        raise BadToken(f"token file {path}: {error.strerror or error}") from error
    token = text.strip()
    if not token:
        raise BadToken(f"token file {path}: it is empty")
    if len(text) > TOKEN_MAX:
        raise BadToken(f"token file {path}: more than {TOKEN_MAX} bytes")
    if not TOKEN.fullmatch(token):
        raise BadToken(f"token file {path}: a token is of ASCII letters, digits and signs")
    return token


def credentials(authorization: str) -> bytes:
    """The token of an Authorization header, as bearer or as the password of Basic; b"" if none."""
    scheme, _, rest = authorization.strip().partition(" ")
    # WSGI hands bytes over as Latin-1; whatever is not is no token.
    given = rest.strip().encode("latin-1", "replace")
    if scheme.lower() == "bearer":
        return given
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(given, validate=True).partition(b":")[2]
    except ValueError:
        return b""


NOBODY_IS_ASKED = Auth()
