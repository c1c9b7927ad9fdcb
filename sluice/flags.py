"""Flags: how each setting is given, as a flag or as SLUICE_ and its name in the environment."""

import collections
import math
import re
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from sluice import auth, budget, errors, hosts, quantity, table
from sluice.notify import url
from sluice.settings import Address

Command = TypeVar("Command", bound=Callable[..., Any])
Value = TypeVar("Value")
MIB = 2**20
# Source: RFC 9110, 5.5.
HEADER_TEXT = re.compile(r"[\t -~\xa0-\xff]*")
# Source: Prometheus' data model; Loki takes no other name in front of the braces' equals sign.
LABEL_NAME = re.compile("[a-zA-Z_][a-zA-Z0-9_]*")
PORT = re.compile("[0-9]{1,5}")
# 2^63 has 19; more than 4300 of them Python does not read.
DIGITS = re.compile("[0-9]{1,40}")
# They say how the body is to be read, which only Sluice knows.
OWN_HEADERS = ("connection", "content-encoding", "content-length", "content-type",
               "transfer-encoding")  # fmt: skip


class AddressType(click.ParamType[Address]):
    """HOST:PORT, or [HOST]:PORT."""

    name = "HOST:PORT"

    def convert(self, value: Any, param: Any, ctx: Any) -> Address:
        """Click's hook."""
        if isinstance(value, Address):
            return value
        host, colon, port = value.strip().rpartition(":")
        if not (colon and PORT.fullmatch(port) and int(port) < 65_536):
            self.fail(f"expected HOST:PORT with a port from 0 to 65535, got {value!r}", param, ctx)
        return Address(host.strip("[]") or "0.0.0.0", int(port))


class FloatRange(click.FloatRange):
    """A number within bounds; click's own takes nan, which is within any."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Click's hook."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"expected a finite number, got {number}", param, ctx)
        return number


class PathType(click.Path):
    """A path; the empty one, of a variable that is not set, is not the current directory."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Click's hook."""
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


class BytesType(click.ParamType[int]):
    """A number of bytes: 8388608 or 8Mi."""

    name = "BYTES"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Click's hook."""
        try:
            number = quantity.parse(
                int(value) if DIGITS.fullmatch(str(value)) else value, "number of bytes"
            )
        except errors.BadBudget as error:
            self.fail(error.message, param, ctx)
        if number < 1:
            self.fail(f"{value!r} is below 1", param, ctx)
        return number


class LinesType(click.ParamType[Value]):
    """Something of which the environment gives one a line, empty ones aside.

    A file or a Secret ends with a line end more often than not.
    """

    envvar_list_splitter = "\n"

    def split_envvar_value(self, rv: str) -> list[str]:
        """Click's hook."""
        return [line.strip() for line in rv.splitlines() if line.strip()]


class HeaderType(LinesType[tuple[str, str]]):
    """NAME=VALUE; in the environment one a line. What is wrong is said without it: a secret."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, str]:
        """Click's hook."""
        if isinstance(value, tuple):
            return value
        name, equals, text = value.partition("=")
        name = name.strip()
        if not (equals and auth.HEADER_NAME.fullmatch(name) and HEADER_TEXT.fullmatch(text)):
            self.fail("expected NAME=VALUE with the name and value of an HTTP header", param, ctx)
        if name.lower() in OWN_HEADERS:
            self.fail(f"Sluice sets {name} itself", param, ctx)
        return name, text


class AuthType(click.ParamType[auth.Auth]):
    """Who may look."""

    name = "WHO"

    def convert(self, value: Any, param: Any, ctx: Any) -> auth.Auth:
        """Click's hook."""
        if isinstance(value, auth.Auth):
            return value
        try:
            return auth.Auth.parse(value)
        except errors.SluiceError as error:
            self.fail(error.message, param, ctx)


class SinkType(LinesType[str]):
    """A URL of a sink; in the environment one a line. What is wrong is said without the URL."""

    name = "URL"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Click's hook."""
        text = str(value).strip()
        try:
            url.check(text)
        except errors.BadRequest as error:
            self.fail(error.message, param, ctx)
        return text


class LabelType(click.ParamType[str]):
    """The name of one label."""

    name = "NAME"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Click's hook."""
        if not LABEL_NAME.fullmatch(value):
            self.fail(
                f"expected the name of one label, such as namespace, got {value!r};"
                " give the flag once for each",
                param,
                ctx,
            )
        return str(value)


