"""The dashboard's HTTP: pages, headers, errors, what is live, and what hostile names do to it."""

import gzip
import http.client
import itertools
import json
import socket
import threading
import time
import urllib.parse
from html.parser import HTMLParser

import pytest
from dashboard.harness import Memory, Teams, a_day, origin_of, row, serving, site
from harness import free_port, wait_until

from sluice import auth, http_server, port, settings, source
from sluice.dashboard import app, assets, board, server
from sluice.records import Event, Place

PAGES = ("/", "/teams/default/shop", "/teams/default/nobody", "/nothing")
HTML = {"Accept": "text/html,*/*;q=0.8"}
# Of a stream that ends; three lines are an event, and there is one a second.
LINES_MAX = 30
EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}'


@pytest.fixture
def teams():
    now = time.time()
    return Teams([row("shop", now=now, day=812_345, month_limit=10**7), row("cart", now=now)])


@pytest.fixture
def client(teams):
    made = site(origin_of(teams, time.time(), Memory()), currency="EUR")
    yield made.test_client()
    app.board_of(made).stop()


@pytest.fixture
def url(teams):
    with serving(site(origin_of(teams, time.time(), Memory()))) as found:
        yield found


class Tags(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


@pytest.mark.parametrize("path", [*PAGES, "/api/teams", "/static/style.css", "/metrics"])
def test_every_answer_has_the_headers_that_keep_a_browser_in_its_place(client, path):
    reply = client.get(path, headers=HTML)
    policy = reply.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["X-Frame-Options"] == "DENY"
    assert reply.headers["Referrer-Policy"] == "no-referrer"
    stored = "no-cache" if path.startswith("/static") else "no-store"
    assert reply.headers["Cache-Control"] == stored
    assert "Set-Cookie" not in reply.headers


@pytest.mark.parametrize("path", PAGES[:2])
def test_a_page_has_nothing_inline_and_nothing_from_elsewhere(client, path):
    for tag, attributes in Tags(client.get(path, headers=HTML).text).tags:
        assert tag != "style"
        assert tag != "script" or "src" in attributes
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
        for name in ("src", "href"):
            # A row that is not filled yet leads nowhere.
            found = attributes.get(name)
            assert not found or found.startswith(("/", "#")), attributes


def test_an_unknown_team_is_a_page_for_people_and_json_for_programs(client):
    page = client.get("/teams/default/nobody", headers=HTML)
    assert page.status_code == 404
    assert page.mimetype == "text/html"
    assert "no team &#39;nobody&#39; in namespace &#39;default&#39;" in page.text
    for reply in (
        client.get("/teams/default/nobody"),
        client.get("/api/teams/nobody", headers=HTML),
    ):
        assert reply.status_code == 404
        assert reply.json["status"] == 404


@pytest.mark.parametrize("method", ["post", "put", "delete", "patch"])
@pytest.mark.parametrize("path", ["/", "/teams/default/shop", "/live", "/static/style.css"])
def test_nothing_can_be_changed(client, method, path):
    reply = getattr(client, method)(path)
    assert reply.status_code == 405
    assert "GET" in reply.headers["Allow"]


@pytest.mark.parametrize("name", ["../app.py", "..%2fapp.py", "app.py", "no.js", "%2fetc%2fpasswd"])
def test_only_assets_can_be_asked_for(client, name):
    assert client.get(f"/static/{name}").status_code == 404


def test_plotly_comes_from_its_wheel_packed_once_and_kept_by_the_browser(client):
    reply = client.get("/static/plotly.min.js", headers={"Accept-Encoding": "gzip"})
    assert reply.headers["Content-Encoding"] == "gzip"
    plain = client.get("/static/plotly.min.js")
    assert gzip.decompress(reply.data) == plain.data
    assert b"plotly.js v" in plain.data[:200]
    again = client.get("/static/plotly.min.js", headers={"If-None-Match": reply.headers["ETag"]})
    assert again.status_code == 304
    assert again.data == b""


def test_every_asset_that_a_page_asks_for_is_there(client):
    for path in PAGES[:2]:
        for _, attributes in Tags(client.get(path, headers=HTML).text).tags:
            asked = attributes.get("src") or attributes.get("href", "")
            if asked.startswith("/static/"):
                assert client.get(asked).status_code == 200, asked
    assert assets.PLOTLY in assets.files()


def test_hostile_names_are_text():
    now = time.time()
    teams = Teams([row(EVIL, EVIL, now=now, day=5, namespaces=(EVIL,))])
    memory = Memory(
        apps=[Place(EVIL, 5)], told=[Event(now, f"{EVIL}/{EVIL}", "Warning", EVIL, EVIL)]
    )
    made = site(origin_of(teams, now, memory, 1.0), currency=EVIL, title_note=EVIL)
    client = made.test_client()
    text = client.get("/", headers=HTML).text
    assert "<script>alert" not in text
    assert "<img" not in text
    assert "{{7*7}}" in text
    assert [a["src"] for t, a in Tags(text).tags if t == "script"] == [
        "/static/theme.js", "/static/overview.js",
    ]  # fmt: skip
    # A name with a slash has no page, and every name that a manifest can have does.
    assert client.get("/teams/a%2Fb/c").status_code == 404


def test_a_hostile_name_has_a_page_too_and_its_panel_is_json():
    now, name = time.time(), EVIL.replace("/", "|")
    teams = Teams([row(name, "x<b>", now=now, day=5)])
    memory = Memory(apps=[Place(EVIL, 5)])
    client = site(origin_of(teams, now, memory), currency=EVIL).test_client()
    path = f"/teams/{urllib.parse.quote('x<b>')}/{urllib.parse.quote(name)}"
    page = client.get(path, headers=HTML)
    assert page.status_code == 200
    assert "<script>alert" not in page.text
    reply = client.get(f"{path}/panel.json")
    assert reply.mimetype == "application/json"
    assert reply.json["lists"]["apps"][0]["name"] == EVIL


def test_whoever_has_to_say_who_they_are_is_asked_on_every_page(teams, tmp_path):
    token = tmp_path / "token"
    token.write_text("sixteen-characters")
    guard = auth.Auth(token_file=token)
    client = site(origin_of(teams, time.time()), guard=guard).test_client()
    for path in ("/", "/live", "/live/default/shop", "/teams/default/shop", "/api/teams"):
        reply = client.get(path, headers=HTML)
        assert reply.status_code == 401
        assert "Basic" in " ".join(reply.headers.getlist("WWW-Authenticate"))
        assert "shop" not in reply.text
        assert "Content-Security-Policy" in reply.headers
    assert client.get("/", headers=HTML, auth=("me", "sixteen-characters")).status_code == 200
    assert client.get("/ready").status_code == client.get("/metrics").status_code == 200


def test_costs_have_a_column_only_where_there_are_any(client):
    assert 'data-name="cost"' not in client.get("/", headers=HTML).text
    teams = Teams([row(now=time.time(), day=2**30, limit=2**31, cost_per_gib=0.25)])
    text = site(origin_of(teams, time.time()), currency="EUR").test_client().get("/").text
    assert 'data-name="cost"' in text
    assert "0.25 EUR" in text


def test_a_span_that_there_is_not_is_refused(client):
    reply = client.get("/teams/default/shop/panel.json?span=year")
    assert (reply.status_code, reply.json["error"]) == (
        400,
        "span: 'year' is not one of day, hour",
    )


def test_no_number_of_the_panel_needs_more_than_a_float_holds(client):
    now, most = time.time(), 2**63 - 1
    points, _, _ = a_day(now, most)
    teams = Teams([row(now=now, day=most - 1, limit=most)])
    reply = site(origin_of(teams, now, Memory(points))).test_client()

    def whole(found):
        for one in found.values() if isinstance(found, dict) else found:
            if isinstance(one, dict | list):
                yield from whole(one)
            elif isinstance(one, int):
                yield one

    found = reply.get("/teams/default/shop/panel.json").json
    assert all(abs(one) < 2**53 for one in whole(found))
    assert "9,223,372,036,854,775,806 of 9,223,372,036,854,775,807" in reply.get("/").text


def test_before_there_are_budgets_the_page_says_so():
    text = site(source.Source(lambda _: [])).test_client().get("/", headers=HTML).text
    assert "No team has a budget yet." in text
    assert '<p id="empty" hidden' not in text


def test_the_api_and_the_metrics_are_here_too(client):
    assert {one["name"] for one in client.get("/api/teams").json["teams"]} == {"shop", "cart"}
    assert client.get("/ready").status_code == 200
    assert "tco_internal_errors_total 0.0" in client.get("/metrics").text


# over real connections


def connect(url):
    parts = urllib.parse.urlsplit(url)
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)


