"""The REST API beyond one team: its past, who ate it, events, and what is asked wrongly."""

from collections.abc import Callable
from typing import Any

import pytest
import werkzeug.test
from front import NOON, Sender, error_of
from harness import budget
from past import HUGE, Past, full

from sluice import Budget, Gate, api, forecast, usage, window
from sluice.agent import app
from sluice.records import Event, Place, Point

MANIFEST = budget("shop", HUGE, namespace="eu", monthlyLimit=HUGE)


class Front:
    """The API of a process that keeps a past."""

    def __init__(self, *more: dict[str, Any], past: Past | None = None, now: float = NOON) -> None:
        self.gate = Gate([Budget.from_manifest(one) for one in (MANIFEST, *more)])
        self.past = Past() if past is None else past
        source = api.Source(lambda now: usage.rows(self.gate.ledger, now), records=self.past)
        made = app.create_app(
            self.gate, Sender(), clock=lambda: now, source=source, evaluates=True
        ).site
        self.client = made.test_client()

    def get(self, path: str, **query: object) -> werkzeug.test.TestResponse:
        return self.client.get(path, query_string={k.rstrip("_"): v for k, v in query.items()})

    def refusal(self, path: str, **query: object) -> str:
        """The words with which a call is refused."""
        response = self.get(path, **query)
        assert response.status_code == 400, response.text
        return error_of(response)


HISTORY, TOP = "/api/teams/shop/history", "/api/teams/shop/top"


# history


def test_without_parameters_history_is_of_the_open_day_until_now_in_steps_of_minutes():
    front = Front()
    found = front.get(HISTORY).json
    assert found == {
        "name": "shop",
        "namespace": "eu",
        "from": "2026-11-22T00:00:00Z",
        "to": "2026-11-22T12:00:00Z",
        # 12 hours in up to 300 steps.
        "stepSeconds": 180,
        "points": [],
    }
    assert front.past.calls == [("eu/shop", int(NOON) - 12 * 3600, int(NOON), 180)]


def test_a_history_of_a_span_has_its_points_with_every_byte():
    at = int(NOON) - 60
    point = Point(at, HUGE, 2 * HUGE, HUGE, 2**53 + 1, 3, 4)
    front = Front(past=Past({"eu/shop": [point]}))
    span = {"from_": "2026-11-22T12:30:00.5+01:00", "to": "2026-11-22t12:00:00z", "step": 60}
    found = front.get(HISTORY, **span).json
    assert (found["from"], found["to"]) == ("2026-11-22T11:30:00Z", "2026-11-22T12:00:00Z")
    assert found["points"] == [
        {
            "time": "2026-11-22T11:59:00Z",
            "dayUsage": HUGE,
            "monthUsage": 2 * HUGE,
            "forwarded": HUGE,
            "sampled": 2**53 + 1,
            "dropped": 3,
            "refused": 4,
        }
    ]


@pytest.mark.parametrize("second", [0.0, 0.4, 1.0, 59.9])
def test_in_the_first_second_of_a_day_there_is_a_history_too(second):
    midnight = NOON - 12 * 3600
    found = Front(now=midnight + second).get(HISTORY)
    assert found.status_code == 200
    assert found.json["stepSeconds"] == 60
    assert found.json["from"] < found.json["to"]


def test_the_day_is_the_teams_own():
    front = Front(budget("pay", 5, timeZone="Asia/Tokyo"))
    assert front.get("/api/teams/pay/history").json["from"] == "2026-11-21T15:00:00Z"
    assert front.get("/api/teams/pay/top").json["since"] == "2026-11-21T15:00:00Z"


@pytest.mark.parametrize(
    ("length_s", "step_s"),
    [(60, 60), (300 * 60, 60), (300 * 60 + 1, 120), (86_400, 300), (31 * 86_400, 8940)],
)
def test_the_step_is_chosen_for_at_most_300_points(length_s, step_s):
    front = Front()
    start = "2026-10-01T00:00:00Z"
    end = window.iso(1_790_812_800 + length_s)
    assert window.iso(1_790_812_800) == start
    found = front.get(HISTORY, from_=start, to=end).json
    assert found["stepSeconds"] == step_s
    assert length_s / step_s <= 300