class Once(click.Option):
    """A flag that is refused where it is given twice: somebody means both to count.

    Of other flags the last one counts, so that a wrapper's default can be overridden.
    """


class OnceCommand(click.Command):
    """A command that heeds Once."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Click's hook."""
        _, _, given = self.make_parser(ctx).parse_args(list(args))
        for param, times in collections.Counter(given).items():
            if times > 1 and isinstance(param, Once):
                ctx.fail(f"{param.opts[0]} was given {times} times: give it once")
        return super().parse_args(ctx, args)


def option(flag: str, *old: str, **more: Any) -> Callable[[Command], Command]:
    """A flag that the environment can give too; `old` are names that it had before."""
    variables = ["SLUICE_" + name.lstrip("-").replace("-", "_").upper() for name in (flag, *old)]
    more.setdefault("show_default", True)
    # What click passes on is named after the first.
    name = flag.lstrip("-").replace("-", "_")
    return click.option(
        flag, *old, name, envvar=variables if old else variables[0], show_envvar=True, **more
    )


class HostType(click.ParamType[str]):
    """A host's name, or with a dot before it all names below."""

    name = "HOST"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Click's hook."""
        bare = value.removeprefix(".")
        if not bare or hosts.name_of(bare) != bare.lower().rstrip("."):
            self.fail(
                f"expected a name such as logs.example.com or .example.com, got {value!r}",
                param,
                ctx,
            )
        return str(value)


class RulesType(click.ParamType[tuple[str, ...]]):
    """Rules of notify/rules.py with commas between them, or none."""

    name = "RULES"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        """Click's hook."""
        if isinstance(value, tuple):
            return value
        try:
            return budget.parse_rules(value, "rules")
        except errors.BadBudget as error:
            self.fail(error.message, param, ctx)


class UrlType(click.ParamType[str]):
    """An http or https URL; without the slash at its end.

    Args:
        example: shown where another text is given.
        has_query: it may have a query.
    """

    name = "URL"

    def __init__(self, example: str = "http://prometheus:9090", *, has_query: bool = False) -> None:
        self._example, self._has_query = example, has_query

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Click's hook."""
        # A file or a Secret ends with a line end more often than not.
        text = str(value).strip()
        try:
            parts = urllib.parse.urlsplit(text)
            is_good = parts.scheme in ("http", "https") and bool(parts.hostname)
            is_good = is_good and not parts.fragment and (self._has_query or not parts.query)
        except ValueError:
            parts, is_good = urllib.parse.urlsplit(""), False
        if not is_good:
            # It may hold a password, or be a secret as a whole.
            self.fail(f"expected a URL such as {self._example}", param, ctx)
        try:
            is_port = parts.port != 0
        except ValueError:
            is_port = False
        if not is_port:
            self.fail("expected a URL with a port from 1 to 65535", param, ctx)
        return text.rstrip("/")


DASHBOARD_LISTEN = option(
    "--dashboard-listen",
    type=AddressType(),
    default="127.0.0.1:3000",
    help="The address of the dashboard.",
)
STATE_DIR = option(
    "--state-dir",
    type=PathType(path_type=Path),
    help="The directory for usage and other state.  [default: $XDG_STATE_HOME/sluice or"
    " ~/.local/state/sluice]",
)
AUTH = option(
    "--auth",
    type=AuthType(),
    help="Who may read pages and /api: none (anyone), bearer:FILE (clients that send the token in"
    " FILE, also as a password), header:NAME (users that an authenticating proxy names in this"
    " header).",
)
ALLOWED_HOST = option(
    "--allowed-host",
    type=HostType(),
    multiple=True,
    help="A host name under which people open pages and API: logs.example.com, or .example.com for"
    " all names below it. Sluice refuses other names, against DNS rebinding. Repeatable. Always"
    " accepted: IP addresses, names without a dot, *.svc, *.cluster.local, *.local, *.internal,"
    " the host of --dashboard-url.",
)

RUN_OPTIONS = (
    option(
        "--budgets",
        cls=Once,
        required=True,
        type=PathType(path_type=Path),
        help="TeamBudget YAML: a file, or a directory of files. Changes apply without a restart.",
    ),
    option(
        "--listen",
        type=AddressType(),
        default="127.0.0.1:8080",
        help="The address for pushes, API and metrics.",
    ),
    DASHBOARD_LISTEN,
)