def opened(url, path="/live"):
    connection = connect(url)
    connection.request("GET", path)
    reply = connection.getresponse()
    return connection, reply


def an_event(reply):
    while not (line := reply.readline()).startswith(b"data: "):
        assert line, "the stream ended"
    return json.loads(line.removeprefix(b"data: "))


def test_news_arrive_without_asking_again(url, teams):
    connection, reply = opened(url)
    assert reply.headers["Content-Type"].startswith("text/event-stream")
    assert reply.headers["Cache-Control"] == "no-store"
    assert an_event(reply)["all"] is True
    teams.put(row("shop", now=time.time(), day=900_000))
    found = an_event(reply)
    while not found["rows"]:
        found = an_event(reply)
    assert found["rows"]["default/shop"]["used"] == "900 kB of 1.00 MB"
    connection.close()


def test_a_team_page_hears_of_its_team(url):
    connection, reply = opened(url, "/live/default/shop")
    assert an_event(reply)["texts"]["used"] == "812 kB of 1.00 MB"
    connection.close()


def test_asking_for_the_headers_of_a_stream_takes_no_place(url):
    connection = connect(url)
    for _ in range(3):
        connection.request("HEAD", "/live")
        reply = connection.getresponse()
        assert (reply.status, reply.read()) == (200, b"")
    connection.close()


