"""The way to upstream's page of metrics: certificates and proxies are those of --upstream."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from harness import Sluice, running, wait_until, write_budgets
from runs import SHOP
from test_reconcile import Pages
from test_upstream_tls import context_of, proxying

from sluice import metrics
from sluice.agent import reconcile
from sluice.agent.answer import Settlement
from sluice.agent.certificates import Certificates
from sluice.agent.destination import Proxy


@pytest.fixture
def secure_pages() -> Iterator[tuple[Pages, trustme.CA]]:
    """A page over TLS, for clients that show a certificate; the authority of both sides."""
    authority = trustme.CA()
    server = Pages()
    server.socket = context_of(authority, clients=authority).wrap_socket(
        server.socket, server_side=True
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server, authority
    server.shutdown()
    thread.join()
    server.server_close()


def files_of(folder: Path, authority: trustme.CA) -> list[str]:
    """The files of a CA, and of a client's certificate and key that it has issued."""
    own = authority.issue_cert("sluice.example")
    blobs = (authority.cert_pem, own.cert_chain_pems[0], own.private_key_pem)
    paths = [folder / name for name in ("ca.crt", "tls.crt", "tls.key")]
    for path, blob in zip(paths, blobs, strict=True):
        new = path.with_suffix(".new")
        new.write_bytes(blob.bytes())
        new.replace(path)
    return [str(path) for path in paths]


def made(url: str, **more: object) -> reconcile.Reconciliation:
    settled = metrics.SettledBytes(Settlement)
    return reconcile.Reconciliation(settled.sums, url=url, tenants=("fake",), **more)  # type: ignore[arg-type]


def trouble(it: reconcile.Reconciliation) -> str:
    it.poll()
    return it.trouble


def test_the_client_certificate_of_upstream_is_shown_and_read_again(secure_pages, tmp_path: Path):
    server, authority = secure_pages
    server.show(1)
    url = f"https://localhost:{server.server_port}/metrics"
    # The files of another authority come first, and are replaced.
    it = made(url, tls=Certificates(*files_of(tmp_path, trustme.CA())))
    assert "SSLError" in trouble(it)
    files_of(tmp_path, authority)
    assert trouble(it) == ""
    (tmp_path / "tls.crt").write_text("nonsense")
    assert "client certificate" in trouble(it)


def test_a_page_over_https_is_read_through_a_tunnel_of_the_proxy(secure_pages, tmp_path: Path):
    server, authority = secure_pages
    server.show(1)
    tls = Certificates(*files_of(tmp_path, authority))
    with proxying(to=server.server_port) as proxy:
        # It is the proxy that knows where this host is.
        way = Proxy.parse(f"http://user:secret@127.0.0.1:{proxy.port}")
        it = made("https://localhost:3100/metrics", tls=tls, proxy=way)
        assert trouble(it) == ""
    head = proxy.heads[0].decode().lower()
    assert head.startswith("connect localhost:3100 http/1.")
    assert "proxy-authorization: basic dxnlcjpzzwnyzxq=" in head


def test_run_reads_the_page_as_it_sends_pushes(secure_pages, tmp_path: Path):
    server, authority = secure_pages
    server.show(1)
    flags = ("--upstream-ca", "--upstream-cert", "--upstream-key")
    args = [
        word for pair in zip(flags, files_of(tmp_path, authority), strict=True) for word in pair
    ]
    args += ["--upstream-metrics", "https://localhost:3100/metrics"]
    budgets = write_budgets(tmp_path / "budgets.yaml", [SHOP])
    with proxying(to=server.server_port) as proxy:
        variables = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}", "NO_PROXY": ""}
        sluice = Sluice(tmp_path / "run", budgets, "https://localhost:9", args=args, env=variables)
        with running(sluice):

            def books() -> object:
                return sluice.get("/api/health").json["reconciliation"].get("checked")

            wait_until(books, "the page was read")
    assert proxy.heads[0].startswith(b"CONNECT localhost:3100 ")


def test_a_page_over_http_is_asked_of_the_proxy():
    server = Pages()
    server.show(1)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        way = Proxy.parse(f"http://user:secret@127.0.0.1:{server.server_port}")
        assert trouble(made("http://loki.invalid:3100/metrics", proxy=way)) == ""
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    (headers,) = server.asked
    assert headers["host"] == "loki.invalid:3100"
    assert headers["proxy-authorization"] == "Basic dXNlcjpzZWNyZXQ="
