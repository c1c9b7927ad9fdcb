"""Settings: one frozen dataclass per process; what is not here is not a setting.

flags.py says how each is given. These two are the only readers of the environment.
"""

import contextlib
import ipaddress
import os
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

import click

from sluice import hosts, memory, table
from sluice.auth import NOBODY_IS_ASKED, Auth
from sluice.pace import Pace

# Threads that are kept from pushes, so that probes and metrics are answered.
SPARE_THREADS = 2
# Bytes of a push, as received and decoded. Loki's distributor takes 100 MiB as received
# (distributor.max_recv_msg_size of 3.7.8); shippers send a few MiB, a backlog 13.
PUSH_MAX = 64 * 2**20
# What Loki calls the tenant of those that name none, where it does not ask.
NO_TENANT = "fake"


def default_state_dir() -> Path:
    """$XDG_STATE_HOME/sluice, else ~/.local/state/sluice."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "sluice"


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for a URL, None if it names none.

    HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY in capitals or not, as curl and requests have
    them.
    """
    try:
        parts = urlsplit(url)
        host, port = (
            parts.hostname or "",
            parts.port or {"http": 80, "https": 443}.get(parts.scheme),
        )
    except ValueError:
        # Refused where it is used, with a reason.
        return None
    proxies = getproxies_environment()
    if needs_no_proxy(host, port or 0, proxies.get("no", "")):
        return None
    return proxies.get(parts.scheme) or proxies.get("all")


