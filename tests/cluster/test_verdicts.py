"""One table of TeamBudgets, two judges: the API server with our CRD, and `sluice validate`."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from cluster.harness import Cluster
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice import budget, errors, fields, manifest, quantity, validate

pytestmark = pytest.mark.cluster

LONG = "a" * 63
MAX = 2**63 - 1

# Each row is a spec; a limit stands for a spec with nothing else.
ACCEPTED: list[Any] = [
    {"dailyLimit": 1000000, "monthlyLimit": 30000000},
    {"dailyLimit": "10Gi", "monthlyLimit": "200Gi"},
    {"dailyLimit": "500M", "monthlyLimit": 15000000000},
    {"dailyLimit": 1000, "monthlyLimit": "1Ki"},
    {"dailyLimit": "1Ki", "monthlyLimit": 1024},
    {"dailyLimit": MAX, "monthlyLimit": MAX},
    {"dailyLimit": 0, "monthlyLimit": 0},
    *(MAX, 0, "0", "007", "999999999999999999", "1k", "1M", "1G", "1T", "1P", "1E", "9E"),
    *("1Ki", "1Mi", "1Gi", "1Ti", "100Ti", "1Pi", "8191Pi", "1Ei", "7Ei", "9223372036854775k"),
    "9007199254740991Ki",
    {"timeZone": "Europe/Berlin"},
    {"timeZone": "Etc/GMT+5"},
    {"timeZone": "America/Argentina/Buenos_Aires"},
    {"mode": "Eventual", "enforcement": "Enforce", "onStale": "FairShare", "timeZone": "UTC"},
    {"enforcement": "DryRun", "onStale": "Allow"},
    {"onStale": "Drop"},
    {"namespaces": ["shop"]},
    {"namespaces": [LONG, "a", "0", "a-0"]},
    {"namespaces": [str(i) for i in range(256)]},
    {"selector": {}},
    {"selector": {"matchLabels": {}}},
    {"selector": {"matchLabels": {"app": "checkout", "app.kubernetes.io/name": "ä ö"}}},
    {"selector": {"matchLabels": {"app": "ä" * 2048}}},
    {"selector": {"matchLabels": {str(i): "x" for i in range(16)}}},
    {"throttle": {}},
    *({"throttle": {"sampleRate": rate}} for rate in (0, 1, 0.0, 1.0, 0.5, 0.001, 1e-300)),
    # null is absent.
    *({field: None} for field in sorted(budget.SPEC_FIELDS - {"dailyLimit"})),
    {"throttle": {"sampleRate": None}},
    *({"costPerGiB": cost} for cost in (0, 0.5, 1e-9, 1_000_000_000, None)),
    {"selector": {"matchLabels": None}},
    {"selector": {"matchLabels": {"app": None}}},
    {"selector": {"matchLabels": {str(i): "x" if i else None for i in range(17)}}},
]

# Rows that are refused, with the field that both judges name.
REFUSED: list[tuple[Any, str]] = [
    *(
        ({"dailyLimit": 0, name: limit}, f"spec.{name}")
        for name in ("dailyLimit", "monthlyLimit")
        for limit in (
            *("1.5Gi", "1.5", "100m", "-5", "", " 5", "5 ", "5\n", "+5", "1e6", "5K", "5ki", "5B"),
            *("0x10", "1_000", "\u0665", "9223372036854775807", "9223372036854775808"),
            *("8Ei", "8192Pi", "9999999999G", "10E", "999999999999999999Ei", "9223372036854776k"),
            *("9007199254740992Ki", MAX + 1, 10**30, -1, -MAX - 1, 1.5, 1000.5, True, False),
            *([1000], {"bytes": 1000}),
        )
    ),
    ({"dailyLimit": None}, "spec.dailyLimit"),
    ({"dailyLimit": 1000, "monthlyLimit": 999}, "spec.monthlyLimit"),
    ({"dailyLimit": "1Ki", "monthlyLimit": 1000}, "spec.monthlyLimit"),
    ({"dailyLimit": 1025, "monthlyLimit": "1Ki"}, "spec.monthlyLimit"),
    ({"dailyLimit": "1Mi", "monthlyLimit": "1M"}, "spec.monthlyLimit"),
    ({"dailyLimit": MAX, "monthlyLimit": "7Ei"}, "spec.monthlyLimit"),
    ({"mode": "Strict"}, "spec.mode"),
    ({"mode": "strict"}, "spec.mode"),
    ({"mode": "Sloppy"}, "spec.mode"),
    ({"mode": ""}, "spec.mode"),
    ({"mode": True}, "spec.mode"),
    ({"enforcement": "dryrun"}, "spec.enforcement"),
    ({"onStale": "Deny"}, "spec.onStale"),
    ({"onStale": 1}, "spec.onStale"),
    ({"burst": 5}, "spec.burst"),
    ({"dailylimit": 5}, "spec.dailylimit"),
    ({"timeZone": "../etc"}, "spec.timeZone"),
    ({"timeZone": "/etc/localtime"}, "spec.timeZone"),
    ({"timeZone": ""}, "spec.timeZone"),
    ({"timeZone": "UTC\n"}, "spec.timeZone"),
    ({"timeZone": "A" * 65}, "spec.timeZone"),
    ({"timeZone": 1}, "spec.timeZone"),
    ({"namespaces": "shop"}, "spec.namespaces"),
    ({"namespaces": []}, "spec.namespaces"),
    ({"namespaces": [str(i) for i in range(257)]}, "spec.namespaces"),
    ({"namespaces": ["a", 5]}, "spec.namespaces[1]"),
    ({"namespaces": [None]}, "spec.namespaces[0]"),
    ({"namespaces": ["Shop"]}, "spec.namespaces[0]"),
    ({"namespaces": ["a.b"]}, "spec.namespaces[0]"),
    ({"namespaces": ["a-"]}, "spec.namespaces[0]"),
    ({"namespaces": ["a\n"]}, "spec.namespaces[0]"),
    ({"namespaces": [""]}, "spec.namespaces[0]"),
    ({"namespaces": [LONG + "a"]}, "spec.namespaces[0]"),
    ({"namespaces": ["a", "b", "a"]}, "spec.namespaces[2]"),
    ({"selector": []}, "spec.selector"),
    ({"selector": {"matchExpressions": []}}, "spec.selector.matchExpressions"),
    ({"selector": {"matchLabels": "app"}}, "spec.selector.matchLabels"),
    ({"selector": {"matchLabels": {"a": 1}}}, "spec.selector.matchLabels"),
    ({"selector": {"matchLabels": {"a": ""}}}, "spec.selector.matchLabels"),
    ({"selector": {"matchLabels": {"a": "x" * 2049}}}, "spec.selector.matchLabels"),
    ({"selector": {"matchLabels": {str(i): "x" for i in range(17)}}}, "spec.selector.matchLabels"),
    ({"throttle": 0.5}, "spec.throttle"),
    ({"throttle": {"rate": 0.5}}, "spec.throttle.rate"),
    *(
        ({"throttle": {"sampleRate": rate}}, "spec.throttle.sampleRate")
        for rate in ("0.5", True, 1.01, -0.1, 1e300, [])
    ),
    *(({"costPerGiB": cost}, "spec.costPerGiB") for cost in ("0.5", True, -0.01, 1e300, [])),
]


def shown(row: Any) -> str:
    return json.dumps(row)[:60]


def team_budget(row: Any, **metadata: str) -> dict[str, Any]:
    """A TeamBudget whose spec is a row: with a limit, if the row does not speak of it."""
    spec = row if isinstance(row, dict) else {"dailyLimit": row}
    return {
        "apiVersion": "tco.io/v1",
        "kind": "TeamBudget",
        "metadata": {"name": "row", "namespace": "default", **metadata},
        "spec": {"dailyLimit": 1000, **spec},
    }


# How people write numbers in YAML, of which JSON knows one way only.
SPELLINGS = (
    *("1000.0", "1.", "1e3", "1.0e3", "1E3", ".5e4", "1_000", "0x10", "0o17", "017", "0b11", "+5"),
    *("'5'", '"1Ki"', "9223372036854775807", "9223372036854775808", "9007199254740993.0", "1e30"),
    *("1:30", "~", "", "yes", "1.5", ".inf", ".nan", "-0", "2026-11-22", "'1e3'", "!!str 5"),
)


def server_says(cluster: Cluster, given: dict[str, Any]) -> tuple[bool, str]:
    """The API server's verdict and its words; nothing is stored."""
    reply = cluster.call(
        "POST",
        "/apis/tco.io/v1/namespaces/default/teambudgets",
        given,
        # As kubectl asks for it.
        fields={"dryRun": "All", "fieldValidation": "Strict"},
    )
    assert reply.status in (201, 400, 422), reply
    return reply.status == 201, reply.text


