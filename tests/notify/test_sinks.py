"""Sinks by their URLs: what apprise is given to send, what is refused, and what never shows."""

import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from harness import TESTS, free_port
from notify.fakes import BAND, FREE, NOON, SPENT, Listener, condition, listening

from sluice import errors
from sluice.budget import RULES
from sluice.notify.alertmanager import Alertmanager
from sluice.notify.change import NOTHING, Change, Said, difference
from sluice.notify.chat import Chat, label_of
from sluice.notify.sink import SinkFailed
from sluice.notify.sinks import SINKS_MAX, open_all
from sluice.notify.url import Endpoint, alertmanager, check, id_of
from sluice.policy import Action

SLACK = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#general"
SECRET = "s3cretpath"
DASHBOARD = "https://sluice.example.com"


def changes(*used: int, **more: Any) -> list[Change]:
    """One team's change, or each team's of several."""
    said = Said(Action.DROP, "d/2026-11-22", NOON) if FREE in used else NOTHING
    return [
        change
        for i, day in enumerate(used)
        for change in difference(
            said, condition(day, **{"name": f"team-{i}", **more}), RULES, NOON
        )[0]
    ]


def json_sink(listener: Listener, query: str = "") -> Chat:
    sink = open_all(
        [f"json://user:{SECRET}pw@127.0.0.1:{listener.port}/{SECRET}{query}"], DASHBOARD
    )[0]
    assert isinstance(sink, Chat)
    return sink


@pytest.mark.parametrize(
    ("used", "kind"), [(SPENT, "failure"), (BAND, "warning"), (FREE, "success")]
)
def test_a_webhook_gets_title_message_and_severity(used: int, kind: str) -> None:
    with listening() as listener:
        json_sink(listener).send(changes(used))
        (path, body), *more = listener.heard
    assert (path, more) == (f"/{SECRET}", [])
    assert body["type"] == kind
    assert body["title"].startswith("default/team-0 ")
    assert f"{used:,} of 1,000 bytes" in body["message"]
    assert body["message"].endswith(f"{DASHBOARD}/teams/default/team-0")


def test_a_dry_run_at_its_limit_is_a_warning() -> None:
    with listening() as listener:
        json_sink(listener).send(changes(SPENT, dry_run=True))
        assert listener.bodies[0]["type"] == "warning"


def test_several_changes_are_one_message_of_the_highest_severity() -> None:
    with listening() as listener:
        json_sink(listener).send(changes(BAND, SPENT, BAND))
        (body,) = listener.bodies
    assert body["type"] == "failure"
    assert body["title"] == "3 budgets changed: 1 at the limit, 2 above 80 %"
    assert len(body["message"].splitlines()) == 4


def test_a_hostile_name_reaches_a_chat_as_plain_text() -> None:
    with listening() as listener:
        json_sink(listener).send(changes(SPENT, name="x\r\n<!channel> *b* :smile: \\n @all"))
        (body,) = listener.bodies
    assert "\n" not in body["title"]
    assert not set("<>*:@\\") & set(body["title"])