def test_2000_points_are_given_and_one_more_is_refused_with_both_numbers():
    front = Front()
    span = {"from_": "2026-11-20T00:00:00Z", "step": 60}
    at = 1_795_132_800
    assert window.iso(at) == span["from_"]
    assert front.get(HISTORY, **span, to=window.iso(at + 2000 * 60)).status_code == 200
    said = front.refusal(HISTORY, **span, to=window.iso(at + 2001 * 60))
    assert "2001 points" in said
    assert "at most 2000" in said
    assert "120 would do" in said
    span["step"] = 120
    assert front.get(HISTORY, **span, to=window.iso(at + 2001 * 60)).status_code == 200


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"to": "2026-11-21T00:00:00Z"}, "to: 2026-11-21T00:00:00Z is not after 2026-11-22T00"),
        ({"from_": "2026-11-22T12:00:00Z"}, "is not after 2026-11-22T12:00:00Z, where from is"),
        ({"from_": "yesterday"}, "from: 'yesterday' is not an instant such as 2026-11-23T12"),
        ({"from_": "2026-11-22"}, "from: '2026-11-22' is not an instant"),
        ({"from_": "1795132800"}, "is not an instant"),
        ({"from_": "2026-11-22T12:00:00"}, "is not an instant"),
        ({"from_": "2026-11-22T12:00:00 01:00"}, "a + is %2B in a URL"),
        ({"from_": "2026-02-30T12:00:00Z"}, "from: '2026-02-30T12:00:00Z': day is out of range"),
        ({"from_": "2026-11-22T12:00:00+24:00"}, "from: "),
        ({"from_": "1969-12-31T23:59:59Z"}, "is not in the years 1970 to 9999"),
        ({"from_": "0001-01-01T00:00:00+23:59"}, "is not in the years 1970 to 9999"),
        ({"to": "9999-12-31T23:59:59-23:59"}, "is not in the years 1970 to 9999"),
        ({"to": ""}, "to: '' is not an instant"),
        ({"to": "\u0662\u0660\u0662\u0666-11-22T12:00:00Z"}, "is not an instant"),
        ({"step": 59}, "step: 59 is not between 60 and 2678400"),
        ({"step": 90}, "step: 90 is not a multiple of 60"),
        ({"step": 0}, "step: 0 is not between"),
        ({"step": 2_678_460}, "step: 2678460 is not between"),
        ({"step": "9" * 18}, "is not between"),
        ({"step": "9" * 19}, "is not a whole number"),
        ({"step": "1e3"}, "step: '1e3' is not a whole number"),
        ({"step": "\u0661\u0662\u0660"}, "is not a whole number"),
        ({"step": ""}, "step: '' is not a whole number"),
        ({"from_": "1970-01-01T00:00:00Z", "step": 60}, "at most 2000"),
    ],
)
def test_a_span_that_is_none_is_refused_by_its_parameter(query, words):
    front = Front()
    assert words in front.refusal(HISTORY, **query)
    assert front.past.calls == []


def test_the_longest_span_there_is_has_an_answer():
    found = Front().get(HISTORY, from_="1970-01-01T00:00:00Z").json
    assert found["stepSeconds"] % 60 == 0
    assert Front().get(HISTORY, to="9999-12-31T23:59:59Z").status_code == 400


# who ate it


def test_top_names_namespaces_and_applications_of_the_open_day():
    eaten = [Place("a", HUGE), Place("b", 2**53 + 1), Place("c", 0)]
    front = Front(past=Past(places={"eu/shop": (eaten, eaten[:1])}))
    assert front.get(TOP, count=2).json == {
        "name": "shop",
        "namespace": "eu",
        "since": "2026-11-22T00:00:00Z",
        "namespaces": [{"name": "a", "bytes": HUGE}, {"name": "b", "bytes": 2**53 + 1}],
        "apps": [{"name": "a", "bytes": HUGE}],
    }
    front.get(TOP)
    assert [call[-1] for call in front.past.calls] == [2, 10]