def test_when_all_places_are_taken_the_next_is_told_when_to_come_and_pages_still_answer(
    teams, monkeypatch
):
    made = site(origin_of(teams, time.time()))
    shown = app.board_of(made)
    shown._listeners_max = 3
    with serving(made) as url:
        streams = [opened(url) for _ in range(3)]
        for _, reply in streams:
            an_event(reply)
        connection, refused = opened(url)
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert "3 pages are live, at most 3 can be" in json.loads(refused.read())["error"]
        connection.request("GET", "/")
        assert connection.getresponse().read()
        # A page that is closed gives its place back.
        streams[0][1].close()
        streams[0][0].close()
        wait_until(lambda: shown.listeners == 2, "the place is free")
        for one, reply in streams[1:]:
            reply.close()
            one.close()
        connection.close()


def test_stop_ends_streams_and_the_server_at_once(teams):
    made = site(origin_of(teams, time.time()))
    listen = settings.Address("127.0.0.1", free_port())
    running = server.Server(made, listen)
    running.start()
    streams = [opened(f"http://{listen}") for _ in range(20)]
    for _, reply in streams:
        an_event(reply)
    began = time.monotonic()
    running.stop()
    assert time.monotonic() - began < 5
    for connection, reply in streams:
        while reply.readline():
            pass
        connection.close()
    names = [one.name for one in threading.enumerate()]
    assert "dashboard" not in names
    wait_until(
        lambda: not [t for t in threading.enumerate() if t.name == "board"], "the board has ended"
    )
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((listen.host, listen.port))


def test_a_reader_that_takes_nothing_holds_up_nobody(teams):
    for i in range(3000):
        teams.put(row(f"team-{i:04}", now=time.time(), day=i))
    made = site(origin_of(teams, time.time()))
    with serving(made) as url:
        parts = urllib.parse.urlsplit(url)
        stuck = socket.socket()
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect((parts.hostname, parts.port))
        stuck.sendall(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: app.board_of(made).listeners == 1, "it listens")
        connection, reply = opened(url)
        for _ in range(3):
            an_event(reply)
        began = time.monotonic()
        reply.close()
        connection.close()
    # The way out of serving() is stop(): it ends with the reader still stuck.
    assert time.monotonic() - began < 10
    stuck.close()


