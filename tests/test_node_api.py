"""The API of one node: whether it is ready and well, its teams, and evaluate.

test_api.py has what a team's past looks like in it, and what is asked wrongly.
"""

import pytest
import shippers
from front import NONE, OUTCOMES, SHOP, Front, error_of
from harness import budget
from shippers import Entry, Stream

from sluice import api


def test_ready_says_why_it_is_not():
    status = api.Status(not_ready="no table yet")
    front = Front([SHOP], status=status)
    response = front.client.get("/ready")
    assert response.status_code == 503
    assert "no table yet" in error_of(response)
    health = front.client.get("/api/health").json
    assert (health["ready"], health["missing"]) == (False, "no table yet")
    status.not_ready = ""
    response = front.client.get("/ready")
    assert (response.status_code, response.text) == (200, "ready\n")
    health = front.client.get("/api/health").json
    assert (health["ready"], health["missing"]) == (True, "")


def test_health_is_degraded_while_a_part_complains():
    wrong = [""]
    status = api.Status(complaints={"ledger": lambda: wrong[0], "upstream": lambda: ""})
    client = Front([SHOP], status=status).client
    health = client.get("/api/health").json
    assert (health["status"], health["complaints"]) == ("ok", {})
    wrong[0] = "cannot be written"
    health = client.get("/api/health").json
    assert (health["status"], health["complaints"]) == (
        "degraded",
        {"ledger": "cannot be written"},
    )


def test_health_says_what_is_wrong_and_what_it_depends_on():
    status = api.Status(problems=[{"file": "a.yaml", "message": "bad"}])
    status.parts["ledger"] = lambda: {"origin": "memory"}
    found = Front([SHOP], status=status).client.get("/api/health")
    assert found.status_code == 200
    assert found.json["status"] == "degraded"
    assert found.json["problems"] == [{"file": "a.yaml", "message": "bad"}]
    assert found.json["ledger"] == {"origin": "memory"}
    assert Front([SHOP]).client.get("/api/health").json["status"] == "ok"


def test_a_team_is_shown_as_documented():
    front = Front([budget("shop", 1000, namespace="default", monthlyLimit=30_000)])
    streams = [Stream({"namespace": "default"}, [Entry(1, "x" * 812)])]
    assert front.send(shippers.promtail(streams)).status_code == 204
    assert front.client.get("/api/teams/shop").json == {
        "name": "shop",
        "namespace": "default",
        "namespaces": ["default"],
        "timeZone": "UTC",
        "enforcement": "Enforce",
        "dailyLimit": 1000,
        "monthlyLimit": 30_000,
        "currentUsage": 812,
        "monthlyUsage": 812,
        "percent": 81.2,
        "action": "drop",
        "dayEnds": "2026-11-23T00:00:00Z",
        "monthEnds": "2026-12-01T00:00:00Z",
        "lastUpdated": "2026-11-22T12:00:00Z",
        "counts": {
            "received": {"entries": 1, "bytes": 812},
            "forwarded": {"entries": 1, "bytes": 812},
            "sampled": NONE,
            "dropped": NONE,
            "refused": NONE,
        },
    }


def test_teams_are_listed_with_the_time():
    front = Front([SHOP, budget("pay", 5, timeZone="Asia/Tokyo", enforcement="DryRun")])
    found = front.client.get("/api/teams").json
    assert found["time"] == "2026-11-22T12:00:00Z"
    assert [team["name"] for team in found["teams"]] == ["shop", "pay"]
    assert found["teams"][0]["monthlyLimit"] is None
    assert found["teams"][1]["dayEnds"] == "2026-11-22T15:00:00Z"
    assert found["teams"][1]["enforcement"] == "DryRun"


def test_a_team_that_is_not_there_is_a_404_and_a_name_that_two_have_a_409():
    front = Front([budget("shop", 1, namespace="eu"), budget("shop", 2, namespace="us")])
    get = front.client.get
    response = get("/api/teams/nobody")
    assert response.status_code == 404
    assert "'nobody'" in error_of(response)
    response = get("/api/teams/shop")
    assert response.status_code == 409
    assert "eu, us" in error_of(response)
    assert get("/api/teams/shop?namespace=us").json["dailyLimit"] == 2
    response = get("/api/teams/shop?namespace=asia")
    assert response.status_code == 404
    assert "'asia'" in error_of(response)


