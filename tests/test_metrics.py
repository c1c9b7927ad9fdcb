"""/metrics of the agent: it says what the API says, and no name can break it."""

import dataclasses

import shippers
from front import OUTCOMES, PUSH, SHOP, Front
from harness import budget, wait_until
from runs import half_a_push
from shippers import Entry, Stream

from sluice import api
from sluice.agent import upstream


def test_metrics_say_what_the_api_says():
    front = Front(
        [
            budget("shop", 5000, monthlyLimit=90_000, throttle={"sampleRate": 0.5}),
            budget("dry", 100, enforcement="DryRun"),
            budget("pay", 10**9, namespace="default", namespaces=["pay"]),
        ]
    )
    for seed in range(6):
        front.sender.reply = upstream.Reply(429 if seed == 2 else 204)
        namespaces = ["shop", "dry", "pay", "free"]
        streams = shippers.make_streams(seed, namespaces, streams=8, entries=3, start_ns=1)
        front.send(shippers.promtail(streams))
    teams = front.client.get("/api/teams").json["teams"]
    for team in teams:
        named = {"team": team["name"], "namespace": team["namespace"]}
        for outcome in OUTCOMES:
            for unit in ("entries", "bytes"):
                value = front.sample(f"tco_log_{unit}_total", outcome=outcome, **named)
                assert value == team["counts"][outcome][unit]
        for window, limit, used in (
            ("day", "dailyLimit", "currentUsage"),
            ("month", "monthlyLimit", "monthlyUsage"),
        ):
            assert front.sample("tco_budget_used_bytes", window=window, **named) == team[used]
            if team[limit] is not None:
                value = front.sample("tco_budget_limit_bytes", window=window, **named)
                assert value == team[limit]
        counts = team["counts"]
        decided = sum(
            front.sample("tco_policy_engine_actions_total", action=action, **named)
            for action in ("allow", "throttle", "drop")
        )
        taken = sum(counts[outcome]["entries"] for outcome in OUTCOMES[:3])
        assert decided == taken
        apps = [
            sample.value
            for sample in front.samples()
            if sample.name == "tco_app_bytes_total" and named.items() <= sample.labels.items()
        ]
        assert sum(apps) == counts["forwarded"]["bytes"]
    by_name = {team["name"]: team for team in teams}
    assert by_name["shop"]["counts"]["sampled"]["entries"] > 0
    assert by_name["shop"]["counts"]["dropped"]["entries"] > 0
    assert by_name["shop"]["counts"]["refused"]["entries"] > 0
    # A dry run forwards everything, and says what it would have done.
    would = [
        front.sample("tco_dryrun_bytes_total", team="dry", namespace="dry", action=action)
        for action in ("allow", "throttle", "drop")
    ]
    assert sum(would) == by_name["dry"]["counts"]["forwarded"]["bytes"]
    assert would[2] > 0
    free = front.counts("")["forwarded"]["bytes"]
    assert front.sample("tco_log_bytes_total", team="", namespace="", outcome="forwarded") == free
    assert free > 0


def test_metrics_of_a_team_without_a_month_show_no_limit_for_it():
    names = {(s.name, s.labels.get("window")) for s in Front([SHOP]).samples()}
    assert ("tco_budget_limit_bytes", "day") in names
    assert ("tco_budget_limit_bytes", "month") not in names


def test_metrics_of_the_process_stand_beside_those_of_the_teams():
    status = api.Status(problems=[{}, {}], clock_steps=3)
    front = Front([SHOP], status=status)
    front.send(PUSH)
    assert front.sample("tco_budget_problems") == 2
    assert front.sample("tco_clock_steps_total") == 3
    assert front.sample("tco_upstream_duration_seconds_count") == 1
    assert front.sample("process_resident_memory_bytes") > 0


def test_metrics_say_how_much_of_the_memory_for_pushes_is_in_use(sluice, upstream):
    server = sluice([SHOP], upstream.url, args=["--max-memory", "100Mi"])
    assert server.metric("tco_push_memory_limit_bytes") == 100 * 2**20
    assert server.metric("tco_push_memory_bytes") == 0
    with half_a_push(server):
        assert 1000 <= server.metric("tco_push_memory_bytes") < 2**20
    wait_until(lambda: server.metric("tco_push_memory_bytes") == 0, "it is given back")
    assert server.send(PUSH).status == 204
    assert server.metric("tco_push_memory_bytes") == 0


def test_metrics_count_streams_that_carry_labels_of_lokis_own():
    front = Front([SHOP])
    assert front.sample("tco_loki_stream_entries_total") == 0
    for labels in ({"__pattern__": "x"}, {"__aggregated_metric__": "x"}, {}):
        stream = Stream({"namespace": "shop", **labels}, [Entry(1, "0123456789")])
        front.send(shippers.vector_json([stream]))
    assert front.sample("tco_loki_stream_entries_total") == 2
    assert front.sample("tco_loki_stream_bytes_total") == 20


def test_a_name_that_is_not_utf8_cannot_break_the_metrics():
    front = Front([SHOP])
    for label, series in (("app", "tco_app_bytes_total"), ("namespace", "tco_source_bytes_total")):
        labels = {"namespace": "shop", "app": "a", label: "latin1"}
        push = shippers.vector_json([Stream(labels, [Entry(1, "0123456789")])])
        body = push.body.replace(b"latin1", b"caf\xe9")
        assert front.send(dataclasses.replace(push, body=body)).status_code == 204
        assert front.client.get("/metrics").status_code == 200
        found = [
            s.value for s in front.samples() if s.name == series and "caf?" in s.labels.values()
        ]
        assert found == [10]


def test_a_hostile_application_name_cannot_break_the_metrics():
    front = Front([SHOP])
    for name in ('a"b', "a\\b", "a\nb", "zażółć", "", "x" * 2000):
        labels = {"namespace": "shop", "app": name}
        streams = [Stream(labels, [Entry(1, "0123456789")])]
        assert front.send(shippers.vector_json(streams)).status_code == 204
    apps = {s.labels["app"]: s.value for s in front.samples() if s.name == "tco_app_bytes_total"}
    assert apps['a"b'] == apps["a\\b"] == apps["a\nb"] == apps["zażółć"] == 10
