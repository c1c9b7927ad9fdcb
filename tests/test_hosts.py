"""Names that pages and API are reached under, and pages that may have a browser push or call."""

import contextlib
import dataclasses
import http.client

import pytest
from front import PUSH, SHOP, Front, error_of
from harness import budget

from sluice import auth, hosts, memory

OWN = auth.Auth(hosts=("127.0.0.1", "logs.example.com", ".teams.example.com"))
EVIL = "rebound.evil.example"
PATHS = ("/api/teams", "/api/teams/shop", "/api/health", "/metrics", "/openapi.json", "/nowhere")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("host", [EVIL, f"{EVIL}:8080", "logs.example.com.evil.example", ""])
def test_a_name_that_is_not_this_servers_is_refused(path: str, host: str):
    answer = Front([SHOP], guard=OWN).client.get(path, headers={"Host": host})
    assert answer.status_code == 403
    assert "--allowed-host" in error_of(answer)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1:8080", "[::1]:8080", "10.0.0.7", "localhost:3000", "sluice:8080"),
        *("logs.example.com", "LOGS.example.com:443", "logs.example.com.", "a.teams.example.com"),
        *("teams.example.com", "tco-agent.sluice-system.svc:8080", "printer.local"),
    ],
)
def test_a_name_of_this_server_and_one_that_nobody_can_register_are_taken(host: str):
    front = Front([SHOP], guard=OWN)
    assert front.client.get("/api/teams", headers={"Host": host}).status_code == 200


def test_probes_and_pushes_are_answered_under_any_name():
    front = Front([SHOP], guard=OWN)
    assert front.client.get("/ready", headers={"Host": EVIL}).status_code == 200
    assert front.send(PUSH, {"Host": EVIL}).status_code == 204


def test_run_knows_its_names_and_those_that_it_is_told(sluice, upstream):
    args = ["--allowed-host", "logs.example.com", "--dashboard-url", "https://shown.example.com/x"]
    server = sluice([SHOP], upstream.url, args=args)
    for port, path in ((server.port, "/api/teams"), (server.dashboard_port, "/")):
        asked = {}
        for host in ("logs.example.com", "shown.example.com", "localhost", EVIL):
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
                connection.request("GET", path, headers={"Host": host})
                asked[host] = connection.getresponse().status
        assert asked.pop(EVIL) == 403
        assert set(asked.values()) == {200}, path


# evaluate

CALL = {"namespace": "shop", "size": 9_999_999_999_999}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain", "Origin": "http://evil.example"}, 403),
        ({"Content-Type": "application/json", "Origin": "http://evil.example"}, 403),
        ({"Content-Type": "application/json", "Origin": "null"}, 403),
        ({"Content-Type": "application/json", "Origin": "http://["}, 403),
        ({"Content-Type": "application/json", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Content-Type": "application/json", "Sec-Fetch-Site": "same-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": ""}, 415),
        ({"Content-Type": "application/json", "Host": EVIL}, 403),
    ],
)
@pytest.mark.parametrize("path", ["/api/v1/evaluate", "/api/v1/evaluate/batch"])
def test_a_page_of_another_site_cannot_spend_a_budget(path: str, headers, status: int):
    front = Front([budget("shop", 10**15)], guard=OWN)
    answer = front.client.post(path, json=CALL, headers=headers)
    assert answer.status_code == status
    assert front.is_untouched()


def test_a_page_of_this_server_may_call_evaluate():
    front = Front([SHOP], guard=OWN)
    headers = {"Origin": "http://logs.example.com", "Host": "logs.example.com",
               "Sec-Fetch-Site": "same-origin"}  # fmt: skip
    call = {"namespace": "shop", "size": 1}
    assert front.client.post("/api/v1/evaluate", json=call, headers=headers).status_code == 200


def test_evaluate_is_off_unless_it_is_asked_for(sluice, upstream):
    server = sluice([budget("shop", 10**15)], upstream.url)
    call, headers = b'{"namespace":"shop","size":9}', {"Content-Type": "application/json"}
    for path in ("/api/v1/evaluate", "/api/v1/evaluate/batch"):
        answer = server.request("POST", path, call, headers)
        assert answer.status == 404
        assert "--evaluate" in answer.json["error"]
    assert server.teams()["shop"]["currentUsage"] == 0


def test_a_batch_is_bounded_as_pushes_are():
    front = Front([SHOP])
    many = b"[" + b"{}," * (2**20 // 3) + b"{}]"
    answer = front.call("/api/v1/evaluate/batch", b'{"namespaces":' + many + b',"sizes":[]}')
    assert answer.status_code == 413
    assert front.gate.memory.taken == 0
    room = front.gate.memory
    while room.taken < room.total:
        room.take(min(memory.SMALL, room.total - room.taken))
    answer = front.call("/api/v1/evaluate", {"namespace": "shop", "size": 1})
    assert answer.status_code == 503
    assert front.is_untouched()


# pushes

FOREIGN = ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://["},
           {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"})  # fmt: skip
UNASKED = ("text/plain", "text/plain;charset=UTF-8", "Text/Plain", "",
           "multipart/form-data; boundary=x", "application/x-www-form-urlencoded")  # fmt: skip


def test_a_page_of_another_site_cannot_push(sluice, upstream):
    server = sluice([SHOP], upstream.url)
    for content_type in UNASKED:
        for headers in FOREIGN:
            # An empty type stands for none: Loki does not tell the two apart.
            answer = server.push(PUSH.body, headers | {"Content-Type": content_type})
            assert answer.status == 403, (content_type, headers)
            assert "a page of" in answer.json["error"]
    assert upstream.count()["requests"] == 0
    assert server.teams()["shop"]["currentUsage"] == 0
    refused = server.metric("tco_requests_refused_total", reason="WrongOrigin")
    assert refused == len(UNASKED) * len(FOREIGN)


@pytest.mark.parametrize("headers", FOREIGN)
def test_what_a_browser_asks_for_before_it_pushes_is_taken(headers):
    """Browsers' own shippers push JSON or protobuf through a proxy that answers OPTIONS."""
    front = Front([SHOP])
    assert front.send(PUSH, headers).status_code == 204
    body = b'{"streams":[{"stream":{"namespace":"shop"},"values":[["1","x"]]}]}'
    push = dataclasses.replace(PUSH, body=body, headers={"Content-Type": "application/json"})
    assert front.send(push, headers).status_code == 204
    assert len(front.sender.sent) == 2


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded"])
def test_a_type_that_browsers_send_is_taken_from_programs_and_from_own_pages(content_type: str):
    front = Front([SHOP])
    push = dataclasses.replace(PUSH, headers={"Content-Type": content_type})
    own = {"Origin": "http://sluice:8080", "Host": "sluice:8080", "Sec-Fetch-Site": "same-origin"}
    for headers in ({}, own):
        assert front.send(push, headers).status_code == 204


@pytest.mark.parametrize(
    ("host", "name"),
    [("a.b:80", "a.b"), ("[::1]:80", "::1"), ("A.B.", "a.b"), ("", ""), ("a@b", "b"), ("[", "")],
)
def test_the_name_of_a_host(host: str, name: str):
    assert hosts.name_of(host) == name
