"""--auth: who may look, what stays open, and what a stranger learns."""

import base64
import logging
import socket
from pathlib import Path

import pytest
from front import PUSH, SHOP, Front, error_of
from harness import Sluice, Upstream, budget, write_budgets
from shippers import PUSH_PATH

from sluice.agent import push
from sluice.auth import NOBODY_IS_ASKED, OPEN_PATHS, Auth, BadToken, credentials
from sluice.errors import BadRequest

TOKEN = "0123456789abcdef-0123456789abcdef"
OPEN = ["/ready", "/metrics", "/api/health"]
GUARDED = ["/api/teams", "/api/teams/shop", "/api/teams/shop/history", "/api/events",
           "/openapi.json", "/nowhere", "/"]  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


def bearer(token: str = TOKEN) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def basic(text: bytes) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(text).decode()}


# what --auth takes


def test_what_auth_says_is_read():
    assert Auth.parse("none") == NOBODY_IS_ASKED == Auth()
    assert Auth.parse("bearer:/run/secrets/a:b") == Auth(token_file=Path("/run/secrets/a:b"))
    assert Auth.parse("header:X-Forwarded-User") == Auth(header="X-Forwarded-User")


@pytest.mark.parametrize(
    "value",
    ["", "None", "bearer", "bearer:", "header:", "token:x", "header:X User", "header:X:", "basic:u",
     "header:Ü", "header:X\n"],
)  # fmt: skip
def test_what_is_no_auth_is_refused(value):
    with pytest.raises(BadRequest, match="is not"):
        Auth.parse(value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b" \n\t", "is empty"),
        (b"two words", "ASCII letters"),
        (b"two\nlines", "ASCII letters"),
        ("pässwörd-pässwörd".encode(), "ASCII letters"),
        (b"\x00" * 32, "ASCII letters"),
        (b"x" * 4097, "more than 4096 bytes"),
    ],
)
def test_a_token_that_nobody_could_send_is_refused_at_the_start(tmp_path, content, words):
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadToken, match=words) as caught:
        Auth.parse(f"bearer:{path}").check()
    assert str(path) in caught.value.message


def test_a_short_token_is_warned_of_and_a_long_one_is_not(file, caplog):
    Auth(token_file=file).check()
    NOBODY_IS_ASKED.check()
    Auth(header="X-User").check()
    assert not caplog.records
    file.write_text("0123456789abcde")
    Auth(token_file=file).check()
    assert "has 15 characters: 16 or more are hard to guess" in caplog.text
    assert "0123456789abcde " not in caplog.text


# who may look


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS"])
def test_a_stranger_does_not_even_learn_which_paths_there_are(file, path, method):
    client = Front([SHOP], guard=Auth(token_file=file)).client
    response = client.open(path, method=method)
    assert response.status_code == 401
    assert "Allow" not in response.headers
    assert response.headers.getlist("WWW-Authenticate") == [
        'Bearer realm="sluice"',
        'Basic realm="sluice", charset="UTF-8"',
    ]
    if method != "HEAD":
        assert error_of(response) == "no token was sent: send `Authorization: Bearer TOKEN`"


def test_whoever_has_the_token_may_look(file):
    client = Front([SHOP], guard=Auth(token_file=file)).client
    for headers in (
        bearer(),
        {"Authorization": f"bearer   {TOKEN} "},
        basic(b"anybody:" + TOKEN.encode()),
        basic(b":" + TOKEN.encode()),
    ):
        assert client.get("/api/teams", headers=headers).status_code == 200
        assert client.get("/nowhere", headers=headers).status_code == 404
        assert client.delete("/api/teams", headers=headers).status_code == 405


@pytest.mark.parametrize("path", OPEN)
def test_probes_and_metrics_are_open_to_all(file, path):
    for guard in (Auth(token_file=file), Auth(header="X-User")):
        client = Front([SHOP], guard=guard).client
        assert client.get(path).status_code == 200
        assert client.get(path, headers=bearer("wrong")).status_code == 200


def test_pushes_are_open_to_all_and_evaluate_is_not(file):
    front = Front([SHOP], guard=Auth(token_file=file))
    assert front.send(PUSH).status_code == 204
    assert front.client.get(PUSH_PATH).status_code == 405
    call = {"namespace": "shop", "size": 1}
    assert front.call("/api/v1/evaluate", call).status_code == 401
    assert front.call("/api/v1/evaluate/batch", call).status_code == 401
    assert front.counts("shop/shop")["received"]["entries"] == 1


def test_paths_that_stay_open_are_those_of_pushes_and_probes():
    assert {*OPEN, *push.PATHS} == OPEN_PATHS


