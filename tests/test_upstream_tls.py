"""TLS and proxies on the way to upstream; files that change while Sluice runs."""

import base64
import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from scripted import PLAIN, TEXT, read_request

from sluice import errors, settings
from sluice.agent.certificates import Certificates
from sluice.agent.upstream import PUSH_PATH, Reply, Upstream


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize("size", [5, 5_000_000])
def test_over_tls_a_body_arrives_whole_at_a_server_that_our_authority_knows(
    authority, tmp_path: Path, size
):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    arrived = []

    def serve(listener: socket.socket) -> None:
        for _ in range(2):
            accepted, _ = listener.accept()
            with (
                contextlib.suppress(OSError),
                accepted,
                context.wrap_socket(accepted, server_side=True) as connection,
            ):
                arrived.append(read_request(connection))
                connection.sendall(PLAIN)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=[listener])
        thread.start()
        url = f"https://localhost:{listener.getsockname()[1]}"
        with pytest.raises(errors.Unavailable, match="certificate"):
            Upstream(url).send(PUSH_PATH, body, TEXT)
        known = Upstream(url, ca=str(tmp_path / "ca.pem"))
        assert known.send(PUSH_PATH, body, TEXT) == Reply(204)
        known.close()
        thread.join()
    assert [request.partition(b"\r\n\r\n")[2] for request in arrived] == [body]


class Secure:
    """A TLS server that answers 204 to all; its certificate can be changed.

    Attributes:
        peers: the certificates that clients showed, by subject.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.peers: list[str] = []
        self.thread = threading.Thread(target=self.serve)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def serve(self) -> None:
        while True:
            try:
                accepted, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=[accepted], daemon=True).start()

    def answer(self, accepted: socket.socket) -> None:
        with (
            contextlib.suppress(OSError, pytest.fail.Exception),
            accepted,
            self.context.wrap_socket(accepted, server_side=True) as connection,
        ):
            shown = connection.getpeercert() or {}
            self.peers.append(str(shown.get("subjectAltName", "")))
            while True:
                read_request(connection)
                connection.sendall(PLAIN)


@contextlib.contextmanager
def secure(context: ssl.SSLContext) -> Iterator[Secure]:
    server = Secure(context)
    server.thread.start()
    try:
        yield server
    finally:
        with contextlib.suppress(OSError):
            server.listener.shutdown(socket.SHUT_RDWR)
        server.listener.close()
        server.thread.join()


def context_of(authority: trustme.CA, clients: trustme.CA | None = None) -> ssl.SSLContext:
    """A server's context with a certificate of this authority; `clients` have to show one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    if clients is not None:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def mounted(folder: Path, version: int, **files: bytes) -> None:
    """Put files into a folder as Kubernetes does: a link to a link that is swapped."""
    own = folder / f"..{version}"
    own.mkdir(parents=True)
    for name, content in files.items():
        (own / name).write_bytes(content)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    (folder / "..new").symlink_to(own.name)
    (folder / "..new").rename(folder / "..data")


@pytest.mark.parametrize("way", ["swapped", "written"])
def test_an_authority_that_is_rotated_is_trusted_without_a_restart(tmp_path, way):
    """2 394 of 2 394 pushes were answered 503 after a rotation."""
    old, new = trustme.CA(), trustme.CA()
    mounted(tmp_path, 1, ca=old.cert_pem.bytes())
    with secure(context_of(old)) as server:
        sender = Upstream(server.url, ca=str(tmp_path / "ca"), life_s=(0, 0))
        assert sender.send(PUSH_PATH, b"one", TEXT) == Reply(204)
        server.context = context_of(new)
        with pytest.raises(errors.Unavailable, match="certificate"):
            sender.send(PUSH_PATH, b"two", TEXT)
        if way == "swapped":
            mounted(tmp_path, 2, ca=new.cert_pem.bytes())
        else:
            (tmp_path / "ca").write_bytes(new.cert_pem.bytes())
        assert sender.send(PUSH_PATH, b"two", TEXT) == Reply(204)
        assert sender.trouble == sender.complaint == ""
        sender.close()


def test_a_file_that_cannot_be_used_leaves_the_last_one_in_force_and_is_told(tmp_path):
    authority = trustme.CA()
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    with secure(context_of(authority)) as server:
        sender = Upstream(server.url, ca=str(file), life_s=(0, 0))
        for content in (b"", b"half a certif", None):
            file.unlink() if content is None else file.write_bytes(content)
            assert sender.send(PUSH_PATH, b"one", TEXT) == Reply(204)
            assert "ca.pem" in sender.complaint
            assert sender.as_json()["certificates"] == sender.complaint
        authority.cert_pem.write_to_path(file)
        # Nobody pushes.
        sender.look_at_files()
        assert sender.complaint == ""
        assert sender.as_json()["certificates"] is None
        sender.close()


