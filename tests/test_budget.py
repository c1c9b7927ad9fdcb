"""A manifest is a budget, or refused with its field: the CRD's verdicts."""

import datetime
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice import budget, errors, fields, quantity

GI = 2**30
LONG = "a" * 63


def manifest(spec: object = None, **more: object) -> dict[str, object]:
    """A TeamBudget; `spec` replaces its limits, `more` its other parts."""
    return {
        "apiVersion": "tco.io/v1",
        "kind": "TeamBudget",
        "metadata": {"name": "backend-team", "namespace": "default"},
        "spec": {"dailyLimit": 1000000, "monthlyLimit": 30000000} if spec is None else spec,
        **more,
    }


def read(spec: Mapping[str, object] | None = None, **more: object) -> budget.Budget:
    """The budget of a manifest whose spec is a limit and these fields."""
    return budget.Budget.from_manifest(manifest(spec and {"dailyLimit": 1000, **spec}, **more))


def refusal(given: object) -> errors.BadBudget:
    """The refusal that a manifest meets."""
    with pytest.raises(errors.BadBudget) as refused:
        budget.Budget.from_manifest(given)
    return refused.value


def test_the_example_of_the_seed_applies_as_it_is() -> None:
    assert budget.Budget.from_manifest(manifest()) == budget.Budget(
        name="backend-team",
        namespace="default",
        daily_limit=1000000,
        monthly_limit=30000000,
        namespaces=None,
        match_labels=(),
        time_zone="UTC",
        dry_run=False,
        on_stale="FairShare",
        sample_rate=0.5,
        created="",
    )


def test_every_field_arrives() -> None:
    found = read(
        {
            "dailyLimit": "10Gi",
            "monthlyLimit": "200Gi",
            "namespaces": ["shop", "cart"],
            "selector": {"matchLabels": {"tier": "web", "app": "checkout"}},
            "timeZone": "Europe/Berlin",
            "enforcement": "DryRun",
            "onStale": "Drop",
            "throttle": {"sampleRate": 0.25},
            "mode": "Eventual",
            "costPerGiB": 0.5,
        },
        metadata={
            "name": "shop",
            "annotations": {"tco.io/notify": "forecast, drop", "other": "x"},
            "creationTimestamp": "2026-11-22T12:00:00+02:00",
            "labels": {"a": "b"},
            "uid": "1",
        },
        status={"currentUsage": 7},
    )
    assert found == budget.Budget(
        name="shop",
        namespace="default",
        daily_limit=10 * GI,
        monthly_limit=200 * GI,
        namespaces=("shop", "cart"),
        match_labels=(("app", "checkout"), ("tier", "web")),
        time_zone="Europe/Berlin",
        dry_run=True,
        on_stale="Drop",
        sample_rate=0.25,
        created="2026-11-22T10:00:00Z",
        cost_per_gib=0.5,
        notify=("drop", "forecast"),
    )
    assert found.key == "default/shop"


# The table of what a real API server accepted and refused with this CRD.
@pytest.mark.parametrize(
    ("daily", "monthly", "bytes_daily", "bytes_monthly"),
    [
        ("10Gi", "200Gi", 10 * GI, 200 * GI),
        ("500M", 15000000000, 500 * 10**6, 15 * 10**9),
        (1000, "1Ki", 1000, 1024),
        (2**63 - 1, None, 2**63 - 1, None),
        (0, None, 0, None),
        ("0", 0, 0, 0),
        ("007", None, 7, None),
        ("999999999999999999", None, 10**18 - 1, None),
        ("7Ei", "9E", 7 * 2**60, 9 * 10**18),
        ("1Pi", "2P", 2**50, 2 * 10**15),
    ],
)
def test_limits_that_the_crd_accepts_are_read_in_bytes(
    daily: object, monthly: object, bytes_daily: int, bytes_monthly: int | None
) -> None:
    found = read({"dailyLimit": daily, "monthlyLimit": monthly})
    assert (found.daily_limit, found.monthly_limit) == (bytes_daily, bytes_monthly)