@pytest.mark.parametrize(
    "value",
    [
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN},Bearer {TOKEN}",
        f"Bearer {TOKEN.upper()}",
        f"Digest {TOKEN}",
        TOKEN,
        "Bearer \xe4\xf6\xfc",
        "Bearer \u2019",
        "Basic",
        "Basic !!!",
        "Basic YQ",
        f"Basic {TOKEN}",
        basic(TOKEN.encode())["Authorization"],
        basic(TOKEN.encode() + b":user")["Authorization"],
        basic(b"user:\xff")["Authorization"],
        "Basic \u00e4",
        "\x7f",
        "Bearer " + "x" * 5000,
    ],
)
def test_whatever_is_not_the_token_is_a_401_and_never_a_500(file, value):
    client = Front([SHOP], guard=Auth(token_file=file)).client
    response = client.get("/api/teams", environ_overrides={"HTTP_AUTHORIZATION": value})
    assert response.status_code == 401
    assert TOKEN not in error_of(response)


def test_credentials_are_bytes_whatever_the_header_is():
    for letter in range(0x180):
        assert isinstance(credentials(f"Bearer {chr(letter)}"), bytes)
        assert isinstance(credentials(f"Basic {chr(letter)}"), bytes)


def test_a_header_of_the_proxy_lets_in_and_its_absence_is_named():
    client = Front([SHOP], guard=Auth(header="X-Forwarded-User")).client
    assert client.get("/api/teams", headers={"x-forwarded-user": "ada"}).status_code == 200
    for headers in ({}, {"X-Forwarded-User": " "}, bearer()):
        response = client.get("/api/teams", headers=headers)
        assert response.status_code == 401
        assert "the header X-Forwarded-User is missing" in error_of(response)
        # Browsers would ask for a password that there is none of.
        assert "WWW-Authenticate" not in response.headers


def test_refusals_are_counted(file):
    front = Front([SHOP], guard=Auth(token_file=file))
    for _ in range(3):
        front.client.get("/api/teams")
    assert front.sample("tco_requests_refused_total", reason="Unauthorized") == 3


# a token that changes


def test_a_token_that_is_changed_holds_at_once_and_the_old_one_no_more(file, tmp_path):
    client = Front([SHOP], guard=Auth(token_file=file)).client

    def let_in(token: str) -> bool:
        return client.get("/api/teams", headers=bearer(token)).status_code == 200

    file.write_text("the-second-one-is-this")
    assert let_in("the-second-one-is-this")
    assert not let_in(TOKEN)
    # As kubelet changes a secret: the name is a link to a folder that is exchanged.
    for name in ("third", "fourth"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "token").write_text(f"the-{name}-one-is-this")
    link = tmp_path / "data"
    link.symlink_to(tmp_path / "third")
    file.unlink()
    file.symlink_to(link / "token")
    assert let_in("the-third-one-is-this")
    fresh = tmp_path / "fresh"
    fresh.symlink_to(tmp_path / "fourth")
    fresh.rename(link)
    assert let_in("the-fourth-one-is-this")
    assert not let_in("the-third-one-is-this")


def test_while_the_file_is_away_the_last_token_stays_and_it_is_said_once(file, caplog):
    client = Front([SHOP], guard=Auth(token_file=file)).client
    file.unlink()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert client.get("/api/teams", headers=bearer()).status_code == 200
            assert client.get("/api/teams", headers=bearer("")).status_code == 401
    assert caplog.text.count("the last token stays") == 1
    file.write_text("")
    assert client.get("/api/teams", headers=bearer()).status_code == 200
    file.write_text("another-token-than-before")
    assert client.get("/api/teams", headers=bearer()).status_code == 401
    assert TOKEN not in caplog.text


def test_without_a_token_from_the_start_nobody_is_let_in(tmp_path):
    client = Front([SHOP], guard=Auth(token_file=tmp_path / "none")).client
    for headers in ({}, bearer(""), bearer("None"), basic(b":")):
        assert client.get("/api/teams", headers=headers).status_code == 401
    assert client.get("/ready").status_code == 200


# processes


def test_run_asks_whom_it_is_told_to_ask_on_its_own_port(sluice, file, upstream: Upstream):
    server: Sluice = sluice([budget("shop", 1000)], upstream.url, args=["--auth", f"bearer:{file}"])
    assert server.get("/api/teams").status == 401
    assert server.get("/api/teams", bearer()).status == 200
    assert server.get("/api/health").json["status"] == "ok"
    assert server.get("/metrics").status == 200
    assert server.send(PUSH).status == 204
    file.write_text("another-token-than-before")
    assert server.get("/api/teams", bearer()).status == 401
    # Bytes that no HTTP library would send.
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        raw.sendall(b"GET /api/teams HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \xff\xfe\r\n"
                    b"Connection: close\r\n\r\n")  # fmt: skip
        assert raw.recv(12) == b"HTTP/1.1 401"


def test_run_without_a_token_to_ask_for_exits_with_2(tmp_path):
    path = write_budgets(tmp_path / "budgets.yaml", [budget("shop", 1000)])
    server = Sluice(
        tmp_path, path, "http://127.0.0.1:9", args=["--auth", f"bearer:{tmp_path / 'none'}"]
    )
    server.launch()
    try:
        assert server.wait(20) == 2
    finally:
        server.kill()
    said = server.tail(1)
    assert said.startswith("sluice run: token file")
    assert "No such file" in said
