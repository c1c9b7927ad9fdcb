"""Where the API server is and who we are: a pod's files or a kubeconfig, and how to ask hard.

The `kubernetes` package reads both (tokens, certificates, exec plugins, proxies) and reads a
pod's token again each minute. Its defaults for the transport are no good for a process that
has to survive: see `harden`.
"""

import base64
import binascii
import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson
import yaml
from kubernetes import config
from kubernetes.client import Configuration
from kubernetes.config.incluster_config import InClusterConfigLoader
from kubernetes.utils import tcp_keepalive_socket_options

from sluice import errors

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# A connection whose other end has vanished is given up after 15 + 3 * 5 = 30 s.
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 15, 5, 3
# Idle connections kept: more threads than this may call at once.
POOL = 8

# What the package's loaders raise for a file that is absent, unreadable or not of their shape:
# they look at few of the types.
LOADING = (
    config.ConfigException,
    OSError,
    yaml.YAMLError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)


class NoCluster(errors.SluiceError):
    """There are no usable credentials for an API server; says where they were looked for."""

    status = 503


@dataclass(frozen=True, slots=True)
class Identity:
    """What the own token says about this pod; "" for what it does not say."""

    node: str = ""
    node_uid: str = ""
    pod_uid: str = ""
    namespace: str = ""


def harden(configuration: Configuration) -> Configuration:
    """Make the transport fail visibly and soon; returns its argument.

    urllib3 would try each request four times in silence, which multiplies every time-out and
    every call to a dead server by four; and nobody would ask whether the other end still lives.
    """
    configuration.retries = False
    configuration.connection_pool_maxsize = POOL
    configuration.socket_options = tcp_keepalive_socket_options(
        idle=KEEPALIVE_IDLE_S, interval=KEEPALIVE_INTERVAL_S, count=KEEPALIVE_PROBES
    )
    return configuration


class Access:
    """The API server's address and our credentials, kept current.

    Threads: any number.
    """

    def __init__(self, load: Callable[[Configuration], None], source: str) -> None:
        self.source = source
        self.configuration = harden(Configuration())
        self._load_into = load
        self._lock = threading.Lock()
        self._load()
        self._ca = self._ca_digest()

    def authorization(self) -> str | None:
        """The header that says who we are; None where a certificate does.

        Raises:
            NoCluster: the token was to be read again, and cannot be.
        """
        try:
            value = self.configuration.get_api_key_with_prefix("BearerToken")
        except LOADING as error:
            raise NoCluster(f"{self.source}: {_words(error)}") from error
        # A token file written by hand ends in a line end, which no header may hold.
        return " ".join(str(value).split()) if value else None

    def renewed(self, refused: str | None) -> str | None:
        """A header to try instead of one that the API server did not take, or None.

        Reads files and asks plugins again, unless another thread already has.

        Raises:
            NoCluster: they cannot be read.
        """
        with self._lock:
            current = self.authorization()
            if current == refused:
                self._load()
                current = self.authorization()
        return current if current != refused else None

    def identity(self) -> Identity:
        """What the current token says about this pod: unverified, for it is our own."""
        words = (self.authorization() or "").split()
        claims = _claims(words[-1]) if words else {}
        node, pod = _part(claims, "node"), _part(claims, "pod")
        return Identity(
            node=_text(node, "name"),
            node_uid=_text(node, "uid"),
            pod_uid=_text(pod, "uid"),
            namespace=_text(claims, "namespace"),
        )

    def ca_changed(self) -> bool:
        """Whether the file of trusted certificates differs from the one that was loaded.

        Connections trust what was read when they were made, so somebody has to begin anew.
        """
        current = self._ca_digest()
        # Absent for a moment while it is replaced: not a change yet.
        return current is not None and current != self._ca

    def _load(self) -> None:
        try:
            self._load_into(self.configuration)
        except LOADING as error:
            raise NoCluster(f"{self.source}: {_words(error)}") from error

    def _ca_digest(self) -> bytes | None:
        file = self.configuration.ssl_ca_cert
        try:
            return hashlib.blake2b(Path(file).read_bytes()).digest() if file else None
        except OSError:
            return None


def find(
    kubeconfig: Path | None = None,
    context: str | None = None,
    service_account: Path = SERVICE_ACCOUNT,
) -> Access:
    """The way to the API server: the kubeconfig if one is named, else a pod's own, else the
    user's kubeconfig ($KUBECONFIG, ~/.kube/config).

    Raises:
        NoCluster: there is none, or it cannot be used.
    """
    if kubeconfig is not None or context is not None:
        return _from_kubeconfig(kubeconfig, context)
    try:
        return _from_pod(service_account)
    except NoCluster as no_pod:
        try:
            return _from_kubeconfig(None, None)
        except NoCluster as no_file:
            raise NoCluster(f"no way to an API server: {no_pod}; {no_file}") from None


def _from_pod(folder: Path) -> Access:
    # One loader per load: its second load would read the token, but not the address, again.
    def load(configuration: Configuration) -> None:
        InClusterConfigLoader(
            token_filename=str(folder / "token"), cert_filename=str(folder / "ca.crt")
        ).load_and_set(configuration)

    return Access(load, f"service account in {folder}")


def _from_kubeconfig(path: Path | None, context: str | None) -> Access:
    file = str(path) if path is not None else config.KUBE_CONFIG_DEFAULT_LOCATION

    def load(configuration: Configuration) -> None:
        # The loader would pass over a file that is not there.
        if path is not None and not path.is_file():
            raise FileNotFoundError("no such file")
        # It is not ours to write into.
        config.load_kube_config(file, context, configuration, persist_config=False)

    return Access(load, f"kubeconfig {file}")


def _words(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    # Of these, the text alone is only the name of what is missing.
    return f"{type(error).__name__} {text}" if isinstance(error, LookupError) else text


def _claims(token: str) -> dict[str, object]:
    """The part of a service account's token that Kubernetes fills in; {} for other tokens."""
    try:
        payload = token.split(".")[1]
        claims = orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, binascii.Error, ValueError):
        return {}
    return _part(claims, "kubernetes.io")


def _part(of: object, name: str) -> dict[str, object]:
    part = of.get(name) if isinstance(of, dict) else None
    return part if isinstance(part, dict) else {}


def _text(of: dict[str, object], name: str) -> str:
    value = of.get(name)
    return value if isinstance(value, str) else ""