@pytest.mark.parametrize("field", ["dailyLimit", "monthlyLimit"])
@pytest.mark.parametrize(
    "limit",
    [
        "1.5Gi",
        "1.5",
        "100m",
        "-5",
        "",
        " 5",
        "5 ",
        "5\n",
        "+5",
        "1e6",
        "5K",
        "5ki",
        "5B",
        "0x10",
        "1_000",
        "9223372036854775807",
        "9223372036854775808",
        "8Ei",
        "9999999999G",
        "999999999999999999Ei",
        "\u0665",
        9223372036854775808,
        10**5000,
        -1,
        1.5,
        1000.0,
        math.nan,
        math.inf,
        True,
        False,
        [1000],
        {"bytes": 1000},
        b"1000",
    ],
    ids=lambda limit: fields.shown(limit),
)
def test_a_limit_that_the_crd_refuses_is_refused_with_its_field(field: str, limit: object) -> None:
    refused = refusal(manifest({"dailyLimit": 0, field: limit}))
    assert refused.field == f"spec.{field}"
    assert str(refused).startswith(f"spec.{field}: ")
    assert refused.status == 422


@pytest.mark.parametrize(
    ("daily", "monthly"), [(1000, 999), ("1Ki", 1000), (1025, "1Ki"), ("1Mi", "1M")]
)
def test_a_month_below_a_day_is_refused_with_both_numbers(daily: object, monthly: object) -> None:
    refused = refusal(manifest({"dailyLimit": daily, "monthlyLimit": monthly}))
    assert refused.field == "spec.monthlyLimit"
    for limit in daily, monthly:
        assert str(quantity.parse(limit, "")) in str(refused)


SUFFIXES = {"": Fraction(1)}
SUFFIXES |= {s: Fraction(10) ** (3 * i) for i, s in enumerate(["k", "M", "G", "T", "P", "E"], 1)}
SUFFIXES |= {
    s: Fraction(2) ** (10 * i) for i, s in enumerate(["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"], 1)
}


