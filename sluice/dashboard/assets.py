"""Assets: scripts, styles and plotly.js, as files of fixed names; nothing else can be asked for."""

import functools
import gzip
import hashlib
import importlib.util
import mimetypes
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import flask

from sluice import errors

STATIC = Path(__file__).parent / "static"
PLOTLY = "plotly.min.js"
# Below this a compressed answer saves no packet.
LEAST_BYTES = 1400
GZIP_FAST, GZIP_HEADER = 1, 16


class NoAsset(errors.SluiceError):
    """No such file."""

    status = 404


@functools.cache
def files() -> dict[str, Path]:
    """The files by name."""
    found = {path.name: path for path in STATIC.iterdir() if path.is_file()}
    # Only found, never imported: the package is 20 MB of Python that nobody here needs.
    spec = importlib.util.find_spec("plotly")
    if spec is not None and spec.submodule_search_locations:
        found[PLOTLY] = Path(spec.submodule_search_locations[0]) / "package_data" / PLOTLY
    return found


@functools.cache
def packed(name: str) -> tuple[str, bytes]:
    """A file's tag and its gzip: made once, when it is first asked for."""
    content = files()[name].read_bytes()
    return hashlib.sha256(content).hexdigest()[:32], gzip.compress(content, mtime=0)


def response(name: str) -> flask.Response:
    """A file as an answer to the request at hand; 304 if the browser has it.

    Raises:
        NoAsset: there is none of this name.
    """
    if name not in files():
        raise NoAsset(f"no file {name[:64]!r}")
    tag, content = packed(name)
    made = flask.Response(mimetype=mimetypes.guess_type(name)[0])
    if flask.request.accept_encodings["gzip"]:
        made.set_data(content)
        made.headers["Content-Encoding"] = "gzip"
    else:
        made.set_data(gzip.decompress(content))
    made.headers["Vary"] = "Accept-Encoding"
    # Asked for each time, and answered with 304: a new version is seen at once.
    made.headers["Cache-Control"] = "no-cache"
    made.set_etag(tag)
    made.make_conditional(flask.request)
    return made


def compress(made: flask.Response) -> None:
    """Pack a page or a piece of JSON, if the browser takes it."""
    if (
        made.direct_passthrough
        or made.mimetype not in ("text/html", "application/json")
        or "Content-Encoding" in made.headers
        or (not made.is_streamed and len(made.get_data()) < LEAST_BYTES)
    ):
        return
    made.headers.add("Vary", "Accept-Encoding")
    if flask.request.accept_encodings["gzip"]:
        made.headers["Content-Encoding"] = "gzip"
        if made.is_streamed:
            made.response = _packed(made.iter_encoded())
        else:
            made.set_data(gzip.compress(made.get_data(), GZIP_FAST, mtime=0))


def _packed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces as gzip; the first one is all there when it arrives."""
    packing = zlib.compressobj(GZIP_FAST, wbits=zlib.MAX_WBITS | GZIP_HEADER)
    is_first = True
    for piece in pieces:
        packed = packing.compress(piece)
        if is_first:
            packed += packing.flush(zlib.Z_SYNC_FLUSH)
            is_first = False
        if packed:
            yield packed
    yield packing.flush()