@pytest.mark.parametrize("path", [TOP, "/api/events"])
@pytest.mark.parametrize("count", [0, -1, 1001, "ten", "1.0", "+1", " 1"])
def test_a_count_that_is_none_is_refused(path, count):
    assert "count: " in Front().refusal(path, count=count)


# events


def test_events_are_of_all_teams_or_of_one_newest_first():
    happened = [
        Event(NOON, "eu/shop", "Warning", "BudgetExceeded", "over"),
        Event(NOON - 1, "pay/pay", "Normal", "Recovered", "well"),
        Event(NOON - 2.5, "", "Normal", "Started", "begun"),
    ]
    front = Front(budget("pay", 5), past=Past(happened=happened))
    found = front.get("/api/events").json["events"]
    assert found[0] == {
        "time": "2026-11-22T12:00:00Z",
        "namespace": "eu",
        "name": "shop",
        "type": "Warning",
        "reason": "BudgetExceeded",
        "message": "over",
    }
    assert [one["name"] for one in found] == ["shop", "pay", ""]
    assert [one["reason"] for one in front.get("/api/events", count=1).json["events"]] == [
        "BudgetExceeded"
    ]
    for query in ({"team": "pay"}, {"team": "pay", "namespace": "pay"}):
        (one,) = front.get("/api/events", **query).json["events"]
        assert one["reason"] == "Recovered"
    assert [call for call in front.past.calls if call[0]] == [("pay/pay", 100)] * 2


def test_events_of_a_namespace_alone_are_refused():
    assert Front().refusal("/api/events", namespace="eu") == "namespace: given without a team"


# what is asked wrongly


@pytest.mark.parametrize("path", ["/history", "/top", ""])
def test_a_team_is_found_by_its_namespace_everywhere(path):
    front = Front(budget("shop", 5, namespace="us"))
    assert front.get(f"/api/teams/shop{path}").status_code == 409
    assert front.get(f"/api/teams/shop{path}", namespace="us").json["namespace"] == "us"
    for namespace in ("asia", ""):
        response = front.get(f"/api/teams/shop{path}", namespace=namespace)
        assert response.status_code == 404
        assert error_of(response) == f"no team 'shop' in namespace {namespace!r}"


@pytest.mark.parametrize("path", ["/api/teams", "/api/teams/shop", HISTORY, TOP, "/api/events"])
def test_a_misspelt_parameter_does_not_go_unnoticed(path):
    said = Front().refusal(path, namepsace="eu")
    assert said.startswith("unknown parameter 'namepsace'")
    assert ("namespace is meant?" in said) == (path != "/api/teams")
    assert "known are namespace" in Front().refusal("/api/teams/shop", verbose=1)


def test_a_parameter_given_twice_is_refused():
    response = Front().client.get("/api/teams/shop?namespace=eu&namespace=us")
    assert response.status_code == 400
    assert error_of(response) == "namespace: given more than once"


def test_a_probe_may_add_what_it_likes():
    for path in ("/ready", "/api/health", "/metrics", "/openapi.json"):
        assert Front().get(path, _=1).status_code == 200


@pytest.mark.parametrize("path", [HISTORY, TOP, "/api/events"])
def test_a_process_that_keeps_no_history_says_who_does(path):
    door = Gate([Budget.from_manifest(MANIFEST)])
    client = app.create_app(door, Sender(), clock=lambda: NOON).site.test_client()
    response = client.get(path)
    assert response.status_code == 404
    assert "ask the dashboard or `sluice run`" in error_of(response)


@pytest.mark.parametrize("path", [HISTORY, TOP, "/api/events"])
def test_when_whoever_keeps_the_past_is_away_it_is_said_and_asked_for_again(path):
    response = Front(past=Past(trouble="prometheus: refused")).get(path)
    assert response.status_code == 503
    assert error_of(response) == "prometheus: refused"