DASHBOARD_OPTIONS = (
    option(
        "--prometheus-url",
        type=UrlType(),
        help="A Prometheus that scrapes Sluice: the dashboard takes its history from there.",
    ),
    option(
        "--cost-per-gib",
        type=FloatRange(0, budget.COST_MAX),
        help="The price of a GiB, for budgets without costPerGiB.",
    ),
    option("--currency", default="", help="The currency shown with costs, such as EUR."),
)

NOTIFY_OPTIONS = (
    option(
        "--notify",
        type=SinkType(),
        multiple=True,
        help="Where to send notifications: alertmanager://HOST:PORT, or any URL of apprise (Slack,"
        " Teams, PagerDuty, mail, json://HOST ...). Repeatable.",
    ),
    option(
        "--notify-on",
        type=RulesType(),
        default="throttle,drop,recovery,forecast",
        help="What to notify of, or none. A budget overrides it with the annotation tco.io/notify.",
    ),
    option(
        "--dashboard-url",
        type=UrlType(),
        help="The public URL of the dashboard, for links in notifications.",
    ),
)

NOTIFY_TEST_OPTIONS = (
    option(
        "--notify",
        type=SinkType(),
        multiple=True,
        required=True,
        help="Where to send the test; see `sluice run --help`. Repeatable.",
    ),
    option(
        "--dashboard-url",
        type=UrlType(),
        help="The public URL of the dashboard, which the message links to.",
    ),
    click.option(
        "--team",
        default="default/test",
        show_default=True,
        help="The team that the test message names.",
    ),
)

LISTEN_OPTIONS = (
    option(
        "--listen", type=AddressType(), default="0.0.0.0:8080", help="The address to listen on."
    ),
)

PAGES_OPTIONS = (
    option(
        "--listen", type=AddressType(), default="0.0.0.0:3000", help="The address to listen on."
    ),
    option(
        "--state-dir",
        type=PathType(path_type=Path),
        help="The directory for history.  [default: $XDG_STATE_HOME/sluice/dashboard or"
        " ~/.local/state/sluice/dashboard]",
    ),
)

KUBECONFIG_OPTIONS = (
    option(
        "--kubeconfig",
        type=PathType(exists=True, dir_okay=False, path_type=Path),
        help="The kubeconfig for the API server.  [default: the pod's service account, else"
        " $KUBECONFIG or ~/.kube/config]",
    ),
    option("--context", help="A context of the kubeconfig, instead of its current one."),
)

CLUSTER_OPTIONS = (
    *KUBECONFIG_OPTIONS,
    option(
        "--system-namespace",
        help="Sluice's own namespace. Budgets in it may govern other namespaces."
        f"  [default: the pod's, else {table.SYSTEM_NAMESPACE}]",
    ),
    option(
        "--report-ceiling",
        type=FloatRange(0.1, 3600),
        default=60.0,
        help="Longest time in seconds between two reports of an agent that has counted something.",
    ),
    option(
        "--heartbeat",
        type=FloatRange(0.1, 3600),
        default=10.0,
        help="Shortest time in seconds between two updates of a budget's status while its decision"
        " stays the same and usage moves little.",
    ),
)

AGENT_OPTIONS = (
    option("--node-name", help="The name of this node.  [default: the node in the pod's token]"),
    option(
        "--start-grace",
        type=FloatRange(0, 3600),
        default=60.0,
        help="Seconds to wait for budgets at the first start. After that, all logs pass.",
    ),
    option(
        "--budgets-grace",
        type=FloatRange(0, 604_800),
        default=3600.0,
        help="Seconds for which the last known budgets stay in force when all of them, or their"
        " CRD, are gone from the cluster.",
    ),
    option(
        "--report-floor",
        type=FloatRange(0.1, 3600),
        default=2.0,
        help="Shortest time in seconds between two reports of this node.",
    ),
    option(
        "--stale-after",
        type=FloatRange(1, 86_400),
        default=180.0,
        help="Seconds without news of the cluster's usage after which onStale applies.",
    ),
)

CONTROLLER_OPTIONS = (
    option(
        "--lease-duration",
        type=FloatRange(1, 3600),
        default=15.0,
        help="Seconds that a leader's lease lasts.",
    ),
    click.option(
        "--uninstall",
        is_flag=True,
        help="Remove the finalizers from all NodeLogUsage objects, so that they can be deleted, and"
        " exit.",
    ),
)