def test_evaluate_answers_and_charges_as_the_policy_says():
    front = Front([budget("shop", 100, throttle={"sampleRate": 0.25})])
    path = "/api/v1/evaluate"
    call = {"namespace": "shop", "size": 80}
    assert front.call(path, call | {"dryRun": True}).json == {"action": "allow"}
    assert front.call(path, call).json == {"action": "allow"}
    wanted = {"action": "throttle", "sampleRate": 0.25}
    assert front.call(path, call | {"size": 20, "dryRun": True}).json == wanted
    assert front.call(path, call | {"size": 20, "dryRun": False}).json == wanted
    assert front.call(path, call | {"size": 1}).json == {"action": "drop"}
    # An entry without bytes needs a byte of room, though it is charged none.
    assert front.call(path, call | {"size": 0}).json == {"action": "drop"}
    unknown = front.call(path, {"namespace": "nobody", "size": 5}).json
    assert unknown == {"action": "allow", "unbudgeted": True}
    assert front.counts("") == dict.fromkeys(("received", *OUTCOMES), NONE)
    assert front.counts("shop/shop")["forwarded"] == {"entries": 2, "bytes": 100}
    assert front.counts("shop/shop")["dropped"] == {"entries": 2, "bytes": 1}
    assert front.client.get("/api/teams/shop").json["currentUsage"] == 100


def test_evaluate_takes_thousands_of_entries_in_one_call():
    front = Front([budget("shop", 1000), budget("pay", 100)])
    n = 5000
    call = {"namespaces": ["shop", "pay", "free"] * n, "sizes": [1] * 3 * n}
    assert set(front.call("/api/v1/evaluate/batch", call | {"dryRun": True}).json) == {"actions"}
    actions = front.call("/api/v1/evaluate/batch", call).json["actions"]
    for first, limit in ((0, 1000), (1, 100)):
        mine = actions[first::3]
        throttled = limit - limit * 80 // 100
        assert mine.count("allow") == limit * 80 // 100
        assert mine.count("throttle") == throttled
        assert mine.count("drop") == n - limit
    assert actions[2::3] == ["allow"] * n
    assert front.counts("shop/shop")["forwarded"] == {"entries": 1000, "bytes": 1000}


@pytest.mark.parametrize("size", [0, 1, 2**62, 2**63 - 1])
def test_evaluate_takes_sizes_up_to_the_largest(size):
    front = Front([SHOP, budget("huge", 2**63 - 1)])
    for name in ("shop", "free", "huge"):
        single = front.call("/api/v1/evaluate", {"namespace": name, "size": size})
        assert single.status_code == 200
        call = {"namespaces": [name], "sizes": [size]}
        assert front.call("/api/v1/evaluate/batch", call).status_code == 200
    counts = front.counts("shop/shop")
    assert min(counts["received"]["bytes"], counts["dropped"]["bytes"]) >= 0


GOOD = {"namespace": "shop", "size": 1}
BATCH = {"namespaces": ["shop", "shop"], "sizes": [1, 1]}


@pytest.mark.parametrize(
    ("path", "call", "words"),
    [
        ("", b"", "not JSON"),
        ("", b"{", "not JSON"),
        ("", b"\xff", "not JSON"),
        ("", [1], "a JSON list"),
        ("", {}, "namespace: null is not a string"),
        ("", GOOD | {"namespace": 7}, "namespace: 7"),
        ("", GOOD | {"size": -1}, "size: -1 is not between 0 and 9223372036854775807"),
        ("", GOOD | {"size": 2**63}, "size: 9223372036854775808"),
        ("", GOOD | {"size": 2**64}, "size"),
        ("", GOOD | {"size": 1.0}, "size: 1.0"),
        ("", GOOD | {"size": True}, "size: true"),
        ("", GOOD | {"size": "1"}, "size: '1'"),
        ("", GOOD | {"dryRun": 1}, "dryRun: 1"),
        ("/batch", {}, "namespaces: null is not a list"),
        ("/batch", BATCH | {"sizes": [1]}, "2 namespaces, 1 sizes"),
        ("/batch", BATCH | {"sizes": [1, -1]}, "sizes[1]: -1"),
        ("/batch", BATCH | {"sizes": [1, 2**63]}, "sizes[1]: 9223372036854775808"),
        ("/batch", BATCH | {"sizes": [1, 2**63 - 1]}, "sizes: together 9223372036854775808"),
        ("/batch", BATCH | {"namespaces": ["shop", None]}, "namespaces[1]: null"),
        ("/batch", BATCH | {"dryRun": "yes"}, "dryRun: 'yes'"),
        ("/batch", BATCH | {"namespaces": {"a": 1}}, "namespaces: a mapping"),
    ],
)
def test_a_bad_call_of_evaluate_is_refused_whole_and_nothing_is_charged(path, call, words):
    front = Front([SHOP])
    response = front.call("/api/v1/evaluate" + path, call)
    assert response.status_code == 400
    assert words in error_of(response)
    assert front.is_untouched()


def test_a_batch_of_nothing_is_no_mistake():
    call = {"namespaces": [], "sizes": []}
    assert Front([SHOP]).call("/api/v1/evaluate/batch", call).json == {"actions": []}
