"""Calls against a real API server: what is answered is returned, all else is an ApiError."""

import base64
import contextlib
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme
import yaml
from cluster.control_plane import ADMIN
from cluster.harness import Cluster, kubeconfig
from cluster.proxy import Proxy
from cluster.watching import as_controller, create_budget, delete_budget, through, unique
from harness import free_port

from sluice import errors
from sluice.kube import client

pytestmark = pytest.mark.cluster

SHORT_S = (0.5, 0.5)


@pytest.fixture
def api(cluster: Cluster) -> client.Api:
    """A client that may do everything."""
    return client.connect(cluster.kubeconfig())


@pytest.fixture
def controller(cluster: Cluster) -> client.Api:
    """A client of the one account that may delete a NodeLogUsage."""
    return as_controller(cluster)


@pytest.fixture
def node(controller: client.Api) -> Iterator[str]:
    """The name of a NodeLogUsage, deleted at the end if the test has made it."""
    name = unique("node")
    yield name
    with contextlib.suppress(client.NotFound):
        controller.delete_node_usage(name)


def usage(name: str, **status: object) -> client.Object:
    made: client.Object = {"apiVersion": "tco.io/v1", "kind": "NodeLogUsage"}
    return {**made, "metadata": {"name": name}, "status": status}


def listing(api: client.Api, timeout_s: tuple[float, float] = SHORT_S) -> client.Object:
    return api.call("GET", "/apis/tco.io/v1/teambudgets", timeout_s=timeout_s)


def test_a_node_usage_is_made_changed_read_and_deleted(
    api: client.Api, controller: client.Api, node: str
) -> None:
    assert api.node_usage(node) is None
    made = api.create_node_usage(usage(node))
    counted = {"seq": 1, "usage": {"d/2026-11-22": {"payments/payments": 5}}}
    reported = api.put_node_usage_status({**made, "status": counted})
    assert reported["status"] == counted
    reported["metadata"]["finalizers"] = ["tco.io/fold-usage"]
    held = api.put_node_usage(reported)
    assert api.node_usage(node) == held
    assert node in [each["metadata"]["name"] for each in api.node_usages()]
    held["metadata"]["finalizers"] = []
    api.put_node_usage(held)
    controller.delete_node_usage(node, uid=made["metadata"]["uid"])
    assert api.node_usage(node) is None


def test_what_is_there_is_not_made_again(api: client.Api, node: str) -> None:
    api.create_node_usage(usage(node))
    with pytest.raises(client.Conflict, match="already exists") as caught:
        api.create_node_usage(usage(node))
    assert caught.value.already_exists
    assert caught.value.status == 409


def test_who_writes_over_a_version_that_is_gone_gets_a_conflict(api: client.Api, node: str) -> None:
    made = api.create_node_usage(usage(node))
    api.put_node_usage_status({**made, "status": {"seq": 1}})
    for put in api.put_node_usage_status, api.put_node_usage:
        with pytest.raises(client.Conflict, match="the object has been modified") as caught:
            put({**made, "status": {"seq": 2}, "spec": {}})
        assert not caught.value.already_exists


def test_a_refused_object_comes_with_the_words_of_the_api_server(
    api: client.Api, node: str
) -> None:
    made = api.create_node_usage(usage(node))
    made = api.put_node_usage_status({**made, "status": {"usage": {"d/1": {"a/a": 2}}}})
    with pytest.raises(client.Invalid, match="usage counters may not decrease") as caught:
        api.put_node_usage_status({**made, "status": {"usage": {"d/1": {"a/a": 1}}}})
    assert caught.value.message.startswith(f"PUT /apis/tco.io/v1/nodelogusages/{node}/status: 422")
    assert "\n" not in caught.value.message


def test_only_the_very_object_is_deleted_when_a_uid_is_given(
    api: client.Api, controller: client.Api, node: str
) -> None:
    api.create_node_usage(usage(node))
    with pytest.raises(client.Conflict):
        controller.delete_node_usage(node, uid="00000000-0000-0000-0000-000000000000")
    assert api.node_usage(node) is not None
    controller.delete_node_usage(node)
    with pytest.raises(client.NotFound):
        controller.delete_node_usage(node)