def test_a_reader_that_takes_nothing_for_long_loses_its_place_and_a_slow_one_keeps_its_own(
    monkeypatch,
):
    monkeypatch.setattr(http_server, "STUCK_S", 2.0)
    now = time.time()
    # Much more than the kernel holds for whoever does not read.
    teams = Teams([row(f"{i:03}" + "x" * 10_000, now=now) for i in range(600)])
    made = site(origin_of(teams, now))
    shown = app.board_of(made)
    shown._listeners_max = 2
    with serving(made) as url:
        slow_connection, slow = opened(url)
        stuck_connection, stuck = opened(url)

        def is_dropped():
            assert slow.read1(64 * 1024)
            return shown.listeners == 1

        wait_until(is_dropped, "the reader that takes nothing is dropped")
        # What the kernel had; then no more.
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            stuck.read()
        connection, reply = opened(url)
        assert reply.status == 200
        teams.put(row("late", now=now))
        while "default/late" not in an_event(slow)["rows"]:
            pass
        assert shown.listeners == 2
        for one in (slow, slow_connection, stuck, stuck_connection, reply, connection):
            one.close()


def test_a_stream_ends_after_its_time_and_by_its_last_id_the_next_goes_on(teams, monkeypatch):
    made = site(origin_of(teams, time.time()))
    shown = app.board_of(made)
    with serving(made) as url, monkeypatch.context() as patch:
        patch.setattr(board, "LASTS_S", 0.5)
        # There is something to say at once, well before the end.
        shown.snapshot()
        connection, reply = opened(url)
        lines = list(itertools.islice(reply, LINES_MAX))
        assert len(lines) < LINES_MAX, "the stream goes on"
        seen = [line.removeprefix(b"id: ") for line in lines if line.startswith(b"id: ")]
        connection.close()
        wait_until(lambda: shown.listeners == 0, "the place is free")
        patch.undo()
        teams.put(row("cart", now=time.time(), day=77))
        connection = connect(url)
        connection.request("GET", "/live", headers={"Last-Event-ID": seen[-1].decode().strip()})
        reply = connection.getresponse()
        found = an_event(reply)
        while not found["rows"]:
            found = an_event(reply)
        assert "all" not in found
        assert found["rows"]["default/cart"]["used"] == "77 B of 1.00 MB"
        reply.close()
        connection.close()


def test_a_port_that_is_taken_is_said_in_a_sentence(teams, monkeypatch):
    monkeypatch.setattr(port.check_port, "__defaults__", (0.0,))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        listen = settings.Address("127.0.0.1", other.getsockname()[1])
        with pytest.raises(port.CannotStart, match=f"listen on {listen}: Address already in use"):
            server.Server(site(source.Source(teams.rows)), listen)


def test_a_server_can_be_stopped_in_any_moment_and_twice(teams):
    for i in range(20):
        listen = settings.Address("127.0.0.1", free_port())
        running = server.Server(site(source.Source(teams.rows)), listen)
        running.start()
        if i % 2:
            connection, _ = opened(f"http://{listen}")
            connection.close()
        running.stop()
        running.stop()
        assert "dashboard" not in [one.name for one in threading.enumerate()]


def test_a_server_that_was_never_started_stops_too(teams):
    server.Server(
        site(source.Source(teams.rows)), settings.Address("localhost", free_port())
    ).stop()


def test_a_large_body_is_refused_by_its_length_whoever_sends_it(url):
    parts = urllib.parse.urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as sender:
        sender.sendall(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 4096
        )
        assert sender.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_mark_of_any_length_is_no_error(client):
    name = client.get("/").text.split('data-mark="')[1].split("-")[0]
    reply = client.get(f"/live?since={name}-{'9' * 5000}", buffered=False)
    assert reply.status_code == 200
    reply.close()
