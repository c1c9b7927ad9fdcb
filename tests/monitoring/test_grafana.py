"""deploy/grafana/sluice.json: well formed, and every query in it and in the rules finds something.

Asked is a real Prometheus that scrapes a real `sluice run`, agent and controller under load.
"""

import itertools
import json
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.harness import Cluster
from cluster.processes import Agent, Controller, apply
from harness import Sluice, Upstream, budget, running, wait_until, write_budgets
from monitoring.harness import ROOT, Prometheus
from shippers import Push, make_streams, promtail
from shipping import shipping

BOARD = json.loads((ROOT / "deploy" / "grafana" / "sluice.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text())["groups"]
    for rule in group["rules"]
]
WIDTH = 24
PACE_S = 0.1
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# What Grafana would put in, with "All" chosen.
VARIABLES = {
    "$__rate_interval": "1m",
    "$__range": "5m",
    "$namespace": ".+",
    "$team": ".+",
}
SERIES = re.compile(r"\b((?:tco|process|up\b|sluice:)[a-z0-9_:]*)(\{[^}]*\})?")


# the file


def test_panels_have_ids_of_their_own_and_lie_side_by_side() -> None:
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: Counter[tuple[int, int]] = Counter()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= WIDTH, panel["title"]
        columns, rows = range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])
        taken.update(itertools.product(columns, rows))
    assert max(taken.values()) == 1


def test_every_query_goes_to_the_chosen_data_source_and_has_a_letter_of_its_own() -> None:
    for panel in PANELS:
        assert panel["datasource"] == DATASOURCE, panel["title"]
        assert [target["datasource"] for target in panel["targets"]] == [DATASOURCE] * len(
            panel["targets"]
        )
        letters = [target["refId"] for target in panel["targets"]]
        assert len(letters) == len(set(letters)), panel["title"]


def test_variables_are_declared_and_used() -> None:
    names = [variable["name"] for variable in BOARD["templating"]["list"]]
    assert names == ["datasource", "namespace", "team"]
    text = json.dumps(PANELS)
    used = set(re.findall(r"\$\{?([a-z]\w*)\}?", text))
    assert used == set(names)
    builtin = set(re.findall(r"\$__\w+", text))
    assert builtin <= VARIABLES.keys()


def test_a_query_of_teams_is_narrowed_by_team_and_namespace() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            if "team" in re.findall(r"by \(([^)]*)\)", target["expr"])[:1]:
                assert 'namespace=~"$namespace", team=~"$team"' in target["expr"], panel["title"]


def test_what_is_divided_by_is_never_nothing() -> None:
    """Without traffic a share of it is no number, and Grafana would show NaN."""
    for panel in PANELS:
        for target in panel["targets"]:
            for divisor in re.findall(r" / (.*)", target["expr"]):
                assert re.fullmatch(r"\(.* > 0\)", divisor), panel["title"]


def test_of_what_the_leader_alone_keeps_up_the_board_shows_the_leaders_word() -> None:
    """Whoever led once shows the last that it knew."""
    for panel in PANELS:
        for target in panel["targets"]:
            for series in ("silent_nodes", "skewed_nodes", "statuses_due"):
                if (name := f"tco_controller_{series}") in target["expr"]:
                    words = f"max({name} and on (instance) tco_controller_leader == 1)"
                    assert target["expr"] == words, panel["title"]


# the queries


def queries() -> Iterator[tuple[str, str]]:
    """Every query of the board and of the rules, with where it stands."""
    for panel in PANELS:
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            yield f"{panel['title']} {target['refId']}", expression
    for rule in RULES:
        yield rule.get("record") or rule["alert"], rule["expr"]


