"""A request as it was received, and which of its headers Sluice uses and sends on."""

from dataclasses import dataclass

from sluice import errors
from sluice.wire import loki

# A header whose value is no ASCII text; its bytes are not known here.
UNREADABLE = None
# Of these each line counts; of all others the first, which is what Loki reads (Go's Header.Get).
LISTS = frozenset((
    "accept", "accept-language", "baggage", "cache-control", "forwarded", "tracestate", "via",
    "x-forwarded-for",
))  # fmt: skip
# RFC 9110, 7.6.1: they concern one connection.
HOP_BY_HOP = frozenset((
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
    "te", "trailer", "transfer-encoding", "upgrade",
))  # fmt: skip
# Host and Accept-Encoding are for Sluice to say, Expect was answered.
OWN = frozenset(("host", "expect", "accept-encoding"))
NOT_SENT = HOP_BY_HOP | OWN
# Loki decides by these, so that none may go missing.
DECISIVE = ("content-", "x-scope-orgid", "x-loki-", "authorization", "transfer-encoding")


@dataclass(slots=True)
class Request:
    """An HTTP request.

    Attributes:
        path: decoded.
        query: as received, without the question mark.
        headers: as received, names in lower case; a value that is no ASCII text is UNREADABLE.
        peer: the sender's address.
    """

    method: str
    path: str
    query: str
    headers: list[tuple[str, str | None]]
    peer: str
    body: loki.Body = b""

    def fields(self) -> dict[str, str]:
        """The headers by name, each once.

        A name with an underscore is left out: gateways, and WSGI, take it for the name with a
        dash, which may stand beside it.

        Raises:
            BadPush: a header that Loki decides by is no ASCII text.
        """
        found: dict[str, str] = {}
        for name, value in self.headers:
            if "_" in name:
                continue
            if value is UNREADABLE:
                if name.startswith(DECISIVE):
                    raise errors.BadPush(f"header {name}: its value is no ASCII text")
            elif name not in found:
                found[name] = value
            elif name in LISTS:
                found[name] += f", {value}"
        return found

    def first(self, name: str) -> str:
        """The first value of a header, "" where there is none that can be read."""
        for own, value in self.headers:
            if own == name and value:
                return value
        return ""

    @property
    def target(self) -> str:
        """Path and query, as a request line has them.

        Raises:
            BadPush: the query holds what a request line cannot.
        """
        if not self.query:
            return self.path
        if not (self.query.isascii() and self.query.isprintable() and " " not in self.query):
            raise errors.BadPush("the query string holds a character that has to be escaped")
        return f"{self.path}?{self.query}"


def forwarded(fields: dict[str, str], peer: str) -> dict[str, str]:
    """What of a request's headers goes to upstream, and where the push came from.

    Of Content-..., only the type is there: the encoding is what the forwarded body is in.
    """
    dropped = NOT_SENT
    if "connection" in fields:
        dropped = dropped | {name.strip() for name in fields["connection"].lower().split(",")}
    headers = {
        name: value
        for name, value in fields.items()
        if name not in dropped and not name.startswith("content-")
    }
    headers["content-type"] = fields.get("content-type", "")
    chain = (fields.get("x-forwarded-for", ""), peer)
    headers["x-forwarded-for"] = ", ".join(link for link in chain if link)
    return headers