SERVING_OPTIONS = (
    option(
        "--upstream",
        cls=Once,
        required=True,
        metavar="URL",
        help="The URL of Loki or of a gateway in front of it. HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
        " apply.",
    ),
    STATE_DIR,
    option(
        "--upstream-timeout",
        type=FloatRange(0.1, 600),
        default=30.0,
        help="Seconds to wait for upstream's whole answer. Loki gives up after 30. With less, Loki"
        " may store a push that Sluice has given up, and the shipper sends it again.",
    ),
    option(
        "--upstream-ca",
        type=PathType(exists=True, dir_okay=False, path_type=Path),
        help="CA certificates to trust instead of the system's. Sluice reads the file again when it"
        " changes.",
    ),
    option(
        "--upstream-cert",
        type=PathType(exists=True, dir_okay=False, path_type=Path),
        help="Sluice's client certificate, for an upstream that asks for one. Sluice reads the file"
        " again when it changes.",
    ),
    option(
        "--upstream-key",
        type=PathType(exists=True, dir_okay=False, path_type=Path),
        help="The private key of --upstream-cert.  [default: the same file]",
    ),
    option(
        "--upstream-header",
        type=HeaderType(),
        multiple=True,
        help="A header to send with every push. It replaces the shipper's header of that name."
        " Repeatable.",
    ),
    option(
        "--upstream-metrics",
        type=UrlType("http://loki:3100/metrics", has_query=True),
        help="The metrics page of Loki. /api/health and /metrics then compare the bytes that Loki"
        " received with the bytes that Sluice charged. Certificates and proxies are those of"
        " --upstream.",
    ),
    option(
        "--upstream-tenant",
        multiple=True,
        metavar="NAME",
        help="The Loki tenant to read from --upstream-metrics. Repeatable."
        "  [default: X-Scope-OrgID of --upstream-header, else fake]",
    ),
    option(
        "--threads",
        type=click.IntRange(3, 1024),
        default=16,
        help="Requests handled at the same time.",
    ),
    option(
        "--max-in-flight",
        type=click.IntRange(1, 1024),
        help="Pushes handled at the same time; further ones wait or are answered 503. While others"
        " push, one client address gets at most three quarters.  [default: threads - 2]",
    ),
    option(
        "--max-body",
        type=BytesType(),
        help="Most bytes of one push as received.  [default: 64Mi, or what --max-memory allows]",
    ),
    option(
        "--max-decoded",
        type=BytesType(),
        help="Most bytes of one push when decoded.  [default: 64Mi, or what --max-memory allows]",
    ),
    option(
        "--max-memory",
        "--max-decoded-total",
        type=BytesType(),
        default=176 * MIB,
        help="Most bytes of memory that all pushes together may hold. A push that does not fit is"
        " answered 503. A sixteenth is kept for small pushes.",
    ),
    option(
        "--unbudgeted",
        type=click.Choice(["allow", "drop"]),
        default="allow",
        help="What to do with streams that no budget governs.",
    ),
    option(
        "--exempt-loki-streams",
        is_flag=True,
        help="Exempt streams with the label __pattern__ or __aggregated_metric__ from all budgets."
        " Loki's pattern ingester sets these labels, but any client can set them too.",
    ),
    option(
        "--evaluate",
        is_flag=True,
        help="Serve POST /api/v1/evaluate, which charges budgets for callers that forward logs"
        " themselves. Without --auth, anyone who reaches the port may call it.",
    ),
)

LOG_OPTIONS = (
    option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        help="The format of log lines.",
    ),
    option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="info",
        help="The lowest level to log.",
    ),
)

COMMON_OPTIONS = (
    AUTH,
    ALLOWED_HOST,
    option(
        "--namespace-label",
        type=LabelType(),
        multiple=True,
        help="A label that holds a stream's namespace. Repeatable: the first one present counts."
        "  [default: namespace, k8s_namespace_name, kubernetes_namespace_name]",
    ),
    *LOG_OPTIONS,
)


def with_options(*groups: tuple[Any, ...]) -> Callable[[Command], Command]:
    """Give a command these options, in this order in its --help."""

    def decorate(command: Command) -> Command:
        for add in reversed([add for group in groups for add in group]):
            command = add(command)
        return command

    return decorate


DEMO_OPTIONS = (
    option(
        "--listen", type=AddressType(), default="127.0.0.1:8080", help="The address to listen on."
    ),
    DASHBOARD_LISTEN,
    option(
        "--state-dir",
        type=PathType(path_type=Path),
        help="The directory for usage.  [default: a temporary one, removed at the end]",
    ),
    option(
        "--seconds",
        type=FloatRange(0),
        default=0.0,
        help="Seconds until the demo ends; 0: run until Ctrl-C.",
    ),
)
