"""The OpenAPI document: it is valid, names the routes that there are, and what it says of them is
true of any call that schemathesis thinks of."""

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flask
import jsonschema_rs
import pytest
import schemathesis.openapi
import waitress.server
from front import NOON, Sender
from harness import Sluice, budget
from past import HUGE, full
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

from sluice import Budget, Gate, api, forecast, metrics, openapi, query, usage
from sluice.agent import app, push

TOKEN = "a-token-that-is-long-enough"
KNOWN = "backend-team"
BUDGETS = [
    budget(KNOWN, HUGE, namespace="default", monthlyLimit=HUGE, costPerGiB=0.5),
    budget("shop", 1000, namespace="eu"),
    budget("shop", 0, namespace="us", enforcement="DryRun"),
]
# A request may be as the document says and yet be wrong: an end before the begin, two lists of
# different lengths, a namespace without a team, 3.0 for a whole number.
MAY_BE_WRONG = (
    "/api/events",
    "/api/teams/{name}/history",
    "/api/v1/evaluate",
    "/api/v1/evaluate/batch",
)
ACCEPTED = ["2xx", "400", "401", "404", "409", "503"]


def full_source(door: Gate) -> api.Source:
    """Everything that a team can have."""
    outlooks = forecast.Outlooks()
    outlooks.observe(usage.rows(door.ledger, NOON))
    past = full(f"default/{KNOWN}", int(NOON))
    return api.Source(lambda now: usage.rows(door.ledger, now), outlooks, past, 0.25)


def agent(budgets: list[dict[str, Any]], **more: Any) -> flask.Flask:
    """The agent's application; its numbers are as large as they get."""
    door = Gate([Budget.from_manifest(one) for one in budgets])
    if budgets:
        teams = door.resolve(["default", "eu", "us"])
        for size in (HUGE, 900, 5):
            door.evaluate(teams, [size] * len(teams), now=NOON)
    if more.pop("is_full", False):
        more["source"] = full_source(door)
    return app.create_app(door, Sender(), clock=lambda: NOON, evaluates=True, **more).site


def fuzz(schema: Any) -> Counter[tuple[str, int]]:
    """Call everything in every way; returns how often which answer came, by operation."""
    answers: Counter[tuple[str, int]] = Counter()
    found = set()
    for event in from_schema(schema.exclude(path=push.PATHS[0])).execute():
        assert not isinstance(event, events.NonFatalError | events.FatalError), repr(event)
        if not isinstance(event, events.ScenarioFinished):
            continue
        label = event.recorder.label
        for interaction in event.recorder.interactions.values():
            if interaction.response is not None:
                answers[label, interaction.response.status_code] += 1
        for checks in event.recorder.checks.values():
            for check in checks:
                if check.failure_info is not None:
                    failure = check.failure_info.failure
                    found.add(f"{label}: {check.name}: {failure.title}: {failure.message}\n"
                              f"{check.failure_info.code_sample}")  # fmt: skip
    assert not found, "\n\n".join(sorted(found))
    return answers


def config(examples: int = 25, **more: Any) -> SchemathesisConfig:
    """The same calls each time."""
    return SchemathesisConfig.from_dict(
        {
            "seed": 1,
            "generation": {"max-examples": examples, "deterministic": True, "database": "none"},
            "phases": {"stateful": {"enabled": False}},
            "operations": [
                {
                    "include-path": path,
                    "checks": {"positive_data_acceptance": {"expected-statuses": ACCEPTED}},
                }
                for path in MAY_BE_WRONG
            ],
            **more,
        }
    )


# the document


def test_the_document_is_valid():
    found = openapi.document(takes_pushes=True)
    schemathesis.openapi.from_dict(found).validate()
    for name, schema in found["components"]["schemas"].items():
        jsonschema_rs.meta.validate(schema), name
    names = re.findall(r"'\$ref': '#/components/(\w+)/(\w+)'", str(found))
    assert names
    for kind, name in names:
        assert name in found["components"][kind], name


def test_nothing_in_the_document_is_unused():
    for takes_pushes in (False, True):
        found = openapi.document(takes_pushes=takes_pushes)
        used = set(re.findall(r"#/components/\w+/(\w+)", str(found)))
        for kind in ("schemas", "responses"):
            assert set(found["components"][kind]) <= used | {"TooLarge", "NotJson"}


def test_every_operation_and_field_says_what_it_is():
    found = openapi.document(takes_pushes=True)
    operations = [one for path in found["paths"].values() for one in path.values()]
    operations = [one for one in operations if isinstance(one, dict)]
    assert len({one["operationId"] for one in operations}) == len(operations)
    assert all(one["summary"].endswith(".") for one in operations)
    for name, schema in found["components"]["schemas"].items():
        for field, one in schema["properties"].items():
            assert one.get("description") or "$ref" in one, f"{name}.{field}"