def needs_no_proxy(host: str, port: int, no_proxy: str) -> bool:
    """Whether NO_PROXY has the host: *, a name or one it ends in, an address or its network."""
    for item in no_proxy.lower().replace(" ", ",").split(","):
        if item.startswith("[") or item.count(":") == 1:
            item = item.removesuffix(f":{port}").strip("[]")
        name = item.removeprefix("*.").lstrip(".")
        if not name:
            continue
        if name == "*" or host == name or host.endswith(f".{name}"):
            return True
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False):
                return True
    return False


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; `str()` gives it as a URL's authority."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it; a name but localhost may be any address."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def guarded(flags: dict[str, Any]) -> Auth:
    """Who may look, and under which names of this server."""
    addresses = (flags.get("listen"), flags.get("dashboard_listen"))
    names = [one.host for one in addresses if one is not None]
    if flags.get("dashboard_url"):
        names.append(hosts.name_of(urlsplit(flags["dashboard_url"]).netloc))
    return replace(flags["auth"] or NOBODY_IS_ASKED, hosts=(*names, *flags["allowed_host"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The settings of whatever takes pushes."""

    upstream: str
    listen: Address
    state_dir: Path
    upstream_timeout: float
    upstream_ca: Path | None
    upstream_cert: Path | None
    upstream_key: Path | None
    # It may hold a password.
    upstream_proxy: str | None = field(repr=False)
    upstream_header: tuple[tuple[str, str], ...]
    upstream_metrics: str | None
    upstream_metrics_proxy: str | None = field(repr=False)
    upstream_tenant: tuple[str, ...]
    threads: int
    max_in_flight: int
    max_body: int
    max_decoded: int
    max_memory: int
    namespace_label: tuple[str, ...]
    unbudgeted: str
    exempt_loki_streams: bool
    evaluate: bool
    auth: Auth
    log_format: str
    log_level: str

    @classmethod
    def from_flags(cls, flags: dict[str, Any]) -> Self:
        """What click parsed, with the defaults that hang on other settings filled in."""
        flags["max_in_flight"] = flags["max_in_flight"] or flags["threads"] - SPARE_THREADS
        if flags["max_in_flight"] > flags["threads"]:
            raise click.UsageError(
                f"--max-in-flight {flags['max_in_flight']} exceeds --threads {flags['threads']}"
            )
        most = memory.Memory(flags["max_memory"]).most(PUSH_MAX)
        for name in ("max_body", "max_decoded"):
            flags[name] = flags[name] or min(PUSH_MAX, most)
            if flags[name] > most:
                # A push in between would be refused for another reason than the operator's.
                raise click.UsageError(
                    f"--{name.replace('_', '-')} {flags[name]} exceeds the {most} bytes that"
                    f" a large push may hold of --max-memory {flags['max_memory']}"
                )
        flags["state_dir"] = flags["state_dir"] or default_state_dir()
        flags["auth"] = guarded(flags)
        flags["namespace_label"] = flags["namespace_label"] or table.NAMESPACE_LABELS
        # A file or a Secret ends with a line end more often than not.
        flags["upstream"] = flags["upstream"].strip()
        flags["upstream_proxy"] = proxy_for(flags["upstream"])
        flags["upstream_metrics_proxy"] = proxy_for(flags["upstream_metrics"] or "")
        if flags["upstream_key"] and not flags["upstream_cert"]:
            raise click.UsageError("--upstream-key is given without --upstream-cert")
        if flags["upstream_cert"] and flags["upstream"].startswith("http:"):
            raise click.UsageError("--upstream-cert is given, and --upstream is not https://")
        own_headers = {name.lower(): value for name, value in flags["upstream_header"]}
        flags["upstream_tenant"] = flags["upstream_tenant"] or (
            own_headers.get("x-scope-orgid", NO_TENANT),
        )
        return cls(**{own.name: flags[own.name] for own in fields(cls)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Serving):
    """The settings of `sluice run`."""

    budgets: Path
    dashboard_listen: Address
    prometheus_url: str | None
    cost_per_gib: float | None
    currency: str
    notify: tuple[str, ...]
    notify_on: tuple[str, ...]
    dashboard_url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent(Serving):
    """The settings of `sluice agent`."""

    kubeconfig: Path | None
    context: str | None
    system_namespace: str | None
    node_name: str | None
    start_grace: float
    budgets_grace: float
    report_floor: float
    report_ceiling: float
    heartbeat: float
    stale_after: float

    @property
    def pace(self) -> Pace:
        """When to report, and when to distrust."""
        return Pace(self.report_floor, self.report_ceiling, self.heartbeat, self.stale_after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """The settings of `sluice controller`."""

    listen: Address
    kubeconfig: Path | None
    context: str | None
    system_namespace: str | None
    report_ceiling: float
    heartbeat: float
    lease_duration: float
    namespace_label: tuple[str, ...]
    uninstall: bool
    notify: tuple[str, ...]
    notify_on: tuple[str, ...]
    dashboard_url: str | None
    auth: Auth
    log_format: str
    log_level: str

    @classmethod
    def from_flags(cls, flags: dict[str, Any]) -> Self:
        """What click parsed."""
        flags["auth"] = guarded(flags)
        flags["namespace_label"] = flags["namespace_label"] or table.NAMESPACE_LABELS
        return cls(**{own.name: flags[own.name] for own in fields(cls)})

    @property
    def pace(self) -> Pace:
        """When nodes report, and when to publish."""
        return Pace(ceiling=self.report_ceiling, heartbeat=self.heartbeat)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """The settings of `sluice dashboard`."""

    listen: Address
    kubeconfig: Path | None
    context: str | None
    state_dir: Path
    prometheus_url: str | None
    cost_per_gib: float | None
    currency: str
    auth: Auth
    log_format: str
    log_level: str

    @classmethod
    def from_flags(cls, flags: dict[str, Any]) -> Self:
        """What click parsed.

        Others than this machine may only look if somebody has said who.
        """
        if flags["auth"] is None and not flags["listen"].is_loopback:
            raise click.UsageError(
                f"--listen {flags['listen']} is open to other machines: say who may look with"
                " --auth bearer:FILE or --auth header:NAME, or --auth none for everybody"
            )
        flags["auth"] = guarded(flags)
        flags["state_dir"] = flags["state_dir"] or default_state_dir() / "dashboard"
        return cls(**{own.name: flags[own.name] for own in fields(cls)})


@dataclass(frozen=True, slots=True)
class Demo:
    """The settings of `sluice demo`."""

    listen: Address
    dashboard_listen: Address
    state_dir: Path | None
    seconds: float

    @classmethod
    def from_flags(cls, flags: dict[str, Any]) -> "Demo":
        """What click parsed."""
        if flags["listen"].port == 0:
            raise click.UsageError(f"--listen {flags['listen']}: the demo has to know its port")
        return cls(**flags)