@pytest.mark.parametrize("query", ["?format=markdown", "?format=html", "?overflow=split"])
def test_what_a_url_asks_of_apprise_is_kept(query: str) -> None:
    with listening() as listener:
        json_sink(listener, query).send(changes(SPENT))
        assert "1,000" in listener.bodies[0]["message"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure_and_no_message_is_lost_at_a_login_page(status: int) -> None:
    with listening() as listener, listening() as login:
        listener.answer = status
        listener.headers = {"Location": f"http://127.0.0.1:{login.port}/login"}
        with pytest.raises(SinkFailed, match=str(status)):
            json_sink(listener).send(changes(SPENT))
        assert login.attempts == 0
        # Whoever says so in the URL has it followed.
        json_sink(listener, "?redirect=yes").send(changes(SPENT))
        assert login.attempts == 1


def test_a_message_fits_what_the_service_takes() -> None:
    with listening() as listener:
        sink = json_sink(listener)
        sink._service.body_maxlen = 500
        sink.send(changes(*[SPENT] * 50))
        (body,) = listener.bodies
    assert len(body["message"]) <= 500
    assert "more" in body["message"]


def test_a_refusal_is_a_failure_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    with listening() as listener, caplog.at_level(logging.DEBUG):
        listener.answer = 401
        sink = json_sink(listener, "?+X-Token=headersecret&-key=querysecret")
        with pytest.raises(SinkFailed) as failed:
            sink.send(changes(SPENT))
    assert "401" in failed.value.message
    shown = f"{failed.value.message} {sink.label} {sink.id} {caplog.text}"
    for secret in (SECRET, "headersecret", "querysecret"):
        assert secret not in shown


def test_nothing_of_a_url_is_logged_even_at_debug(capfd: pytest.CaptureFixture[str]) -> None:
    # In a process of its own, set up as a Sluice that logs all.
    code = (
        "import sys; from sluice import logs; logs.set_up('text', 'debug')\n"
        "from sluice.notify import command\n"
        "sys.exit(command.test(sys.argv[1:], None, 'default/test', sys.stdout))"
    )
    with listening() as listener:
        url = f"json://user:{SECRET}pw@127.0.0.1:{listener.port}/{SECRET}"
        keeper = f"alertmanager://user:{SECRET}@127.0.0.1:{listener.port}"
        subprocess.run([sys.executable, "-c", code, url, keeper], cwd=TESTS.parent, check=True)
        assert len(listener.heard) == 2
    out, err = capfd.readouterr()
    assert "ok" in out
    assert SECRET not in out + err


def test_a_label_shows_channels_and_no_secrets() -> None:
    (sink,) = open_all([SLACK])
    assert sink.label == "slack://T...2/A...D/T...Q/#general"
    assert label_of("json://user:****@host:1/path/tok?method=POST") == (
        "json://user:****@host:1/.../..."
    )


def test_a_sink_is_known_by_its_scheme_and_a_hash() -> None:
    assert id_of(SLACK).startswith("slack-")
    assert len(id_of(SLACK)) == len("slack-") + 8
    assert id_of(SLACK) != id_of(SLACK + "2")


@pytest.mark.parametrize(
    "url",
    [
        f"bogus://{SECRET}/x",
        f"slack://{SECRET}",
        f"mqtt://{SECRET}@",
        f"http://{SECRET}.example.com/",
        f"{SECRET}",
        f"slack:/{SECRET}",
        f"alertmanager://{SECRET}:port",
        f"alertmanager://host?{SECRET}=1",
        f"alertmanager://{SECRET}:99999",
        f"alertmanager://[{SECRET}",
        "",
    ],
)
def test_a_url_that_nobody_can_reach_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(errors.BadRequest) as refused:
        open_all(["json://localhost", url])
    assert "sink 2 of 2" in refused.value.message
    assert SECRET not in refused.value.message


@pytest.mark.parametrize("between", [",", ", ", " ", ";", "\n"])
def test_several_urls_in_one_are_refused_and_not_taken_as_the_path_of_the_first(
    between: str,
) -> None:
    with pytest.raises(errors.BadRequest, match="a line in SLUICE_NOTIFY") as refused:
        open_all([f"json://localhost/{SECRET}{between}jsons://localhost/{SECRET}"])
    assert SECRET not in refused.value.message


def test_a_webhook_by_its_http_url_is_refused_with_the_scheme_that_it_takes() -> None:
    with pytest.raises(errors.BadRequest, match="json://HOST/PATH"):
        open_all([f"http://{SECRET}.example.com/"])


def test_a_url_that_is_there_twice_is_refused() -> None:
    with pytest.raises(errors.BadRequest, match=r"sink 2 of 2: slack://.* is there twice"):
        open_all([SLACK, SLACK])


def test_more_sinks_than_a_status_has_room_for_are_refused() -> None:
    with pytest.raises(errors.BadRequest, match="31 sinks, more than 30"):
        open_all([f"json://localhost/{i}" for i in range(SINKS_MAX + 1)])


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("alertmanager://am", Endpoint("http://am:9093", "", "")),
        ("alertmanager://am:1/prefix/", Endpoint("http://am:1/prefix", "", "")),
        ("alertmanagers://u:p%40@am", Endpoint("https://am:443", "u", "p@")),
        ("ALERTMANAGER://[::1]:9093", Endpoint("http://[::1]:9093", "", "")),
        ("slack://am", None),
    ],
)
def test_an_alertmanagers_url_is_read(url: str, endpoint: Endpoint | None) -> None:
    assert alertmanager(url) == endpoint
    check(url)