@given(
    digits=st.from_regex("[0-9]{1,18}", fullmatch=True),
    suffix=st.sampled_from(sorted(SUFFIXES)),
)
def test_a_quantity_is_its_digits_times_its_unit(digits: str, suffix: str) -> None:
    """Digits and suffix give their exact product, or are refused from 2^63 on."""
    product = int(Fraction(digits) * SUFFIXES[suffix])
    if product < 2**63:
        assert quantity.parse(digits + suffix, "here") == product
    else:
        with pytest.raises(
            errors.BadBudget, match=rf"^here: {product} bytes is more than {2**63 - 1}"
        ):
            quantity.parse(digits + suffix, "here")


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        ({"dailyLimit": None}, "spec.dailyLimit", "missing"),
        ({"mode": "Strict"}, "spec.mode", "not built yet"),
        ({"mode": "strict"}, "spec.mode", "'strict' is not one of Eventual, Strict"),
        ({"mode": True}, "spec.mode", "true is not a string"),
        ({"enforcement": "dryrun"}, "spec.enforcement", "not one of Enforce, DryRun"),
        ({"enforcement": ""}, "spec.enforcement", "'' is not one of"),
        ({"onStale": "Deny"}, "spec.onStale", "FairShare, Allow, Drop"),
        ({"onStale": 1}, "spec.onStale", "1 is not a string"),
        ({"dailylimit": 5}, "spec.dailylimit", "dailyLimit is meant?"),
        ({"burst": 5}, "spec.burst", "unknown field"),
        ({"a b\n": 5}, "spec", r"unknown field 'a b\\n'"),
        ({1: 5}, "spec", "unknown field 1"),
        ({"timeZone": "../etc"}, "spec.timeZone", "'../etc' is not a zone"),
        ({"timeZone": "/etc/localtime"}, "spec.timeZone", "is not a zone"),
        ({"timeZone": ""}, "spec.timeZone", "'' is not a zone"),
        ({"timeZone": "UTC\n"}, "spec.timeZone", "is not a zone"),
        ({"timeZone": "Mars/Olympus"}, "spec.timeZone", "'Mars/Olympus' is not an IANA"),
        ({"timeZone": "Europe"}, "spec.timeZone", "IANA"),
        ({"timeZone": "europe/berlin"}, "spec.timeZone", "IANA"),
        ({"timeZone": "localtime"}, "spec.timeZone", "IANA"),
        ({"timeZone": "right/UTC"}, "spec.timeZone", "IANA"),
        ({"timeZone": "A" * 65}, "spec.timeZone", "65 characters, more than 64"),
        ({"timeZone": 1}, "spec.timeZone", "1 is not a string"),
        ({"namespaces": "shop"}, "spec.namespaces", "'shop' where a list"),
        ({"namespaces": []}, "spec.namespaces", "0 namespaces, not 1 to 256"),
        ({"namespaces": [str(i) for i in range(257)]}, "spec.namespaces", "257"),
        ({"namespaces": ["a", 5]}, "spec.namespaces[1]", "5 is not a string"),
        ({"namespaces": [None]}, "spec.namespaces[0]", "null is not a string"),
        ({"namespaces": ["Shop"]}, "spec.namespaces[0]", "'Shop' is not a name"),
        ({"namespaces": ["a.b"]}, "spec.namespaces[0]", "is not a name"),
        ({"namespaces": ["a-"]}, "spec.namespaces[0]", "is not a name"),
        ({"namespaces": ["a\n"]}, "spec.namespaces[0]", "is not a name"),
        ({"namespaces": [""]}, "spec.namespaces[0]", "is not a name"),
        ({"namespaces": [LONG + "a"]}, "spec.namespaces[0]", "64 characters, more than 63"),
        ({"namespaces": ["a", "b", "a"]}, "spec.namespaces[2]", r"in spec.namespaces\[0\] too"),
        ({"selector": []}, "spec.selector", "a list where a mapping is due"),
        ({"selector": {"matchExpressions": []}}, "spec.selector.matchExpressions", "unknown"),
        ({"selector": {"matchLabels": "app"}}, "spec.selector.matchLabels", "a mapping is due"),
        ({"selector": {"matchLabels": {"a": 1}}}, "spec.selector.matchLabels", "1 is not a"),
        ({"selector": {"matchLabels": {1: "a"}}}, "spec.selector.matchLabels", "1: 'a'"),
        ({"selector": {"matchLabels": {"a": ""}}}, "spec.selector.matchLabels", "absent one"),
        (
            {"selector": {"matchLabels": {"a": "x" * 2049}}},
            "spec.selector.matchLabels",
            "2049 characters, more than 2048",
        ),
        (
            {"selector": {"matchLabels": {str(i): "x" for i in range(17)}}},
            "spec.selector.matchLabels",
            "17 labels, more than 16",
        ),
        ({"throttle": 0.5}, "spec.throttle", "0.5 where a mapping is due"),
        ({"throttle": {"rate": 0.5}}, "spec.throttle.rate", "unknown field"),
        ({"throttle": {"sampleRate": "0.5"}}, "spec.throttle.sampleRate", "'0.5' is not a number"),
        ({"throttle": {"sampleRate": True}}, "spec.throttle.sampleRate", "true is not a number"),
        ({"throttle": {"sampleRate": 1.01}}, "spec.throttle.sampleRate", "1.01 is not between"),
        ({"throttle": {"sampleRate": -0.1}}, "spec.throttle.sampleRate", "not between 0 and 1"),
        ({"throttle": {"sampleRate": math.nan}}, "spec.throttle.sampleRate", "nan is not"),
        ({"throttle": {"sampleRate": math.inf}}, "spec.throttle.sampleRate", "inf is not"),
        ({"throttle": {"sampleRate": 10**400}}, "spec.throttle.sampleRate", "1329 bits"),
        ({"costPerGiB": "0.5"}, "spec.costPerGiB", "'0.5' is not a number"),
        ({"costPerGiB": True}, "spec.costPerGiB", "true is not a number"),
        ({"costPerGiB": -0.01}, "spec.costPerGiB", "-0.01 is not between 0 and 1000000000"),
        ({"costPerGiB": 1e9 + 1}, "spec.costPerGiB", "not between"),
        ({"costPerGiB": math.nan}, "spec.costPerGiB", "nan is not"),
    ],
)
def test_a_bad_spec_is_refused_with_field_and_reason(
    spec: dict[Any, Any], field: str, words: str
) -> None:
    refused = refusal(manifest({"dailyLimit": 1000, **spec}))
    assert refused.field == field
    with pytest.raises(errors.BadBudget, match=words):
        raise refused


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"apiVersion": "v1"}, "apiVersion"),
        ({"apiVersion": None}, "apiVersion"),
        ({"kind": "LogBudget"}, "kind"),
        ({"kind": 5}, "kind"),
        ({"spec": {}}, "spec.dailyLimit"),
        ({"spec": "1000"}, "spec"),
        ({"specs": {}}, "specs"),
        ({"metadata": None}, "metadata.name"),
        ({"metadata": "backend"}, "metadata"),
        ({"metadata": {"name": ""}}, "metadata.name"),
        ({"metadata": {"name": 5}}, "metadata.name"),
        ({"metadata": {"name": "Backend"}}, "metadata.name"),
        ({"metadata": {"name": "a..b"}}, "metadata.name"),
        ({"metadata": {"name": LONG + "a"}}, "metadata.name"),
        ({"metadata": {"name": "a", "namespace": "a.b"}}, "metadata.namespace"),
        ({"metadata": {"name": "a", "namespace": ["a"]}}, "metadata.namespace"),
        ({"metadata": {"name": "a", "namspace": "a"}}, "metadata.namspace"),
        ({"metadata": {"name": "a", "creationTimestamp": ""}}, "metadata.creationTimestamp"),
        ({"metadata": {"name": "a", "creationTimestamp": 5}}, "metadata.creationTimestamp"),
        (
            {"metadata": {"name": "a", "creationTimestamp": "2026-13-01T00:00:00Z"}},
            "metadata.creationTimestamp",
        ),
        (
            {"metadata": {"name": "a", "creationTimestamp": "0001-01-01T00:00:00+23:00"}},
            "metadata.creationTimestamp",
        ),
        (
            {"metadata": {"name": "a", "creationTimestamp": datetime.datetime(2026, 1, 1)}},
            "metadata.creationTimestamp",
        ),
    ],
)
def test_a_manifest_that_is_wrong_elsewhere_is_refused_too(
    part: dict[str, object], field: str
) -> None:
    assert refusal(manifest(**part)).field == field


