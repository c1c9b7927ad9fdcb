"""The real Loki for tests, and what it has kept, read back."""

import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from harness import Server, free_port
from shippers import Entry

# Loki's own largest page.
PAGE = 5000


class Line(NamedTuple):
    """An entry read back from Loki."""

    labels: dict[str, str]
    ts_ns: int
    line: str
    metadata: dict[str, str]

    @property
    def billed(self) -> int:
        return Entry(self.ts_ns, self.line, self.metadata).billed


class Loki(Server):
    """The real Loki: one process, tenants apart, nothing limited that a budget could be about."""

    name = "loki"

    def __init__(
        self, folder: Path, binary: Path, overrides: dict[str, Any] | None = None, **parts: Any
    ) -> None:
        """`overrides` are limits by tenant; `parts` are further parts of the configuration."""
        super().__init__(folder)
        self.binary = binary
        self.port = free_port()
        self.config = folder / "loki.yaml"
        limits = folder / "limits.yaml"
        limits.write_text(yaml.safe_dump({"overrides": overrides or {}}))
        config = loki_config(folder, self.port, free_port()) | parts
        config["runtime_config"] = {"file": str(limits)}
        self.config.write_text(yaml.safe_dump(config))

    def command(self) -> list[str]:
        return [str(self.binary), f"-config.file={self.config}", "-target=all"]

    def start(self, ready_s: float = 120) -> "Loki":
        super().start(ready_s)
        return self

    def received_bytes(self, tenant: str) -> int:
        """What Loki bills this tenant for, so far."""
        return self.sum_of("loki_distributor_bytes_received_total", tenant)

    def received_lines(self, tenant: str) -> int:
        return self.sum_of("loki_distributor_lines_received_total", tenant)

    def sum_of(self, name: str, tenant: str) -> int:
        # Loki has thousands of series: no time to parse them all.
        row = re.compile(rf"^{name}{{(.*)}} (\S+)$", re.M)
        rows = row.findall(self.get("/metrics").text)
        return sum(int(float(value)) for labels, value in rows if f'tenant="{tenant}"' in labels)

    def query(
        self,
        logql: str,
        tenant: str,
        start_ns: int | None = None,
        end_ns: int | None = None,
        limit: int | None = None,
    ) -> list[Line]:
        """Everything that matches, oldest first; by default of the last hour and the next."""
        start_ns = time.time_ns() - 3600 * 10**9 if start_ns is None else start_ns
        end_ns = time.time_ns() + 3600 * 10**9 if end_ns is None else end_ns
        found: list[Line] = []
        last: set[str] = set()
        while limit is None or len(found) < limit:
            page = self.page(logql, tenant, start_ns, end_ns)
            fresh = [line for line in page if repr(line) not in last]
            found += fresh
            if len(page) < PAGE:
                break
            # The next page begins at the last timestamp of this one: others may share it.
            assert fresh, f"more than {PAGE} entries at {start_ns}"
            start_ns = page[-1].ts_ns
            last = {repr(line) for line in page if line.ts_ns == start_ns}
        return found[:limit]

    def page(self, logql: str, tenant: str, start_ns: int, end_ns: int) -> list[Line]:
        reply = self.get(
            "/loki/api/v1/query_range",
            # Metadata apart from labels.
            headers={
                "X-Scope-OrgID": tenant,
                "X-Loki-Response-Encoding-Flags": "categorize-labels",
            },
            fields={
                "query": logql,
                "start": str(start_ns),
                "end": str(end_ns),
                "limit": str(PAGE),
                "direction": "forward",
            },
        )
        assert reply.status == 200, reply.text
        lines = [
            Line(stream["stream"], int(value[0]), value[1], value[2].get("structuredMetadata", {}))
            for stream in reply.json["data"]["result"]
            for value in stream["values"]
        ]
        return sorted(lines, key=lambda line: line.ts_ns)


def loki_config(folder: Path, http: int, grpc: int) -> dict[str, Any]:
    """The settings of a Loki that lives as long as a test run."""
    data = folder / "data"
    return {
        "auth_enabled": True,
        "analytics": {"reporting_enabled": False},
        "server": {
            "http_listen_address": "127.0.0.1",
            "http_listen_port": http,
            "grpc_listen_address": "127.0.0.1",
            "grpc_listen_port": grpc,
            "grpc_server_max_recv_msg_size": 64 << 20,
            "grpc_server_max_send_msg_size": 64 << 20,
            "log_level": "warn",
        },
        "common": {
            "instance_addr": "127.0.0.1",
            "path_prefix": str(data),
            "replication_factor": 1,
            "ring": {"kvstore": {"store": "inmemory"}, "instance_addr": "127.0.0.1"},
            "storage": {
                "filesystem": {
                    "chunks_directory": str(data / "chunks"),
                    "rules_directory": str(data / "rules"),
                }
            },
        },
        "schema_config": {
            "configs": [
                {
                    "from": "2020-01-01",
                    "store": "tsdb",
                    "object_store": "filesystem",
                    "schema": "v13",
                    "index": {"prefix": "index_", "period": "24h"},
                }
            ]
        },
        # Ready at once: there is no other ingester to wait for.
        "ingester": {"lifecycler": {"min_ready_duration": "0s", "final_sleep": "0s"}},
        "ingester_client": {"grpc_client_config": {"max_send_msg_size": 64 << 20}},
        "limits_config": {
            "allow_structured_metadata": True,
            "reject_old_samples": False,
            "ingestion_rate_mb": 10_000,
            "ingestion_burst_size_mb": 10_000,
            "per_stream_rate_limit": "10GB",
            "per_stream_rate_limit_burst": "10GB",
            "max_global_streams_per_user": 0,
            "max_entries_limit_per_query": PAGE,
            "max_query_series": 100_000,
        },
    }