@pytest.mark.parametrize("path", ["/api/teams", "/api/teams/shop", HISTORY, TOP, "/api/events"])
def test_what_is_read_only_says_so(path):
    client = Front().client
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        response = client.open(path, method=method)
        assert response.status_code == 405
        assert {"GET", "HEAD"} <= set(response.headers["Allow"].split(", "))
        assert error_of(response).startswith(f"{method} {path}: ")
    assert client.head(path).status_code == 200
    assert client.head(path).data == b""
    assert set(client.options(path).headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


# what is added to a team


def test_a_team_has_its_cost_and_forecast_where_there_are_any():
    own = budget("pay", 5, costPerGiB=2.5)
    door = Gate([Budget.from_manifest(one) for one in (MANIFEST, own)])
    outlooks = forecast.Outlooks()

    def made(**more: Any) -> Callable[[str], Any]:
        source = api.Source(lambda now: usage.rows(door.ledger, now), **more)
        client = app.create_app(
            door, Sender(), clock=lambda: NOON, source=source
        ).site.test_client()
        return lambda name: client.get(f"/api/teams/{name}").json

    plain = made()
    assert plain("pay")["costPerGiB"] == 2.5
    assert not {"costPerGiB", "forecast"} & set(plain("shop"))
    team = made(outlooks=outlooks, cost_per_gib=0.5)
    assert (team("pay")["costPerGiB"], team("shop")["costPerGiB"]) == (2.5, 0.5)
    assert team("shop")["forecast"] is None
    outlooks.observe(usage.rows(door.ledger, NOON))
    assert team("shop")["forecast"]["trend"] == "steady"


def test_integers_that_no_double_can_hold_come_out_whole():
    front = Front(past=full("eu/shop", int(NOON)))
    for size in (2**61, 2**53 + 1):
        front.gate.evaluate(front.gate.resolve(["eu"]), [size], now=NOON)
    text = front.get("/api/teams").text
    assert f'"dailyLimit":{HUGE}' in text.replace(" ", "")
    assert f'"currentUsage":{2**61 + 2**53 + 1}' in text.replace(" ", "")
    assert f'"dayUsage":{HUGE}' in front.get(HISTORY, step=60).text.replace(" ", "")
    assert f'"bytes":{2**53 + 1}' in front.get(TOP).text.replace(" ", "")


def test_hostile_names_are_json_and_nothing_else():
    response = Front(past=full("eu/shop", int(NOON))).get(TOP)
    assert response.content_type == "application/json"
    assert response.json["apps"][1]["name"] == "<b>[red]\u202e'\"\n"


@pytest.mark.parametrize("path", ["/api/v1/evaluate", "/api/v1/evaluate/batch"])
def test_a_dry_run_that_is_asked_for_in_the_wrong_place_is_refused_and_not_charged(path):
    front = Front()
    call = {"namespace": "eu", "size": 1}
    if path.endswith("batch"):
        call = {"namespaces": ["eu"], "sizes": [1]}
    response = front.client.post(path + "?dryRun=true", json=call)
    assert response.status_code == 400
    assert error_of(response) == "unknown parameter 'dryRun'"
    assert front.get("/api/teams/shop").json["counts"]["received"]["entries"] == 0


@pytest.mark.parametrize("path", ["/api/v1/evaluate", "/api/v1/evaluate/batch"])
def test_a_misspelt_field_of_evaluate_is_refused_and_not_charged(path):
    front = Front()
    call = {"namespace": "eu", "size": 1, "namespaces": ["eu"], "sizes": [1], "dryrun": True}
    kept = ("namespace", "size") if path.endswith("evaluate") else ("namespaces", "sizes")
    response = front.client.post(path, json={name: call[name] for name in (*kept, "dryrun")})
    assert response.status_code == 400
    assert error_of(response) == "unknown field 'dryrun'; dryRun is meant?"
    assert front.get("/api/teams/shop").json["counts"]["received"]["entries"] == 0