@pytest.mark.parametrize("given", [None, "x", 5, [], [manifest()]])
def test_what_is_no_manifest_is_refused(given: object) -> None:
    refusal(given)


def test_null_is_absent() -> None:
    assert refusal(manifest() | {"spec": None}).field == "spec.dailyLimit"
    nulls = dict.fromkeys(budget.SPEC_FIELDS - {"dailyLimit"})
    metadata = {"name": "a", "namespace": None, "creationTimestamp": None}
    found = budget.Budget.from_manifest(
        manifest({"dailyLimit": 5, **nulls}, metadata=metadata, status=None)
    )
    assert found == budget.Budget(name="a", namespace="default", daily_limit=5)
    assert read({"selector": {"matchLabels": {"a": None}}}) == read({"dailyLimit": 1000})
    assert read({"selector": {"matchLabels": None}, "throttle": {"sampleRate": None}}) == read(
        {"dailyLimit": 1000}
    )


def test_names_and_zones_at_their_limits_are_taken() -> None:
    found = read(
        {"namespaces": [LONG, *(f"n{i}" for i in range(255))], "timeZone": "Etc/GMT+12"},
        metadata={"name": "a.b-c.9", "namespace": LONG},
    )
    assert found.namespaces is not None
    assert len(found.namespaces) == 256
    assert (found.key, found.time_zone) == (f"{LONG}/a.b-c.9", "Etc/GMT+12")


@pytest.mark.parametrize("rate", [0, 1, 0.0, 1.0, 0.1, -0.0, 5e-324])
def test_sample_rates_from_0_to_1_are_taken(rate: float) -> None:
    found = read({"throttle": {"sampleRate": rate}}).sample_rate
    assert found == rate
    assert type(found) is float


def test_a_timestamp_read_as_a_datetime_is_taken() -> None:
    moment = datetime.datetime(2026, 11, 22, 10, tzinfo=datetime.UTC)
    metadata = {"name": "a", "creationTimestamp": moment}
    assert read(metadata=metadata).created == "2026-11-22T10:00:00Z"