class Scene:
    """A `sluice run`, an agent and a controller, all under load, and who scrapes them."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.upstream = Upstream(folder / "upstream")
        budgets = [
            budget("small", 60_000, monthlyLimit="1Gi"),
            budget("large", "1Gi", namespace="default", namespaces=["large"], monthlyLimit="1Gi"),
            budget("dry", 1000, enforcement="DryRun"),
            # Stays in the band for ever: there it keeps nothing.
            budget("band", 20_000, throttle={"sampleRate": 0}),
        ]
        path = write_budgets(folder / "budgets.yaml", budgets)
        # A sink that nobody answers for.
        args = ["--notify", "json://127.0.0.1:9"]
        self.run = Sluice(folder / "run", path, self.upstream.url, args=args)
        self.namespace = f"test-{uuid.uuid4().hex[:12]}"
        apply(cluster, budget("team", "1Gi", namespace=self.namespace))
        self.controller = Controller(folder / "controller", cluster)
        self.agent = Agent(folder / "agent", cluster, "node-of-the-board", self.upstream.url)
        self.prometheus = Prometheus(
            folder / "prometheus",
            {
                f"127.0.0.1:{server.port}": {"namespace": "sluice-system"}
                for server in (self.run, self.controller, self.agent)
            },
            rules=[ROOT / "deploy" / "prometheus" / "rules.yaml"],
        )

    def servers(self) -> list[Any]:
        return [self.upstream, self.run, self.controller, self.agent, self.prometheus]

    def disturb(self) -> None:
        """Have upstream refuse a push, and a part of another; and Sluice refuse two."""
        push = promtail(make_streams(1, ["large"], streams=1, entries=5))
        for status in (503, 400):
            self.upstream.control(f"status:{status}")
            assert self.run.send(push).status == status
        self.upstream.control("ok")
        assert self.run.push(b"no snappy", push.headers).status == 400


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, own_cluster: Cluster) -> Iterator[Scene]:
    """A Scene, as soon as Prometheus has seen every series twice."""
    made = Scene(tmp_path_factory.mktemp("scene"), own_cluster)
    with running(*made.servers()):
        made.upstream.control("ok", keep=False)
        made.agent.wait_for_budget(made.namespace, "team")
        made.disturb()
        to_run = ["small", "large", "dry", "band", "nobodys"]
        with (
            shipping(made.run, pushes(to_run), threads=1) as load,
            shipping(made.agent, pushes([made.namespace]), threads=1),
        ):
            load.wait_for(5)
            # Until the last of them is there: the reports of the agent go to the controller.
            used = f'tco_budget_used_bytes{{namespace="{made.namespace}"}} > 0'
            wait_until(lambda: made.prometheus.query(used), "usage goes up to the controller", 60)
            wait_until(
                lambda: made.prometheus.query("min(count_over_time(up[1m])) >= 5"), "five scrapes"
            )
            yield made


def pushes(namespaces: list[str]) -> Callable[[int], Push]:
    """A maker of pushes for shipping(), at an easy pace: others use the machine, too."""

    def make(number: int) -> Push:
        time.sleep(PACE_S)
        return promtail(make_streams(number, namespaces, streams=len(namespaces), entries=10))

    return make


def wait_until_none(find: Callable[[], Iterable[str]], what: str) -> None:
    """Wait until `find` finds nothing any more; else fail with what it found last."""
    found: list[str] = []

    def is_none_left() -> bool:
        found[:] = sorted(find())
        return not found

    try:
        wait_until(is_none_left, what, 30)
    except AssertionError as error:
        pytest.fail(f"{error}; missing {found}", pytrace=False)


@pytest.mark.prometheus
@pytest.mark.cluster
def test_every_query_of_the_board_finds_something(scene: Scene) -> None:
    panels = list(queries())[: -len(RULES)]

    def unanswered() -> list[str]:
        return [where for where, query in panels if not scene.prometheus.query(query)]

    wait_until_none(unanswered, "every panel has something to show")


@pytest.mark.prometheus
@pytest.mark.cluster
def test_every_series_that_a_query_names_is_there_with_these_labels(scene: Scene) -> None:
    """Most alerts are silent, as they should be: what they look at must be there."""
    # Evaluated by Prometheus itself; what it could not evaluate, it says.
    for group in scene.prometheus.get("/api/v1/rules").json["data"]["groups"]:
        for rule in group["rules"]:
            assert rule["health"] in ("ok", "unknown"), rule
    named = {found for _, query in queries() for found in SERIES.findall(query)}
    assert len(named) > len(RULES)

    def absent() -> set[str]:
        return {
            name + labels
            for name, labels in named
            if not scene.prometheus.query(f"last_over_time({name}{labels}[1m])")
        }

    wait_until_none(absent, "every series is there")


@pytest.mark.prometheus
@pytest.mark.cluster
def test_the_namespace_of_a_budget_wins_over_that_of_the_target(scene: Scene) -> None:
    query = scene.prometheus.query
    teams = {
        (each["metric"]["namespace"], each["metric"]["team"])
        for each in query('tco_budget_used_bytes{window="day"}')
    }
    assert teams == {
        ("small", "small"),
        ("default", "large"),
        ("dry", "dry"),
        ("band", "band"),
        (scene.namespace, "team"),
    }
    assert not query('{exported_namespace!=""}')
    # What is of no budget has no namespace, and no other one's either.
    (unbudgeted,) = query('sum by (team, namespace) (tco_log_bytes_total{team=""})')
    assert unbudgeted["metric"] == {}
    # The process's own series are the target's.
    assert len(query('process_resident_memory_bytes{namespace="sluice-system"}')) == 3


@pytest.mark.prometheus
@pytest.mark.cluster
def test_variables_offer_the_teams_and_namespaces_that_there_are(scene: Scene) -> None:
    for variable in BOARD["templating"]["list"][1:]:
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert found
        series = found[1].replace("$namespace", ".+")
        values = {each["metric"][found[2]] for each in scene.prometheus.query(series)}
        assert scene.namespace in values or "team" in values


@pytest.mark.prometheus
@pytest.mark.cluster
def test_the_readme_lists_every_series(scene: Scene) -> None:
    text = (ROOT / "README.md").read_text()
    names = {each["metric"]["__name__"] for each in scene.prometheus.query('{__name__=~"tco_.+"}')}
    ends = re.compile(r"_(bucket|sum|count|created)$")
    assert {name for name in names if not ends.search(name) and f"`{name}`" not in text} == set()