def test_a_budgets_status_is_merged_under_the_controllers_name(
    cluster: Cluster, api: client.Api, namespace: str
) -> None:
    made = create_budget(cluster, namespace, "backend")
    api.patch_budget_status(namespace, "backend", {"currentUsage": 5, "currentDay": "2026-11-22"})
    patched = api.patch_budget_status(namespace, "backend", {"currentUsage": 6, "currentDay": None})
    assert patched["status"]["currentUsage"] == 6
    assert "currentDay" not in patched["status"]
    managers = {
        (field["manager"], field.get("subresource"))
        for field in patched["metadata"]["managedFields"]
    }
    assert ("sluice-controller", "status") in managers
    with pytest.raises(client.Conflict):
        api.patch_budget_status(
            namespace, "backend", {"currentUsage": 7}, made["metadata"]["resourceVersion"]
        )
    version = patched["metadata"]["resourceVersion"]
    api.patch_budget_status(namespace, "backend", {"currentUsage": 8}, version)
    (budget,) = [each for each in api.budgets() if each["metadata"]["namespace"] == namespace]
    assert budget["status"]["currentUsage"] == 8
    delete_budget(cluster, namespace, "backend")
    with pytest.raises(client.NotFound):
        api.patch_budget_status(namespace, "backend", {"currentUsage": 9})


def test_an_event_is_seen_by_kubectl(cluster: Cluster, api: client.Api, namespace: str) -> None:
    api.create_event(
        namespace,
        {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"generateName": "backend-"},
            "eventTime": "2026-11-22T10:00:00.000000Z",
            "reportingController": "tco.io/sluice",
            "reportingInstance": "controller-0",
            "action": "Throttle",
            "reason": "Throttling",
            "type": "Normal",
            "regarding": {"kind": "TeamBudget", "namespace": namespace, "name": "backend"},
        },
    )
    assert "Throttling" in cluster.kubectl("get", "events", "-n", namespace).stdout


def test_the_own_token_tells_who_we_are_and_what_we_may(cluster: Cluster, node: str) -> None:
    token = cluster.service_account_token("sluice-agent", node=node)
    api = client.connect(cluster.kubeconfig(token.token))
    assert api.identity() == client.Identity(node, token.node_uid, token.pod_uid, "sluice-system")
    assert api.budgets() == client.connect(cluster.kubeconfig()).budgets()
    with pytest.raises(client.Forbidden, match=r"403 Forbidden.*sluice-agent"):
        api.node_usages()


@pytest.mark.parametrize(
    "token",
    [
        ADMIN,
        "a.b.c",
        "a.!!!.c",
        "a." + base64.urlsafe_b64encode(b"[1]").decode() + ".c",
        "a." + base64.urlsafe_b64encode(b'{"kubernetes.io": {"node": "n"}}').decode() + ".c",
    ],
)
def test_a_token_that_says_nothing_about_a_pod_leaves_the_identity_empty(
    cluster: Cluster, token: str
) -> None:
    assert client.connect(cluster.kubeconfig(token)).identity() == client.Identity()


def test_a_page_that_is_too_old_to_be_continued_is_gone(api: client.Api) -> None:
    with pytest.raises(client.ApiError) as caught:
        api.call("GET", "/apis/tco.io/v1/teambudgets", query={"continue": "nonsense"})
    assert caught.value.status == 400
    with pytest.raises(client.Gone):
        list(api.watch("teambudgets", "1", seconds=5, slack_s=1))


# What comes instead of an API server, and the words for it.
STRANGERS = {
    "refuse": "Connection refused",
    "reset": "Connection reset|Connection aborted|EOF",
    "blackhole": r"within 0\.5 s",
}


@pytest.mark.parametrize("mode", STRANGERS)
def test_no_answer_is_unreachable_within_the_time_out_and_asked_for_once(
    cluster: Cluster, proxy: Proxy, mode: str
) -> None:
    api = through(cluster, proxy)
    proxy.set(mode)
    begun = time.monotonic()
    with pytest.raises(client.Unreachable, match=STRANGERS[mode]):
        listing(api)
    assert time.monotonic() - begun < 1.5
    # urllib3 would try four times, which no caller wants.
    assert proxy.accepted == (mode != "refuse")


def test_an_answer_that_stops_half_way_is_unreachable(cluster: Cluster, proxy: Proxy) -> None:
    api = through(cluster, proxy)
    listing(api)
    proxy.set("blackhole")
    with pytest.raises(client.Unreachable, match=r"no answer within 0\.5 s"):
        listing(api)


def test_after_a_black_hole_no_connection_from_before_is_trusted(
    cluster: Cluster, proxy: Proxy
) -> None:
    api = through(cluster, proxy)

    def two_at_once() -> None:
        # So slow that each needs a connection, which is idle afterwards.
        proxy.set("delay", 0.1)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda _: listing(api, (5, 5)), range(2)))

    two_at_once()
    assert proxy.accepted == 2
    proxy.set("blackhole")
    with pytest.raises(client.Unreachable):
        listing(api)
    assert proxy.accepted == 2, "it was an old connection that failed"
    two_at_once()
    assert proxy.accepted == 4


