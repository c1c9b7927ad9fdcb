"""The table finds what a search through all budgets, rule by rule, would find."""

import itertools
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice import errors, table
from sluice.budget import Budget

SYSTEM = "sluice-system"

NAMESPACES = ["shop", "cart", SYSTEM]
labels_of_budgets = st.dictionaries(
    st.sampled_from(["app", "tier", "namespace"]), st.sampled_from(["a", "b", "shop"]), max_size=3
).map(lambda labels: tuple(sorted(labels.items())))
budgets = st.lists(
    st.builds(
        Budget,
        name=st.sampled_from(["shop", "cart", "a", "b-1", "b.1", SYSTEM]),
        namespace=st.sampled_from(NAMESPACES),
        daily_limit=st.just(1),
        namespaces=st.none()
        | st.lists(st.sampled_from(NAMESPACES), min_size=1, unique=True).map(tuple),
        match_labels=labels_of_budgets,
        created=st.sampled_from(["", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"]),
    ),
    max_size=8,
    unique_by=lambda budget: budget.key,
)
streams = st.dictionaries(
    st.sampled_from(["namespace", "k8s_namespace_name", "app", "tier", "__pattern__"]),
    st.sampled_from(["", "shop", "cart", SYSTEM, "a", "b", "elsewhere"]),
)


def may_govern_all(budget: Budget, trusted: bool) -> bool:
    """Whether nobody can use this budget to throttle another team."""
    return trusted or budget.namespace == SYSTEM


def claim_of(budget: Budget, namespace: str, trusted: bool) -> int | None:
    """The second rule of the order: 0 explicit, 1 own, 2 name; None: not this namespace."""
    free = may_govern_all(budget, trusted)
    if budget.namespaces is not None and namespace in budget.namespaces:
        return 0 if free or namespace == budget.namespace else None
    if budget.namespaces is not None:
        return 1 if namespace == budget.namespace and not free else None
    if namespace == budget.namespace:
        return 1
    return 2 if free and namespace == budget.name else None


def order_of(budget: Budget, namespace: str, trusted: bool) -> tuple[object, ...]:
    """Sorts the budgets of a namespace by the rules, best first."""
    return (
        -len(budget.match_labels),
        claim_of(budget, namespace, trusted),
        budget.created == "",
        budget.created,
        budget.key.encode(),
    )


def search(given: Sequence[Budget], labels: Mapping[str, str], trusted: bool) -> int:
    """The oracle: look at every budget."""
    labels = {name: value for name, value in labels.items() if value}
    namespace = labels.get("namespace", labels.get("k8s_namespace_name", ""))
    matching = [
        budget
        for budget in given
        if claim_of(budget, namespace, trusted) is not None
        and all(labels.get(name) == value for name, value in budget.match_labels)
    ]
    if not matching:
        return -1
    return given.index(min(matching, key=lambda budget: order_of(budget, namespace, trusted)))


@given(given=budgets, labels=streams, trusted=st.booleans())
def test_a_stream_belongs_to_the_first_by_the_order(
    given: list[Budget], labels: dict[str, str], trusted: bool
) -> None:
    """The table answers as a search through all budgets does."""
    assert table.Table(given, trusted=trusted).team_of(labels) == search(given, labels, trusted)


@given(given=budgets, trusted=st.booleans(), data=st.data())
def test_the_order_of_the_budgets_changes_nothing(
    given: list[Budget], trusted: bool, data: st.DataObject
) -> None:
    """A table of the same budgets in another order gives every stream to the same budget."""
    shuffled = data.draw(st.permutations(given))
    some, other = table.Table(given, trusted=trusted), table.Table(shuffled, trusted=trusted)
    labels = data.draw(streams)
    found, same = some.team_of(labels), other.team_of(labels)
    assert (found < 0) == (same < 0)
    assert found < 0 or some.budgets[found] == other.budgets[same]


@given(given=budgets, namespace=st.sampled_from(["", "elsewhere", *NAMESPACES]))
def test_a_namespace_is_a_stream_with_no_other_label(given: list[Budget], namespace: str) -> None:
    """of_namespace() answers as team_of() does for the namespace label alone."""
    found = table.Table(given)
    assert found.of_namespace(namespace) == found.team_of({"namespace": namespace})
    assert found.of_namespace(namespace) == search(given, {"namespace": namespace}, True)


@given(given=budgets, trusted=st.booleans())
def test_conflicts_are_what_a_comparison_of_all_pairs_finds(
    given: list[Budget], trusted: bool
) -> None:
    """Each conflict is with the strongest budget that matches some of the loser's streams."""
    expected = []
    for i, loser in enumerate(given):
        for namespace in [*NAMESPACES, "a", "b-1", "b.1"]:
            if claim_of(loser, namespace, trusted) is None:
                continue
            rank = order_of(loser, namespace, trusted)
            rivals = [
                budget
                for budget in given
                if claim_of(budget, namespace, trusted) is not None
                and order_of(budget, namespace, trusted) < rank
                and all(
                    dict(loser.match_labels).get(name, value) == value
                    for name, value in budget.match_labels
                )
            ]
            same = [budget for budget in rivals if budget.match_labels == loser.match_labels]
            if rivals:
                winner = min(same or rivals, key=lambda b: order_of(b, namespace, trusted))
                expected.append((i, given.index(winner), namespace, bool(same)))
    found = table.Table(given, trusted=trusted).conflicts
    assert [(c.loser, c.winner, c.namespace, c.wholly) for c in found] == sorted(
        expected, key=lambda c: (c[0], c[2])
    )


@given(given=budgets, trusted=st.booleans())
def test_a_budget_without_conflicts_gets_its_streams(given: list[Budget], trusted: bool) -> None:
    """Whoever is in no conflict as loser governs a stream with just its labels."""
    found = table.Table(given, trusted=trusted)
    losers = {(conflict.loser, conflict.namespace) for conflict in found.conflicts}
    for i, budget in enumerate(given):
        for namespace in NAMESPACES:
            labels = {"namespace": namespace, **dict(budget.match_labels)}
            governs = claim_of(budget, namespace, trusted) is not None
            if governs and labels["namespace"] == namespace and (i, namespace) not in losers:
                assert found.team_of(labels) == i


PLAIN = Budget("x", "shop", 1)


@pytest.mark.parametrize(
    ("winner", "loser", "on"),
    [
        (
            Budget("b", "shop", 1, match_labels=(("app", "a"), ("tier", "t"))),
            Budget("a", "shop", 1, namespaces=("shop",), match_labels=(("app", "a"),)),
            "more match labels",
        ),
        (
            Budget("b", "cart", 1, namespaces=("shop",)),
            Budget("a", "shop", 1),
            "explicit namespaces",
        ),
        (
            Budget("b", "cart", 1, namespaces=("shop",)),
            Budget("shop", "a", 1),
            "explicit namespaces",
        ),
        (Budget("b", "shop", 1), Budget("shop", "a", 1), "own namespace"),
        (
            Budget("b", "shop", 1, created="2025-12-31T23:59:59Z"),
            Budget("a", "shop", 1, created="2026-01-01T00:00:00Z"),
            "older creationTimestamp",
        ),
        (
            Budget("b", "shop", 1, created="2026-01-01T00:00:00Z"),
            Budget("a", "shop", 1),
            "older creationTimestamp",
        ),
        (Budget("a", "shop", 1), Budget("b", "shop", 1), "smaller key"),
        (Budget("shop", "a", 1), Budget("shop", "b", 1), "smaller key"),
        # "-" comes before "." and both before "/" and digits.
        (Budget("b-1", "shop", 1), Budget("b.1", "shop", 1), "smaller key"),
    ],
)
def test_each_rule_of_the_order_decides_when_those_before_it_do_not(
    winner: Budget, loser: Budget, on: str
) -> None:
    labels = {"namespace": "shop", "app": "a", "tier": "t"}
    for pair in itertools.permutations([winner, loser]):
        found = table.Table(pair)
        assert found.budgets[found.team_of(labels)] is winner
        [conflict] = found.conflicts
        assert conflict.on == on
        assert (pair[conflict.loser], pair[conflict.winner]) == (loser, winner)
        assert conflict.namespace == "shop"
        assert conflict.wholly == (on != "more match labels")


def test_an_apps_budget_takes_its_streams_from_the_namespaces() -> None:
    whole, app = PLAIN, Budget("y", "shop", 1, match_labels=(("app", "checkout"),))
    found = table.Table([whole, app])
    assert found.team_of({"namespace": "shop", "app": "checkout"}) == 1
    assert found.team_of({"namespace": "shop", "app": "search"}) == 0
    assert found.team_of({"namespace": "shop"}) == 0
    assert found.of_namespace("shop") == 0
    assert found.conflicts == (table.Conflict(0, 1, "shop", "more match labels", wholly=False),)


def test_budgets_of_different_apps_are_in_no_conflict() -> None:
    apps = [Budget(f"y{i}", "shop", 1, match_labels=(("app", f"a{i}"),)) for i in range(3)]
    found = table.Table(apps)
    assert found.conflicts == ()
    assert found.of_namespace("shop") == -1


def test_an_empty_label_is_an_absent_one() -> None:
    found = table.Table([PLAIN])
    assert found.team_of({"namespace": "", "k8s_namespace_name": "shop"}) == 0
    assert found.team_of({"namespace": "shop", "__pattern__": ""}) == 0
    assert found.team_of({"namespace": ""}) == -1
    assert found.app_of({"app": "", "service_name": "", "job": "j"}) == "j"


def test_the_first_namespace_label_present_counts() -> None:
    found = table.Table([PLAIN])
    assert found.team_of({"namespace": "cart", "kubernetes_namespace_name": "shop"}) == -1
    assert found.team_of({"kubernetes_namespace_name": "shop"}) == 0
    assert found.namespace_of({"k8s_namespace_name": "a", "kubernetes_namespace_name": "b"}) == "a"
    assert found.namespace_of({"pod": "a"}) == ""


def test_the_namespace_labels_are_a_setting() -> None:
    found = table.Table([PLAIN], namespace_labels=("ns", "space"))
    assert found.team_of({"ns": "shop"}) == 0
    assert found.team_of({"space": "shop"}) == 0
    assert found.team_of({"namespace": "shop"}) == -1
    assert found.of_namespace("shop") == 0
    with pytest.raises(ValueError, match="0 namespace labels"):
        table.Table([], namespace_labels=())


@pytest.mark.parametrize("name", ["__aggregated_metric__", "__pattern__"])
def test_a_label_of_lokis_own_lifts_no_budget_unless_the_operator_says_so(name: str) -> None:
    labels = {"namespace": "shop", name: "x"}
    assert table.Table([PLAIN]).team_of(labels) == 0
    exempting = table.Table([PLAIN], exempt_loki_streams=True)
    assert exempting.team_of(labels) == -1
    assert exempting.team_of({"namespace": "shop", name: ""}) == 0
    assert exempting.of_namespace("shop") == 0


@pytest.mark.parametrize(
    ("labels", "app"),
    [
        ({}, ""),
        ({"job": "j"}, "j"),
        ({"job": "j", "container": "c"}, "c"),
        ({"container": "c", "service_name": "s"}, "s"),
        ({"service_name": "s", "app_kubernetes_io_name": "k"}, "k"),
        ({"app_kubernetes_io_name": "k", "app": "a"}, "a"),
    ],
)
def test_the_app_is_the_first_label_that_names_one(labels: dict[str, str], app: str) -> None:
    assert table.Table([]).app_of(labels) == app


def test_elsewhere_a_budget_governs_its_own_namespace_only() -> None:
    given = [
        Budget("shop", "cart", 1),
        Budget("b", "cart", 1, namespaces=("shop", "cart", "pay")),
        Budget("c", "pay", 1, namespaces=("shop",)),
        Budget("d", "own", 1, namespaces=("own",)),
    ]
    found = table.Table(given, trusted=False)
    assert found.of_namespace("shop") == -1
    assert found.of_namespace("cart") == 1
    assert found.of_namespace("pay") == 2
    assert found.of_namespace("own") == 3
    assert found.not_allowed == (
        table.NotAllowed(1, ("shop", "pay")),
        table.NotAllowed(2, ("shop",)),
    )


def test_in_sluices_own_namespace_a_budget_governs_what_it_names() -> None:
    given = [
        Budget("shop", "logs", 1),
        Budget("b", "logs", 1, namespaces=("cart", "pay")),
    ]
    found = table.Table(given, trusted=False, system_namespace="logs")
    assert [found.of_namespace(name) for name in ("shop", "logs", "cart", "pay")] == [0, 0, 1, 1]
    assert found.not_allowed == ()
    assert table.Table(given, trusted=False).not_allowed == (table.NotAllowed(1, ("cart", "pay")),)


def test_two_budgets_of_one_key_are_refused() -> None:
    with pytest.raises(errors.BadBudget, match=r"metadata\.name: shop/x is given twice"):
        table.Table([PLAIN, PLAIN])


def test_budgets_are_found_by_key_and_place() -> None:
    found = table.Table([Budget("a", "shop", 1), PLAIN])
    assert found.budgets[found.index_of["shop/x"]] is PLAIN
    assert found.index_of.get("shop/z") is None


def test_ten_thousand_budgets_in_one_namespace_are_told_apart() -> None:
    given = [
        Budget(f"t{i}", "shop", 1, match_labels=((f"l{i % 100}", f"v{i // 100}"),))
        for i in range(10_000)
    ]
    found = table.Table(given)
    for i in range(0, 10_000, 997):
        labels = {"namespace": "shop", f"l{i % 100}": f"v{i // 100}", "l100": "x"}
        assert found.team_of(labels) == i
    # Only so many sets of names are compared, in the order of the names.
    assert 0 < len(found.conflicts) <= len(given)