def test_a_certificate_that_is_not_trusted_has_the_files_read_again_at_most_once_a_second(tmp_path):
    """A change that cannot be seen from outside: same length, same time, same inode."""
    one, two = trustme.CA(), trustme.CA()
    file = tmp_path / "ca.pem"
    size = max(len(ca.cert_pem.bytes()) for ca in (one, two))
    file.write_bytes(one.cert_pem.bytes().ljust(size, b"\n"))
    stat = file.stat()
    now = [0.0]
    files = Certificates(str(file), monotonic=lambda: now[0])
    first = files.context()
    file.write_bytes(two.cert_pem.bytes().ljust(size, b"\n"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    files.distrust()
    assert files.context() is first
    now[0] = 1.0
    files.distrust()
    second = files.context()
    assert second is not first
    assert files.context() is second


@pytest.mark.parametrize("is_one_file", [True, False])
def test_a_client_certificate_is_shown_and_its_next_one_too(tmp_path, is_one_file):
    authority, clients = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    cert, key = tmp_path / "tls.crt", None if is_one_file else tmp_path / "tls.key"

    def issue(name: str) -> None:
        made = clients.issue_cert(name)
        if key is None:
            made.private_key_and_cert_chain_pem.write_to_path(cert)
        else:
            made.private_key_pem.write_to_path(key)
            cert.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))

    issue("one.example")
    with secure(context_of(authority, clients)) as server:
        ca = str(tmp_path / "ca.pem")
        with pytest.raises(errors.Unavailable):
            Upstream(server.url, ca=ca).send(PUSH_PATH, b"one", TEXT)
        sender = Upstream(
            server.url, ca=ca, cert=str(cert), key=None if key is None else str(key), life_s=(0, 0)
        )
        assert sender.send(PUSH_PATH, b"one", TEXT) == Reply(204)
        issue("two.example")
        assert sender.send(PUSH_PATH, b"one", TEXT) == Reply(204)
        sender.close()
    assert ["one.example" in server.peers[-2], "two.example" in server.peers[-1]] == [True, True]


def test_a_client_certificate_that_cannot_be_used_is_refused_at_once(tmp_path):
    one, two = trustme.CA().issue_cert("a"), trustme.CA().issue_cert("b")
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    cert.write_bytes(one.cert_chain_pems[0].bytes())
    key.write_bytes(two.private_key_pem.bytes())
    for given in ({"key": str(key)}, {}):
        with pytest.raises(errors.BadRequest, match=r"client certificate .*tls\.crt"):
            Upstream("https://loki", cert=str(cert), **given)
    encrypted = (
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n"
    )
    key.write_bytes(encrypted)
    with pytest.raises(errors.BadRequest, match="client certificate"):
        Upstream("https://loki", cert=str(cert), key=str(key))


class Proxy:
    """A proxy on a real socket: CONNECT leads to `to`, anything else is answered 204.

    Attributes:
        heads: what it was asked.
    """

    def __init__(self, to: int = 0, answer: bytes = b"HTTP/1.1 200 Connection established") -> None:
        self.to, self.answer = to, answer
        self.heads: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve)

    def serve(self) -> None:
        while True:
            try:
                accepted, _ = self.listener.accept()
            except OSError:
                return
            with accepted, contextlib.suppress(OSError, pytest.fail.Exception):
                self.answer_all(accepted)

    def answer_all(self, accepted: socket.socket) -> None:
        while accepted.recv(1, socket.MSG_PEEK) != b"C":
            self.heads.append(read_request(accepted))
            accepted.sendall(PLAIN)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += accepted.recv(1)
        self.heads.append(head)
        accepted.sendall(self.answer + b"\r\nContent-Length: 7\r\n\r\n")
        with socket.create_connection(("127.0.0.1", self.to)) as onward:
            back = threading.Thread(target=pumped, args=[onward, accepted])
            back.start()
            pumped(accepted, onward)
            back.join()


def pumped(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65_536):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def proxying(**more: object) -> Iterator[Proxy]:
    proxy = Proxy(**more)  # type: ignore[arg-type]
    proxy.thread.start()
    try:
        yield proxy
    finally:
        with contextlib.suppress(OSError):
            proxy.listener.shutdown(socket.SHUT_RDWR)
        proxy.listener.close()
        proxy.thread.join()