@pytest.mark.parametrize("takes_pushes", [False, True])
def test_the_document_has_every_route_and_no_other(takes_pushes):
    made = flask.Flask("any")
    made.register_blueprint(api.blueprint(api.Source(lambda now: []), lambda: NOON, api.Status()))
    if takes_pushes:
        made = agent(BUDGETS)
    routes = {
        (re.sub(r"<(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in made.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if rule.rule not in ("/openapi.json", "/metrics") and "<path:" not in rule.rule
    }
    if takes_pushes:
        routes.add((push.PATHS[0], "post"))
    found = made.test_client().get("/openapi.json").json
    described = {
        (path, method)
        for path, operations in found["paths"].items()
        for method in operations
        if method != "parameters"
    }
    assert described == routes


def test_bounds_in_the_document_are_those_of_the_code():
    paths = openapi.document()["paths"]
    for path, most, usual in (
        ("/api/teams/{name}/top", api.PLACES_MAX, api.PLACES),
        ("/api/events", api.EVENTS_MAX, api.EVENTS),
    ):
        (count,) = (one for one in paths[path]["get"]["parameters"] if one["name"] == "count")
        assert (count["schema"]["maximum"], count["schema"]["default"]) == (most, usual)
    (step,) = (
        one for one in paths["/api/teams/{name}/history"]["get"]["parameters"]
        if one["name"] == "step"
    )  # fmt: skip
    assert step["schema"]["minimum"] == step["schema"]["multipleOf"] == query.MINUTE_S
    assert step["schema"]["maximum"] == query.STEP_MAX_S
    assert str(query.POINTS_MAX) in step["description"]
    assert str(query.POINTS) in step["description"]


# the API is as described


@pytest.mark.parametrize(
    ("make", "name"),
    [
        pytest.param(lambda: agent(BUDGETS, is_full=True), None, id="any name"),
        pytest.param(lambda: agent(BUDGETS, is_full=True), KNOWN, id="a team"),
        pytest.param(lambda: agent(BUDGETS, is_full=True), "shop", id="a name of two"),
        pytest.param(lambda: agent(BUDGETS), KNOWN, id="no history"),
        pytest.param(lambda: agent([], is_full=True), None, id="no teams"),
    ],
)
def test_any_call_is_answered_as_the_document_says(make: Callable[[], flask.Flask], name):
    fixed = {} if name is None else {"parameters": {"path.name": name}}
    schema = schemathesis.openapi.from_wsgi("/openapi.json", make(), config=config(**fixed))
    answers = fuzz(schema)
    assert answers["GET /api/teams", 200]
    assert answers["POST /api/v1/evaluate", 200]
    assert not [status for _, status in answers if status == 500]


def test_with_a_team_and_its_past_the_fuzzing_sees_every_answer():
    made = agent(BUDGETS, is_full=True)
    fixed = config(parameters={"path.name": KNOWN, "query.namespace": "default"})
    answers = fuzz(schemathesis.openapi.from_wsgi("/openapi.json", made, config=fixed))
    for path in ("", "/history", "/top"):
        assert answers[f"GET /api/teams/{{name}}{path}", 200]
    assert answers["GET /api/teams/{name}/history", 400]


def test_when_whoever_keeps_the_past_is_away_it_is_a_503_as_described():
    door = Gate([Budget.from_manifest(one) for one in BUDGETS])
    source = full_source(door)
    source.records.trouble = "prometheus http://prometheus:9090: connection refused"
    made = app.create_app(door, Sender(), clock=lambda: NOON, source=source, evaluates=True).site
    # An answer of 503 is a fault only where nobody has described it.
    described = {"not_a_server_error": {"expected-statuses": ["2xx", "4xx", "503"]}}
    named = {"path.name": KNOWN, "query.namespace": "default"}
    fixed = config(5, parameters=named, checks=described)
    schema = schemathesis.openapi.from_wsgi("/openapi.json", made, config=fixed)
    assert fuzz(schema.include(path_regex="teams/|events"))["GET /api/teams/{name}/top", 503]


@pytest.fixture
def controller_like() -> Iterator[str]:
    """An application with the read-only part alone, behind waitress; gives its URL."""
    door = Gate([Budget.from_manifest(one) for one in BUDGETS])
    made = flask.Flask("controller", static_folder=None)
    made.register_blueprint(api.blueprint(full_source(door), lambda: NOON, api.Status()))
    api.errors_as_json(made, made.logger, metrics.Metrics())
    server = waitress.server.create_server(made, host="127.0.0.1", port=0, threads=4)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.effective_port}"

    def end() -> None:
        server.task_dispatcher.shutdown()
        for channel in list(server.active_channels.values()):
            channel.handle_close()
        server.close()

    # In the server's own thread: its loop ends when nothing is open.
    server.trigger.pull_trigger(end)
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_the_same_holds_behind_waitress(controller_like):
    schema = schemathesis.openapi.from_url(f"{controller_like}/openapi.json", config=config(10))
    answers = fuzz(schema)
    assert answers["GET /api/teams", 200]
    assert not [label for label, _ in answers if "evaluate" in label]


def test_a_real_process_answers_so_and_nobody_without_the_token(sluice, tmp_path: Path):
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    server: Sluice = sluice(BUDGETS, "http://127.0.0.1:9", args=["--auth", f"bearer:{file}"])
    document = server.get("/openapi.json", {"Authorization": f"Bearer {TOKEN}"}).json
    # Here nobody is let in without a token.
    document["security"].remove({})
    asking = {"auth": {"openapi": {"bearer": {"bearer": TOKEN}, "basic": {
        "username": "anybody", "password": TOKEN}}}}  # fmt: skip
    fixed = config(10, **asking, parameters={"path.name": KNOWN})
    schema = schemathesis.openapi.from_dict(document, config=fixed)
    schema.config.update(base_url=server.url)
    answers = fuzz(schema)
    assert answers["GET /api/teams", 200]
    assert answers["GET /api/teams", 401]
    assert answers["GET /api/teams/{name}", 200]
    assert not answers["GET /api/health", 401]
