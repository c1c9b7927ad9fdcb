"""nginx in front, by the configuration in deploy/shippers: one address for pushes and queries."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import shippers
from harness import Server, Sluice, budget, free_port, write_budgets
from loki.harness import Loki
from shippers import Entry, Stream

CONFIG = Path(__file__).parents[2] / "deploy" / "shippers" / "nginx.conf"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")

# Loki looks for fresh lines only where it has not written them down yet.
THEN_NS = time.time_ns() - 60 * 10**9

pytestmark = [pytest.mark.loki, pytest.mark.skipif(NGINX is None, reason="nginx is not there")]


class Nginx(Server):
    """nginx with the configuration that is shipped, but for its addresses."""

    name = "nginx"

    def __init__(self, folder: Path, sluice: int, loki: int) -> None:
        super().__init__(folder)
        self.port = free_port()
        text = CONFIG.read_text()
        for shipped, here in (
            ("tco-agent.sluice-system.svc:8080", f"127.0.0.1:{sluice}"),
            ("loki-gateway.loki.svc:80", f"127.0.0.1:{loki}"),
            ("listen 3100;", f"listen 127.0.0.1:{self.port};"),
        ):
            assert text.count(shipped) == 1
            text = text.replace(shipped, here)
        self.config = folder / "nginx.conf"
        self.config.write_text(text)

    def command(self) -> list[str]:
        assert NGINX is not None
        temporary = f"daemon off; pid {self.config.parent}/nginx.pid;"
        return [NGINX, "-e", "stderr", "-c", str(self.config), "-g", temporary]


@pytest.fixture
def nginx(tmp_path: Path, loki: Loki) -> Iterator[Nginx]:
    # All that is throttled passes: which entries a lower rate keeps hangs on their timestamps.
    shop = budget("shop", 1000, throttle={"sampleRate": 1})
    budgets = write_budgets(tmp_path / "budgets.yaml", [shop])
    sluice = Sluice(tmp_path, budgets, loki.url)
    sluice.start()
    front = Nginx(tmp_path, sluice.port, loki.port)
    try:
        front.start()
        yield front
    finally:
        front.stop()
        sluice.stop()


def test_the_configuration_is_one_that_nginx_takes(nginx: Nginx) -> None:
    assert NGINX is not None
    done = subprocess.run(
        [NGINX, "-t", "-c", str(nginx.config)], capture_output=True, text=True, check=False
    )
    assert "warn" not in done.stderr
    assert done.returncode == 0, done.stderr


def test_pushes_go_through_sluice_and_queries_past_it(nginx: Nginx, loki: Loki) -> None:
    tenant = "nginx"
    for line in ("a" * 700, "b" * 200, "c" * 400):
        push = shippers.promtail([Stream({"namespace": "shop"}, [Entry(THEN_NS, line)])])
        assert nginx.send(push, tenant).status == 204
    # The last one was over the budget, so it went through Sluice.
    assert loki.received_bytes(tenant) == 900
    found = nginx.get(
        "/loki/api/v1/query_range",
        headers={"X-Scope-OrgID": tenant},
        fields={"query": '{namespace="shop"}', "start": str(THEN_NS - 1), "limit": "10"},
    )
    assert found.status == 200
    (stream,) = found.json["data"]["result"]
    assert sorted(line[:1] for _, line in stream["values"]) == ["a", "b"]


def test_a_backlog_of_thirteen_megabytes_passes(nginx: Nginx) -> None:
    entries = [Entry(THEN_NS + i, "x" * 1000) for i in range(12_000)]
    push = shippers.vector_json([Stream({"namespace": "nobody"}, entries)])
    assert len(push.body) > 12_000_000
    assert nginx.send(push, "backlog").status == 204