def validate_says(folder: Path, given: dict[str, Any]) -> tuple[bool, str]:
    """The verdict of `sluice validate` and its words."""
    file = folder / "budget.yaml"
    file.write_text(json.dumps(given))
    out, err = io.StringIO(), io.StringIO()
    code = validate.validate([file], out, err)
    return code == 0, out.getvalue() + err.getvalue()


def is_read(given: dict[str, Any]) -> bool:
    """Whether a budget can be made of it."""
    try:
        budget.Budget.from_manifest(given)
    except errors.BadBudget:
        return False
    return True


@pytest.mark.parametrize("row", ACCEPTED, ids=shown)
def test_both_accept(cluster: Cluster, tmp_path: Path, row: Any) -> None:
    asked = team_budget(row)
    taken, words = server_says(cluster, asked)
    assert taken, words
    taken, words = validate_says(tmp_path, asked)
    assert taken, words


@pytest.mark.parametrize(("row", "field"), REFUSED, ids=lambda part: shown(part))
def test_both_refuse_and_name_the_field(
    cluster: Cluster, tmp_path: Path, row: Any, field: str
) -> None:
    asked = team_budget(row)
    taken, words = server_says(cluster, asked)
    assert not taken
    assert field in words
    taken, words = validate_says(tmp_path, asked)
    assert not taken
    with pytest.raises(errors.BadBudget) as refused:
        budget.Budget.from_manifest(asked)
    assert refused.value.field == field