def test_what_the_api_server_took_is_forgiven_an_unknown_zone_and_later_fields() -> None:
    tolerated: list[errors.BadBudget] = []
    spec = {"dailyLimit": 5, "timeZone": "Mars/Olympus", "pace": True}
    found = budget.Budget.from_manifest(manifest(spec), tolerated=tolerated)
    assert (found.daily_limit, found.time_zone) == (5, "UTC")
    assert [error.field for error in tolerated] == ["spec.pace", "spec.timeZone"]


def test_what_the_api_server_took_is_not_forgiven_a_limit() -> None:
    with pytest.raises(errors.BadBudget, match=r"spec\.dailyLimit"):
        budget.Budget.from_manifest(manifest({}), tolerated=[])


@pytest.mark.parametrize(
    ("given", "key"),
    [
        (manifest({"dailyLimit": "x"}), "default/backend-team"),
        (manifest(metadata={"name": "a"}, apiVersion=None, extra=1), "default/a"),
        (manifest(metadata={"name": "A"}), None),
        (manifest(kind="ConfigMap"), None),
        (manifest(metadata=5), None),
        (5, None),
    ],
)
def test_the_key_is_read_from_a_bad_manifest_too(given: object, key: str | None) -> None:
    assert budget.key_of(given) == key


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=100) | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.integers() | st.sampled_from(sorted(budget.SPEC_FIELDS)), inner)
        | st.dictionaries(st.sampled_from(["name", "namespace", "matchLabels"]), inner)
    ),
    max_leaves=20,
)


@given(
    spec=anything | st.dictionaries(st.sampled_from(sorted(budget.SPEC_FIELDS)), anything),
    metadata=anything | st.just({"name": "a"}),
)
def test_whatever_a_manifest_holds_it_is_a_budget_or_a_short_refusal(
    spec: object, metadata: object
) -> None:
    """Any manifest gives a Budget or a BadBudget whose message is one line of bounded length."""
    given = manifest(metadata=metadata) | {"spec": spec}
    try:
        found = budget.Budget.from_manifest(given)
    except errors.BadBudget as refused:
        message = str(refused)
    else:
        message = ""
        assert 0 <= found.daily_limit <= 2**63 - 1
        assert found.monthly_limit is None or found.daily_limit <= found.monthly_limit < 2**63
        assert budget.key_of(given) == found.key
    assert message.isprintable()
    assert len(message) < 400


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("x" * 100, repr("x" * 40 + "...")),
        ("\x1b[31m\n", r"'\x1b[31m\n'"),
        (2**127, str(2**127)),
        (2**128, "a number of 129 bits"),
        (None, "null"),
        (True, "true"),
        ({}, "a mapping"),
        ((), "a list"),
        (b"", "a bytes"),
    ],
)
def test_a_value_is_shown_short_and_on_one_line(value: object, words: str) -> None:
    assert fields.shown(value) == words


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("none", ()),
        ("drop", ("drop",)),
        ("forecast,throttle", ("throttle", "forecast")),
        (" drop , recovery ", ("drop", "recovery")),
        ("drop,drop", ("drop",)),
    ],
)
def test_the_annotation_says_what_a_team_is_told_of(text: str, rules: tuple[str, ...]) -> None:
    metadata = {"name": "shop", "annotations": {budget.NOTIFY: text}}
    assert read({"dailyLimit": 1}, metadata=metadata).notify == rules


def test_without_the_annotation_the_default_holds() -> None:
    metadata = {"name": "shop", "annotations": {"kubectl.kubernetes.io/x": "{}"}}
    assert read({"dailyLimit": 1}, metadata=metadata).notify is None


@pytest.mark.parametrize("value", ["", "Drop", "drop;forecast", "none,drop", 5, ["drop"]])
def test_a_bad_annotation_is_refused_in_a_file_and_forgiven_on_a_cluster(value: Any) -> None:
    found = manifest(
        {"dailyLimit": 1}, metadata={"name": "a", "annotations": {budget.NOTIFY: value}}
    )
    assert refusal(found).field == f"metadata.annotations[{budget.NOTIFY}]"
    tolerated: list[errors.BadBudget] = []
    assert budget.Budget.from_manifest(found, tolerated=tolerated).notify is None
    assert [error.field for error in tolerated] == [f"metadata.annotations[{budget.NOTIFY}]"]