def test_an_alertmanager_that_asks_for_time_is_heard() -> None:
    with listening() as listener:
        listener.answer, listener.headers = 429, {"Retry-After": "17"}
        (sink,) = open_all([f"alertmanager://127.0.0.1:{listener.port}"])
        with pytest.raises(SinkFailed, match="status 429") as failed:
            sink.test("default/test")
    assert failed.value.retry_after_s == 17


def test_an_alertmanager_behind_a_proxy_gets_credentials_and_prefix() -> None:
    with listening() as listener:
        (sink,) = open_all([f"alertmanager://u:{SECRET}@127.0.0.1:{listener.port}/am"])
        assert isinstance(sink, Alertmanager)
        assert SECRET not in sink.label
        sink.test("default/test")
        ((path, body),) = listener.heard
    assert path == "/am/api/v2/alerts"
    assert body[0]["labels"]["alertname"] == "SluiceNotifyTest"


def notify_test(
    urls: Sequence[str], *args: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`sluice notify test` as somebody runs it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
    given = [part for url in urls for part in ("--notify", url)]
    return subprocess.run(
        [sys.executable, "-m", "sluice", "notify", "test", *given, *args],
        env={**clean, **(env or {})},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
    )


def test_notify_test_tells_each_sink_and_says_what_came_of_it() -> None:
    with listening() as listener:
        good = f"json://127.0.0.1:{listener.port}/{SECRET}"
        bad = f"json://127.0.0.1:{free_port()}/{SECRET}"
        done = notify_test([good], "--team", "shop/checkout", "--dashboard-url", DASHBOARD)
        assert (done.returncode, done.stdout.count("\n")) == (0, 1)
        # Two webhooks of a host look alike: the id is what metrics and alerts name.
        assert done.stdout == f"json://127.0.0.1:{listener.port}/... ({id_of(good)}): ok\n"
        (body,) = listener.bodies
        assert body["title"] == "Test of Sluice's notifications for shop/checkout"
        assert body["message"].endswith(f"{DASHBOARD}/teams/shop/checkout")
        done = notify_test([], env={"SLUICE_NOTIFY": f"{bad}\n{good}\n"})
        assert done.returncode == 1
        lines = done.stdout.splitlines()
        assert ": failed: " in lines[0]
        assert lines[1].endswith(": ok")
        assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize("url", [f"bogus://{SECRET}", SECRET, f"alertmanager://{SECRET}:x"])
def test_notify_test_of_no_url_is_exit_code_2(url: str) -> None:
    done = notify_test([url])
    assert (done.returncode, done.stdout) == (2, "")
    assert SECRET not in done.stderr
    assert "sink" in done.stderr or "URL" in done.stderr


def test_apprise_is_loaded_only_when_a_sink_needs_it() -> None:
    code = (
        "import sys; from sluice.notify import notifier, sinks, url\n"
        "url.check('slack://x'); sinks.open_all(['alertmanager://localhost'])\n"
        "assert 'apprise' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=TESTS.parent, check=True)


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("ntfy://my-very-secret-topic", "secret-topic"),
        ("json://sk_live_abcdef@hooks.example/x", "sk_live"),
        ("jsons://TOKEN:@hooks.example/x", "TOKEN"),
    ],
)
def test_a_host_or_user_that_is_a_secret_is_not_shown(url: str, secret: str) -> None:
    (sink,) = open_all([url])
    assert secret not in sink.label