LIMITS = st.one_of(
    st.integers(-2, 2**64),
    st.from_regex("[0-9]{1,19}(k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|m|n)?", fullmatch=True),
    # Close to 2^63 in each unit.
    st.builds(
        lambda unit, off: f"{(2**63 - 1) // quantity.UNIT[unit] + off}{unit}",
        st.sampled_from(sorted(quantity.UNIT)),
        st.integers(-1, 1),
    ),
    st.text("0123456789.kKMi -+eE", max_size=6),
)


@settings(max_examples=300)
@given(daily=LIMITS, monthly=st.none() | LIMITS)
def test_both_judge_any_pair_of_limits_alike(cluster: Cluster, daily: Any, monthly: Any) -> None:
    """Whatever two limits are, the API server takes them if and only if we read them."""
    limits = team_budget({"dailyLimit": daily, "monthlyLimit": monthly})
    assert server_says(cluster, limits)[0] == is_read(limits)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_both_read_the_same_number(cluster: Cluster, tmp_path: Path, spelling: str) -> None:
    text = (
        "apiVersion: tco.io/v1\nkind: TeamBudget\nmetadata: {name: row}\n"
        f"spec:\n  dailyLimit: {spelling}\n"
    )
    asked = ("apply", "--dry-run=server", "-f", "-", "-o", "json")
    applied = cluster.kubectl(*asked, stdin=text, check=False)
    (found,) = manifest.read_documents(text)
    if applied.returncode:
        assert found.budget is None, applied.stderr
    else:
        assert found.budget is not None, found.error
        stored = json.loads(applied.stdout)["spec"]["dailyLimit"]
        assert found.budget.daily_limit == quantity.parse(stored, "")


@pytest.mark.parametrize(
    ("name", "good"), [(LONG, True), ("a.b-0", True), (LONG + "a", False), ("Backend", False)]
)
def test_both_judge_a_name_alike(cluster: Cluster, tmp_path: Path, name: str, good: bool) -> None:
    asked = team_budget(1000, name=name)
    assert server_says(cluster, asked)[0] is good
    assert validate_says(tmp_path, asked)[0] is good


@pytest.mark.parametrize("spec", [None, {}, [], "1000"])
def test_both_refuse_a_budget_without_a_limit(
    cluster: Cluster, tmp_path: Path, spec: object
) -> None:
    asked = {**team_budget(0), "spec": spec}
    assert not server_says(cluster, asked)[0]
    assert not validate_says(tmp_path, asked)[0]


@pytest.mark.parametrize("zone", ["Mars/Olympus", "Europe", "europe/berlin", "localtime"])
def test_only_validate_knows_which_zones_there_are(
    cluster: Cluster, tmp_path: Path, zone: str
) -> None:
    asked = team_budget({"timeZone": zone})
    assert server_says(cluster, asked)[0]
    taken, words = validate_says(tmp_path, asked)
    assert not taken
    assert fields.shown(zone) in words
    # What the API server has taken is enforced all the same, in UTC.
    tolerated: list[errors.BadBudget] = []
    assert budget.Budget.from_manifest(asked, tolerated=tolerated).time_zone == "UTC"
    assert [error.field for error in tolerated] == ["spec.timeZone"]


def test_strict_mode_is_refused_with_a_reason(cluster: Cluster) -> None:
    _, words = server_says(cluster, team_budget({"mode": "Strict"}))
    assert "is not built yet; use Eventual" in words


def test_what_the_server_fills_in_is_what_is_enforced_without_it(cluster: Cluster) -> None:
    asked = team_budget(1000)
    _, stored = server_says(cluster, asked)
    filled = json.loads(stored)["spec"]
    assert filled == {
        "dailyLimit": 1000,
        "enforcement": "Enforce",
        "mode": "Eventual",
        "onStale": "FairShare",
        "throttle": {"sampleRate": budget.SAMPLE_RATE},
        "timeZone": "UTC",
    }
    bare, full = (
        budget.Budget.from_manifest({**asked, "spec": spec}) for spec in (asked["spec"], filled)
    )
    assert bare == full