@pytest.mark.parametrize("answer", ["HTTP/1.1 200 Connection established", "HTTP/1.0 200 OK"])
def test_a_push_to_https_goes_through_a_tunnel_of_the_proxy(authority, tmp_path, answer):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with (
        secure(context_of(authority)) as server,
        proxying(to=server.port, answer=answer.encode()) as proxy,
    ):
        sender = Upstream(
            server.url,
            ca=str(tmp_path / "ca.pem"),
            proxy=f"http://us%40er:s%3Acret@127.0.0.1:{proxy.port}",
        )
        for _ in range(2):
            assert sender.send(PUSH_PATH, bytes(100_000), TEXT) == Reply(204)
        sender.close()
    (head,) = proxy.heads
    lines = head.decode().split("\r\n")
    basic = base64.b64encode(b"us@er:s:cret").decode()
    assert lines[0] == f"CONNECT localhost:{server.port} HTTP/1.1"
    assert f"Host: localhost:{server.port}" in lines
    assert f"Proxy-Authorization: Basic {basic}" in lines


def test_a_push_to_http_names_its_whole_url_to_the_proxy():
    with proxying() as proxy:
        sender = Upstream(
            "http://loki.example:3100/base", proxy=f"user:secret@127.0.0.1:{proxy.port}"
        )
        assert sender.send(f"{PUSH_PATH}?a=b", b"one", TEXT) == Reply(204)
        sender.close()
    lines = proxy.heads[0].decode().split("\r\n")
    assert lines[0] == "POST http://loki.example:3100/base/loki/api/v1/push?a=b HTTP/1.1"
    assert "Host: loki.example:3100" in lines
    assert "Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=" in lines


@pytest.mark.parametrize("answer", ["407 Proxy Authentication Required", "502 Bad Gateway"])
def test_a_proxy_that_refuses_is_said_to_and_its_password_is_not(answer):
    with proxying(answer=f"HTTP/1.1 {answer}".encode()) as proxy:
        sender = Upstream(
            "https://loki", proxy=f"http://user:secret@127.0.0.1:{proxy.port}", timeout=1
        )
        # Its answer has a text of 7 bytes, which never come.
        with pytest.raises(errors.Unavailable) as caught:
            sender.send(PUSH_PATH, b"one", TEXT)
    for text in (caught.value.message, sender.trouble, repr(sender), str(sender.as_json())):
        assert "secret" not in text
    assert f"127.0.0.1:{proxy.port}" in caught.value.message


@pytest.mark.parametrize(
    "url", ["socks5://a:b@c", "https://a:secret@proxy", "http://", "http://a:0"]
)
def test_a_proxy_that_cannot_be_used_is_refused_at_once_and_not_shown(url):
    with pytest.raises(errors.BadRequest, match="HTTPS_PROXY") as caught:
        Upstream("https://loki", proxy=url)
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "environment", "wanted"),
    [
        ("http://loki", {}, None),
        ("http://loki", {"HTTP_PROXY": "a:1"}, "a:1"),
        ("http://loki", {"HTTPS_PROXY": "a:1"}, None),
        ("https://loki", {"HTTPS_PROXY": "a:1", "HTTP_PROXY": "b:1"}, "a:1"),
        ("https://loki", {"https_proxy": "a:1", "HTTPS_PROXY": "b:1"}, "a:1"),
        ("https://loki", {"ALL_PROXY": "a:1"}, "a:1"),
        ("https://loki", {"HTTPS_PROXY": "a:1", "NO_PROXY": "*"}, None),
        ("https://loki:1", {"HTTPS_PROXY": "a:1", "NO_PROXY": "x, loki"}, None),
        ("https://loki:1", {"HTTPS_PROXY": "a:1", "NO_PROXY": "loki:1"}, None),
        ("https://loki:2", {"HTTPS_PROXY": "a:1", "NO_PROXY": "loki:1"}, "a:1"),
        ("https://a.svc", {"HTTPS_PROXY": "a:1", "NO_PROXY": ".svc"}, None),
        ("https://a.svc", {"HTTPS_PROXY": "a:1", "NO_PROXY": "*.svc"}, None),
        ("https://a.svc", {"HTTPS_PROXY": "a:1", "NO_PROXY": "SVC"}, None),
        ("https://asvc", {"HTTPS_PROXY": "a:1", "NO_PROXY": "svc"}, "a:1"),
        ("https://10.1.2.3", {"HTTPS_PROXY": "a:1", "NO_PROXY": "10.0.0.0/8"}, None),
        ("https://11.1.2.3", {"HTTPS_PROXY": "a:1", "NO_PROXY": "10.0.0.0/8,x"}, "a:1"),
        ("https://[::1]:1", {"HTTPS_PROXY": "a:1", "NO_PROXY": "::1"}, None),
        ("https://loki:nan", {"HTTPS_PROXY": "a:1"}, None),
    ],
)
def test_the_environment_names_the_proxy(monkeypatch, url, environment, wanted):
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert settings.proxy_for(url) == wanted
