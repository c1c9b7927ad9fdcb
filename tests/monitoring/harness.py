"""A real Prometheus and a real Alertmanager, of Debian's packages, on loopback ports."""

import contextlib
import http.server
import json
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from harness import Server, free_port

ROOT = Path(__file__).parents[2]
PROMTOOL_S = 120
SEARCH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


def program(name: str) -> str | None:
    """Where a program stands, or None."""
    return shutil.which(name) or shutil.which(name, path=SEARCH)


def promtool(*args: str) -> str:
    """What promtool says; AssertionError with it, if it finds a fault."""
    found = program("promtool")
    assert found, "there is no promtool"
    done = subprocess.run(
        [found, *args], capture_output=True, text=True, timeout=PROMTOOL_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Webhook:
    """Takes what an Alertmanager posts.

    Attributes:
        groups: each message, in order: Alertmanager's JSON, with a list of alerts.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.groups: list[dict[str, Any]] = []

    def told(self, alertname: str, status: str) -> list[dict[str, Any]]:
        """The messages with an alert of this name that is `firing` or `resolved`."""
        return [
            group
            for group in list(self.groups)
            if any(
                (alert["labels"]["alertname"], alert["status"]) == (alertname, status)
                for alert in group["alerts"]
            )
        ]


@contextlib.contextmanager
def webhook() -> Iterator[Webhook]:
    """Run a Webhook."""
    made = Webhook("")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.groups.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.url = f"http://127.0.0.1:{server.server_port}/"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


class Alertmanager(Server):
    """An Alertmanager that tells `receiver` (a URL for webhooks) of each group at once."""

    name = "alertmanager"
    ready_path = "/-/ready"

    def __init__(self, folder: Path, receiver: str, *, group_by: Sequence[str] = ()) -> None:
        super().__init__(folder)
        self.port = free_port()
        config = {
            "route": {
                "receiver": "test",
                "group_by": list(group_by),
                "group_wait": "0s",
                "group_interval": "1s",
                "repeat_interval": "1h",
            },
            "receivers": [
                {
                    "name": "test",
                    "webhook_configs": [{"url": receiver, "send_resolved": True}],
                }
            ],
        }
        self.config = folder / "alertmanager.yml"
        self.config.write_text(yaml.safe_dump(config))

    def command(self) -> list[str]:
        found = program("prometheus-alertmanager") or program("alertmanager")
        assert found, "there is no Alertmanager"
        return [
            found,
            f"--config.file={self.config}",
            f"--storage.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--cluster.listen-address=",
        ]

    def alerts(self) -> list[dict[str, Any]]:
        """The alerts that are active now."""
        found: list[dict[str, Any]] = self.get("/api/v2/alerts").json
        return found


class Prometheus(Server):
    """A Prometheus that scrapes `targets` (host:port, or with labels) every `interval`."""

    name = "prometheus"
    ready_path = "/-/ready"

    def __init__(
        self,
        folder: Path,
        targets: Mapping[str, Mapping[str, str]],
        *,
        rules: Sequence[Path] = (),
        alertmanager: str | None = None,
        interval: str = "1s",
        honor_labels: bool = True,
    ) -> None:
        super().__init__(folder)
        self.port = free_port()
        config: dict[str, Any] = {
            "global": {"scrape_interval": interval, "evaluation_interval": interval},
            "rule_files": [str(path) for path in rules],
            "scrape_configs": [
                {
                    "job_name": "sluice",
                    "honor_labels": honor_labels,
                    "static_configs": [
                        {"targets": [target], "labels": dict(labels)}
                        for target, labels in targets.items()
                    ],
                }
            ],
        }
        if alertmanager is not None:
            config["alerting"] = {
                "alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]
            }
        self.config = folder / "prometheus.yml"
        self.config.write_text(yaml.safe_dump(config))

    def command(self) -> list[str]:
        found = program("prometheus")
        assert found, "there is no Prometheus"
        return [
            found,
            f"--config.file={self.config}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """What an instant query finds: its result; AssertionError with the error's text."""
        fields = {"query": expression, "time": f"{at or time.time():.3f}"}
        url = f"{self.url}/api/v1/query?{urllib.parse.urlencode(fields)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            found = json.load(answer)
        assert found["status"] == "success", found
        result: list[dict[str, Any]] = found["data"]["result"]
        return result
