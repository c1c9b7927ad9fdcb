"""A real nginx as upstream: a gateway in front of Loki is most often one."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from harness import Server, free_port, running
from scripted import TEXT

from sluice import errors
from sluice.agent.upstream import PUSH_PATH, Reply, Upstream

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
CONFIG = """
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    client_max_body_size 1m;
    ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/cert.pem;
    ssl_client_certificate {folder}/clients.pem;
    server {{
        listen 127.0.0.1:{plain};
        location / {{ return 204; }}
        location /elsewhere/ {{ return 302 https://elsewhere; }}
    }}
    server {{ listen 127.0.0.1:{tls} ssl; location / {{ return 204; }} }}
    server {{ listen 127.0.0.1:{mtls} ssl; ssl_verify_client on; location / {{ return 204; }} }}
}}
"""

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not there")


class Gateway(Server):
    """nginx that answers 204: in plain HTTP, over TLS, and over TLS with client certificates."""

    name = "nginx"
    ready_path = "/"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port, self.tls, self.mtls = free_port(), free_port(), free_port()
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(folder / "ca.pem")
        self.authority.cert_pem.write_to_path(folder / "clients.pem")
        made = self.authority.issue_cert("localhost")
        made.private_key_and_cert_chain_pem.write_to_path(folder / "cert.pem")
        self.config = folder / "nginx.conf"
        ports = {"plain": self.port, "tls": self.tls, "mtls": self.mtls}
        self.config.write_text(CONFIG.format(folder=folder, **ports))

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return self.get("/").status == 204
        return False

    def command(self) -> list[str]:
        assert NGINX is not None
        options = f"daemon off; pid {self.folder}/nginx.pid;"
        return [NGINX, "-e", "stderr", "-c", str(self.config), "-g", options]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    server = Gateway(tmp_path_factory.mktemp("nginx"))
    with running(server):
        yield server


def sender(gateway: Gateway, port: int, scheme: str = "https", **more: str) -> Upstream:
    return Upstream(f"{scheme}://localhost:{port}", ca=str(gateway.folder / "ca.pem"), **more)


def test_its_204_keeps_the_connection(gateway):
    for to in (sender(gateway, gateway.port, "http"), sender(gateway, gateway.tls)):
        for _ in range(3):
            assert to.send(PUSH_PATH, bytes(100_000), TEXT) == Reply(204)
        first = to._kept.connection
        assert to.send(PUSH_PATH, b"", TEXT) == Reply(204)
        assert to._kept.connection is first
        to.close()


@pytest.mark.parametrize(
    ("port", "scheme", "words"),
    [
        ("tls", "http", "it speaks TLS"),
        ("port", "https", "it does not speak TLS"),
        ("mtls", "https", "it wants a client certificate"),
    ],
)
def test_what_is_wrong_with_the_way_is_said_and_is_not_the_shippers_fault(
    gateway, port, scheme, words
):
    to = sender(gateway, getattr(gateway, port), scheme)
    with pytest.raises(errors.Unavailable, match=words):
        to.send(PUSH_PATH, b"one", TEXT)
    assert to.trouble.startswith(words)


def test_it_knows_us_by_our_certificate(gateway):
    to = sender(gateway, gateway.mtls, cert=str(gateway.folder / "cert.pem"))
    assert to.send(PUSH_PATH, b"one", TEXT) == Reply(204)
    to.close()


@pytest.mark.parametrize("size", [2_000_000, 30_000_000])
def test_a_body_that_it_does_not_read_is_refused_with_413(gateway, size):
    to = sender(gateway, gateway.port, "http")
    assert to.send(PUSH_PATH, bytes(size), TEXT).status == 413
    assert to.trouble.startswith("it answers 413")
    to.close()


def test_a_redirect_is_said(gateway):
    to = Upstream(f"http://localhost:{gateway.port}/elsewhere")
    assert to.send(PUSH_PATH, b"one", TEXT).status == 302
    assert to.trouble == "it answers 302: give its final URL to Sluice"
    to.close()