def test_a_certificate_of_somebody_else_is_unreachable(cluster: Cluster, tmp_path: Path) -> None:
    other = tmp_path / "ca.crt"
    trustme.CA().cert_pem.write_to_path(str(other))
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(kubeconfig(ADMIN, cluster.url, other)))
    with pytest.raises(client.Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
        listing(client.connect(file))


def test_a_name_that_does_not_resolve_is_unreachable(cluster: Cluster) -> None:
    api = client.connect(cluster.kubeconfig(server="https://nowhere.invalid:6443"))
    with pytest.raises(client.Unreachable, match=r"nowhere\.invalid"):
        listing(api, (5, 5))


def answering(answer: bytes, requests: list[bytes]) -> contextlib.AbstractContextManager[str]:
    """A server that gives everybody this answer; its URL."""

    @contextlib.contextmanager
    def serving() -> Iterator[str]:
        with socket.create_server(("127.0.0.1", 0)) as server:

            def serve() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        end, _ = server.accept()
                        with end:
                            requests.append(end.recv(1 << 16))
                            end.sendall(answer)

            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
            server.shutdown(socket.SHUT_RDWR)
        thread.join()

    return serving()


def http(status: str, body: str, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return ("\r\n".join([*lines, "", ""]) + body).encode()


ODD = [
    (b"SSH-2.0-OpenSSH_9.2\r\n", client.Unreachable, "SSH-2.0", 0),
    (b"", client.Unreachable, "without response", 0),
    (http("200 OK", "<html>log in</html>"), client.Unreachable, "no JSON but .*log in", 0),
    (http("200 OK", "[]"), client.Unreachable, "no object but list", 0),
    (http("502 Bad Gateway", "<html>"), client.Unreachable, "502: <html>", 0),
    (http("500 Internal", '{"message": "etcd is away"}'), client.Unreachable, "etcd is away", 0),
    (http("503 No", "{}", "Retry-After: 7"), client.Unreachable, "503", 7),
    (http("429 Slow", "{}", "Retry-After: 3"), client.Throttled, "429", 3),
    (
        http("429 Slow", '{"reason": "TooManyRequests", "details": {"retryAfterSeconds": 2}}'),
        client.Throttled,
        "429 TooManyRequests",
        2,
    ),
    (http("307 Moved", "", "Location: http://127.0.0.1:1/"), client.ApiError, "307", 0),
    (http("405 No", '{"message": "x"}'), client.ApiError, "405: x", 0),
]


@pytest.mark.parametrize(("answer", "kind", "words", "retry_after_s"), ODD)
def test_whatever_answers_it_comes_out_as_an_api_error_after_one_request(
    tmp_path: Path,
    answer: bytes,
    kind: type[client.ApiError],
    words: str,
    retry_after_s: float,
) -> None:
    requests: list[bytes] = []
    with answering(answer, requests) as url:
        file = tmp_path / "kubeconfig"
        file.write_text(yaml.safe_dump(kubeconfig("t", url, Path("/nowhere"))))
        with pytest.raises(kind, match=words) as caught:
            listing(client.connect(file, user_agent="sluice-test/1"))
    assert type(caught.value) is kind
    assert isinstance(caught.value, errors.SluiceError)
    assert caught.value.retry_after_s == retry_after_s
    assert len(requests) == 1
    assert b"\r\nUser-Agent: sluice-test/1\r\n" in requests[0]


class Pod:
    """The files that a kubelet mounts into a pod."""

    def __init__(self, folder: Path, token: str, ca: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.write_token(token)
        (folder / "ca.crt").write_bytes(ca.read_bytes())

    def write_token(self, token: str) -> None:
        (self.folder / "token").write_text(token)


@pytest.fixture
def pod(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pod:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(cluster.api.port))
    return Pod(tmp_path / "serviceaccount", ADMIN, cluster.api.ca)


def test_in_a_pod_its_own_account_is_used(pod: Pod) -> None:
    # As an editor leaves it.
    pod.write_token(ADMIN + "\n")
    listing(client.connect(service_account=pod.folder))


def test_a_token_that_was_replaced_is_used_at_once_when_the_old_one_is_refused(pod: Pod) -> None:
    pod.write_token("expired")
    api = client.connect(service_account=pod.folder)
    with pytest.raises(client.Unauthorized):
        listing(api)
    # The package by itself would read it again after a minute.
    pod.write_token(ADMIN)
    listing(api)
    pod.write_token("expired")
    listing(api)


def test_a_token_file_that_is_gone_is_told_as_such(pod: Pod) -> None:
    pod.write_token("expired")
    api = client.connect(service_account=pod.folder)
    (pod.folder / "token").unlink()
    with pytest.raises(client.Unauthorized, match="token file does not exist"):
        listing(api)


def test_new_certificates_to_trust_are_noticed(pod: Pod) -> None:
    api = client.connect(service_account=pod.folder)
    ca = pod.folder / "ca.crt"
    assert not api.ca_changed()
    content = ca.read_bytes()
    # Replaced by rename, it may be absent for a moment.
    ca.unlink()
    assert not api.ca_changed()
    ca.write_bytes(content)
    assert not api.ca_changed()
    ca.write_bytes(content + b"\n")
    assert api.ca_changed()


BROKEN = {
    "absent": (None, "no such file"),
    "no YAML": ("{", "while parsing"),
    "no mapping": ("[]", "list indices"),
    "empty": ("", "empty"),
    "no context": ("{apiVersion: v1, kind: Config}", "current-context"),
    "a context that is not there": ("{contexts: [], current-context: prod}", "prod"),
    "no certificate": (
        json.dumps(kubeconfig("t", "https://127.0.0.1:1", Path("/nowhere/ca.crt"))),
        "/nowhere/ca.crt",
    ),
}


@pytest.mark.parametrize(("content", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_a_kubeconfig_that_cannot_be_used_is_refused_in_one_line_with_its_name(
    tmp_path: Path, content: str | None, words: str
) -> None:
    file = tmp_path / "kubeconfig"
    if content is not None:
        file.write_text(content)
    with pytest.raises(client.NoCluster, match=words) as caught:
        client.connect(file)
    assert str(file) in caught.value.message
    assert "\n" not in caught.value.message


def test_with_neither_pod_nor_kubeconfig_both_places_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kubernetes.config.KUBE_CONFIG_DEFAULT_LOCATION", "/nowhere/config")
    with pytest.raises(client.NoCluster) as caught:
        client.connect(service_account=tmp_path / "serviceaccount")
    assert str(tmp_path) in caught.value.message
    assert "/nowhere/config" in caught.value.message


def test_another_context_of_the_kubeconfig_is_used_when_it_is_named(
    cluster: Cluster, tmp_path: Path
) -> None:
    content = kubeconfig(ADMIN, cluster.url, cluster.api.ca)
    dead = {"server": f"https://127.0.0.1:{free_port()}"}
    content["clusters"].append({"name": "dead", "cluster": dead})
    content["contexts"].append({"name": "dead", "context": {"cluster": "dead", "user": "test"}})
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(content))
    listing(client.connect(file))
    with pytest.raises(client.Unreachable):
        listing(client.connect(file, "dead"))


def test_a_call_that_fails_makes_no_other_fail(api: client.Api) -> None:
    ending = threading.Event()

    def fail() -> None:
        while not ending.is_set():
            with pytest.raises(client.Unreachable, match="no JSON"):
                api.call("GET", "/healthz")

    def ask() -> None:
        for _ in range(100):
            listing(api, (10, 10))

    # Threads change places as often as they can, for the moment that matters is short.
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            failing = [pool.submit(fail) for _ in range(4)]
            asking = [pool.submit(ask) for _ in range(4)]
            for each in asking:
                each.exception()
            ending.set()
    finally:
        sys.setswitchinterval(interval_s)
    for each in (*asking, *failing):
        each.result()


@pytest.mark.parametrize("mode", ["cut", "blackhole"])
def test_connections_that_die_in_use_are_unreachable_and_then_replaced(
    cluster: Cluster, proxy: Proxy, mode: str
) -> None:
    api = through(cluster, proxy)
    with api.watch("teambudgets", "0", seconds=20, slack_s=-19) as watch:
        if mode == "cut":
            proxy.cut()
        else:
            proxy.set("blackhole")
        with pytest.raises(client.Unreachable, match="watch /apis/tco"):
            list(watch)
    proxy.set("ok")
    listing(api, (5, 5))


def test_sockets_ask_whether_the_other_end_still_lives(cluster: Cluster) -> None:
    api = client.connect(cluster.kubeconfig())
    with api.watch("teambudgets", "0", seconds=5, slack_s=1) as watch:
        sock = watch._response.connection.sock
        assert isinstance(sock, ssl.SSLSocket)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        idle, interval, probes = (sock.getsockopt(socket.IPPROTO_TCP, o) for o in options)
        assert idle + interval * probes == 30
        watch.cut()
