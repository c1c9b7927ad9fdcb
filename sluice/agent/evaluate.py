"""POST /api/v1/evaluate and /api/v1/evaluate/batch: verdicts for callers that forward by
themselves. What is allowed or throttled is charged in full and committed at once.

A call spends a team's budget, so the routes are there with --evaluate only, and no page of another
site can make a browser call them: a browser asks before it sends application/json elsewhere, and is
not answered; what it sends without asking is refused.
"""

from collections.abc import Callable

import flask
import numpy as np
import orjson

from sluice import api, errors, fields, gate, hosts, query
from sluice.policy import Action

PATHS = ("/api/v1/evaluate", "/api/v1/evaluate/batch")
SIZE_MAX = 2**63 - 1
# 30 000 entries and more. As Python objects a body of [{},{},...] takes 24 times as much.
BODY_MAX = 2**20
PARSED_TIMES = 32
JSON_TYPE = "application/json"


class NotJson(errors.SluiceError):
    """A call whose Content-Type is not JSON's."""

    status = 415


def absent() -> flask.Blueprint:
    """The two routes where --evaluate was not given: 404 with what to do."""
    routes = flask.Blueprint("evaluate", __name__)

    def answer() -> flask.Response:
        return api.error_response(
            f"{flask.request.path} is off: start Sluice with --evaluate to have it answered", 404
        )

    for path in PATHS:
        routes.add_url_rule(path, path.rpartition("/")[2], answer, methods=["POST"])
    return routes


def blueprint(
    door: gate.Gate, clock: Callable[[], float], read: Callable[[], bytes]
) -> flask.Blueprint:
    """The two routes; `read` gives the request's body.

    What is asked for behind the question mark is refused: ?dryRun=true must not be charged.
    """
    routes = flask.Blueprint("evaluate", __name__)

    @routes.before_request
    def look() -> None:
        headers = flask.request.headers
        hosts.check_origin(
            headers.get("Origin"), headers.get("Sec-Fetch-Site"), headers.get("Host", "")
        )
        if flask.request.method == "POST" and flask.request.mimetype != JSON_TYPE:
            raise NotJson(
                f"Content-Type: expected {JSON_TYPE}, got {flask.request.mimetype[:80]!r}"
            )

    def judged(
        namespaces: list[str], sizes: list[int], charge: bool
    ) -> tuple[list[int], list[int]]:
        teams = door.resolve(namespaces)
        actions = door.evaluate(teams, np.array(sizes, np.int64), now=clock(), charge=charge)
        return teams.tolist(), actions.tolist()

    def with_room(body: bytes, answer: Callable[[bytes], flask.Response]) -> flask.Response:
        """Answer a call within the bound on what all pushes and calls hold in memory."""
        size = PARSED_TIMES * len(body)
        door.memory.take(size)
        try:
            return answer(body)
        finally:
            door.memory.give(size)

    @routes.post(PATHS[0])
    def evaluate() -> flask.Response:
        api.asked()
        return with_room(read(), one)

    def one(body: bytes) -> flask.Response:
        call = parsed(body, "namespace", "size", "dryRun")
        namespace = checked_namespace(call.get("namespace"), "namespace")
        size = checked_size(call.get("size"), "size")
        (team,), (action,) = judged([namespace], [size], not checked_dry_run(call))
        answer: dict[str, object] = {"action": Action(action).word}
        if team < 0:
            answer["unbudgeted"] = True
        elif action == Action.THROTTLE:
            answer["sampleRate"] = door.sample_rate(team)
        return flask.jsonify(answer)

    @routes.post(PATHS[1])
    def batch() -> flask.Response:
        api.asked()
        return with_room(read(), many)

    def many(body: bytes) -> flask.Response:
        call = parsed(body, "namespaces", "sizes", "dryRun")
        namespaces, sizes = (checked_list(call.get(name), name) for name in ("namespaces", "sizes"))
        if len(namespaces) != len(sizes):
            raise errors.BadRequest(f"{len(namespaces)} namespaces, {len(sizes)} sizes")
        checked = [checked_size(size, f"sizes[{i}]") for i, size in enumerate(sizes)]
        if sum(checked) > SIZE_MAX:
            raise errors.BadRequest(f"sizes: together {sum(checked)}, at most {SIZE_MAX}")
        _, actions = judged(
            [checked_namespace(name, f"namespaces[{i}]") for i, name in enumerate(namespaces)],
            checked,
            not checked_dry_run(call),
        )
        return flask.jsonify({"actions": [Action(action).word for action in actions]})

    return routes


def parsed(body: bytes, *known: str) -> dict[str, object]:
    """The call's JSON object, of known fields only: a misspelt dryRun must not be charged."""
    try:
        call = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise errors.BadRequest(f"the body is not JSON: {error}") from error
    if not isinstance(call, dict):
        raise errors.BadRequest(f"the body is a JSON {type(call).__name__}, not an object")
    query.check_names(call, known, "field")
    return call


def checked_list(value: object, where: str) -> list[object]:
    if not isinstance(value, list):
        raise errors.BadRequest(f"{where}: {fields.shown(value)} is not a list")
    return value


def checked_namespace(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise errors.BadRequest(f"{where}: {fields.shown(value)} is not a string")
    return value


def checked_size(value: object, where: str) -> int:
    if type(value) is not int:
        raise errors.BadRequest(f"{where}: {fields.shown(value)} is not a whole number of bytes")
    if not 0 <= value <= SIZE_MAX:
        raise errors.BadRequest(f"{where}: {value} is not between 0 and {SIZE_MAX}")
    return value


def checked_dry_run(call: dict[str, object]) -> bool:
    value = call.get("dryRun", False)
    if not isinstance(value, bool):
        raise errors.BadRequest(f"dryRun: {fields.shown(value)} is neither true nor false")
    return value
