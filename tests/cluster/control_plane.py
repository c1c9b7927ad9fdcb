"""The two processes of a control plane, as tests run them: etcd and kube-apiserver."""

import base64
import contextlib
import http.client
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trustme
from cluster.proxy import bound
from harness import Server, free_port

ADMIN = "admin-token"


class Etcd(Server):
    """The store of one API server."""

    name = "etcd"
    ready_path = "/health"

    def __init__(self, folder: Path, binary: Path) -> None:
        super().__init__(folder)
        self.binary = binary
        self.port, self.peer_port = free_port(), free_port()

    def command(self) -> list[str]:
        peer = f"http://127.0.0.1:{self.peer_port}"
        return [
            str(self.binary),
            f"--data-dir={self.folder / 'data'}",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            # As kubeadm sets it. API servers derive their bookmarks on quiet resources from it.
            "--watch-progress-notify-interval=5s",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def ask(self, path: str, question: Mapping[str, Any]) -> Any:
        """Ask etcd's JSON gateway."""
        reply = self.request("POST", path, json.dumps(question).encode())
        assert reply.status == 200, reply
        return reply.json

    def compact(self) -> int:
        """Forget all that was before the present revision, and return that.

        It is one that no watch has seen: agents were seen to go on after a restart without a list
        (why is not proven; a watch that is at the present revision has nothing to list anew).
        """
        self.ask("/v3/kv/put", {"key": base64.b64encode(b"compacted").decode(), "value": ""})
        revision = int(self.ask("/v3/maintenance/status", {})["header"]["revision"])
        self.ask("/v3/kv/compaction", {"revision": str(revision), "physical": True})
        return revision


class ApiServer(Server):
    """kube-apiserver; may be stopped or killed and started again on the same port and store."""

    name = "kube-apiserver"
    ready_path = "/readyz"

    def __init__(self, folder: Path, binary: Path, etcd: Etcd, args: tuple[str, ...] = ()) -> None:
        super().__init__(folder)
        self.binary = binary
        self.etcd = etcd
        self.args = args
        # Bound and never listening, so that no other process gets the port between two lives.
        self.holder = bound(0)
        self.port = self.holder.getsockname()[1]
        self.certificates = folder / "certificates"
        self.key = folder / "service-accounts.key"
        self.key.write_bytes(trustme.CA().issue_cert("tokens").private_key_pem.bytes())
        self.tokens = folder / "tokens.csv"
        self.tokens.write_text(f'{ADMIN},admin,admin,"system:masters"\n')

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca(self) -> Path:
        """The certificate that the server made for itself, with its issuer's."""
        return self.certificates / "apiserver.crt"

    def command(self) -> list[str]:
        return [
            str(self.binary),
            f"--etcd-servers={self.etcd.url}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--cert-dir={self.certificates}",
            "--authorization-mode=Node,RBAC",
            f"--token-auth-file={self.tokens}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.key}",
            f"--service-account-signing-key-file={self.key}",
            "--service-cluster-ip-range=10.96.0.0/24",
            # As kubeadm sets it: what pods may do is for Pod Security to say.
            "--allow-privileged=true",
            # It wants service accounts that a controller would have made.
            "--disable-admission-plugins=ServiceAccount",
            # Off by default, on in clusters that were hardened: what works here works there too.
            "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement",
            # A loopback address is no endpoint.
            "--endpoint-reconciler-type=none",
            # Compaction is something that a test does, or that does not happen.
            "--etcd-compaction-interval=0",
            *self.args,
        ]

    def new_connection(self) -> http.client.HTTPConnection:
        trust = ssl.create_default_context(cafile=str(self.ca))
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=trust)

    def is_ready(self) -> bool:
        # Before the certificate is complete there is nobody to trust.
        with contextlib.suppress(OSError, ssl.SSLError):
            return super().is_ready()
        return False

    def stop(self, timeout_s: float = 70) -> int:
        """Ask it to end; requests in flight, watches not among them, are finished first."""
        return super().stop(timeout_s)
