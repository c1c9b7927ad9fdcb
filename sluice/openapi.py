"""The OpenAPI document of the REST API, written by hand: what /openapi.json says.

Tests hold it against the routes, and fuzz the API by it.
"""

import sluice
from sluice import openapi_schemas as schemas
from sluice.openapi_schemas import Schema, ref

Operation = dict[str, object]

ABOUT = """\
Log budgets: byte budgets of teams, enforced between log shippers and Loki.

The same API is served by `sluice run`, by the agent (what one node sees), by the controller and by
the dashboard (the whole cluster). All sizes are whole numbers of bytes and exact; they may be above
2^53, where a double is not. Instants are RFC 3339; those that come out are in UTC.

Errors are JSON with the same two fields everywhere. 405 goes with an Allow header, 503 with
Retry-After. Parameters that are not known are refused.

`--auth` says who may call: everybody, whoever sends a token, or whoever comes through an
authenticating proxy. /api/health, /ready and /metrics are open to all, and so are pushes."""

ERRORS = {
    400: ("BadRequest", "A parameter or the body cannot be understood; the error names it."),
    401: ("Unauthorized", "No token, the wrong one, or not through the proxy of --auth."),
    403: (
        "WrongHost",
        "It came under a name that is not this server's (--allowed-host), or another site's page"
        " made a browser send it.",
    ),
    404: ("NotFound", "There is no such team, or this process does not keep what was asked for."),
    409: ("Ambiguous", "Teams in several namespaces have this name: choose with `namespace`."),
    413: ("TooLarge", "The push is larger than --max-body, --max-decoded or --max-memory allow."),
    415: ("NotJson", "The Content-Type is not application/json."),
    503: ("Unavailable", "Whoever knows does not answer now, or not yet: ask again."),
}
TAKES_TOKEN: list[dict[str, list[str]]] = [{}, {"bearer": []}, {"basic": []}]
DAY_POINTS = "Points are at most 2000; without it, as few seconds as make 300 points."


def document(*, takes_pushes: bool = False) -> dict[str, object]:
    """The OpenAPI 3.1 document of a process.

    Args:
        takes_pushes: it is an agent or `run`, which evaluates, too.
    """
    paths = {**READ, **(JUDGE if takes_pushes else {})}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sluice",
            "version": sluice.__version__,
            "description": ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": TAKES_TOKEN,
        "tags": [{"name": name, "description": words} for name, words in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas.SHOWN | (schemas.JUDGED if takes_pushes else {}),
            "responses": {name: failure(status) for status, (name, _) in ERRORS.items()},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "With --auth bearer:FILE, the token in FILE.",
                },
                "basic": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "The same token as password of any user, for browsers.",
                },
            },
        },
    }


TAGS = {
    "teams": "Budgets, usage, history and events.",
    "process": "The process itself.",
    "entries": "Entries: pushed, or judged for those who forward them by themselves.",
}


def failure(status: int) -> Operation:
    """A response that is an error."""
    name, words = ERRORS[status]
    found: Operation = {"description": words, "content": json_of("Error")}
    if name == "Unavailable":
        found["headers"] = {"Retry-After": header("Seconds to wait.")}
    return found


def header(words: str) -> Operation:
    """A header of a response."""
    return {"description": words, "schema": {"type": "string"}}


def json_of(name: str, **more: object) -> Operation:
    """A body that is JSON of this schema."""
    return {"application/json": {"schema": ref(name), **more}}


def operation(
    tag: str, name: str, words: str, answer: str, *failures: int, **more: object
) -> Operation:
    """An operation that answers 200 with JSON of a schema, or with one of these errors."""
    ok = {"description": words, "content": json_of(answer)}
    errors = {str(one): {"$ref": f"#/components/responses/{ERRORS[one][0]}"} for one in failures}
    return {
        "tags": [tag],
        "operationId": name,
        "summary": words,
        **more,
        "responses": {"200": ok, **errors},
    }


def parameter(name: str, words: str, schema: Schema, place: str = "query") -> Operation:
    """A parameter; in the path it is required."""
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "description": words,
        "schema": schema,
    }


def count(default: int, most: int) -> Operation:
    """The parameter that says how many."""
    schema: Schema = {"type": "integer", "minimum": 1, "maximum": most, "default": default}
    return parameter("count", "How many at most.", schema)


TEXT: Schema = {"type": "string"}
INSTANT: Schema = {"type": "string", "format": "date-time"}
TEAM = parameter("name", "The team: its budget's name.", {"type": "string", "minLength": 1}, "path")
NAMESPACE = parameter(
    "namespace", "The namespace of the team's budget, where several have the name.", TEXT
)
STEP: Schema = {"type": "integer", "minimum": 60, "maximum": 2_678_400, "multipleOf": 60}

KEPT = "Kept by `sluice run` and by the dashboard; else 404."
# What asking for one team may end with.
OF_A_TEAM = 400, 401, 403, 404, 409, 503

READ: dict[str, object] = {
    "/ready": {
        "get": {
            "tags": ["process"],
            "operationId": "ready",
            "summary": "Whether the process does its work; the error says what it waits for.",
            "security": [],
            "responses": {
                "200": {
                    "description": "It does.",
                    "content": {"text/plain": {"schema": {"const": "ready\n"}}},
                },
                "503": {"$ref": "#/components/responses/Unavailable"},
            },
        }
    },
    "/api/health": {
        "get": operation(
            "process",
            "health",
            "What the process depends on, and what is wrong with budgets.",
            "Health",
            403,
            security=[],
        )
    },
    "/api/teams": {"get": operation("teams", "teams", "All teams.", "Teams", 400, 401, 403, 503)},
    "/api/teams/{name}": {
        "parameters": [TEAM, NAMESPACE],
        "get": operation("teams", "team", "One team.", "Team", *OF_A_TEAM),
    },
    "/api/teams/{name}/history": {
        "parameters": [TEAM, NAMESPACE],
        "get": operation(
            "teams",
            "history",
            "What a team used, and what became of its entries, step by step.",
            "History",
            *OF_A_TEAM,
            description=KEPT,
            parameters=[
                parameter("from", "RFC 3339; without it, the begin of the open day.", INSTANT),
                parameter("to", "RFC 3339, after `from`; without it, now.", INSTANT),
                parameter("step", f"Seconds, a multiple of 60. {DAY_POINTS}", STEP),
            ],
        ),
    },
    "/api/teams/{name}/top": {
        "parameters": [TEAM, NAMESPACE],
        "get": operation(
            "teams",
            "top",
            "The namespaces and applications that most bytes of the open day came from.",
            "Top",
            *OF_A_TEAM,
            description="Kept by `sluice run` and, from Prometheus, by the dashboard; else 404.",
            parameters=[count(10, 100)],
        ),
    },
    "/api/events": {
        "get": operation(
            "teams",
            "events",
            "What happened, newest first: of all teams, or of one.",
            "Events",
            *OF_A_TEAM,
            description=KEPT,
            parameters=[
                parameter("team", "The name of a team.", TEXT),
                parameter("namespace", "The namespace of that team's budget.", TEXT),
                count(100, 1000),
            ],
        )
    },
}

CHARGED = (
    "What is allowed or throttled is charged in full, and at once. For callers that forward by"
    " themselves; what is pushed is judged and charged by the push."
)
PUSH: Operation = {
    "tags": ["entries"],
    "operationId": "push",
    "summary": "Loki's push: entries over a budget are taken out, the rest goes upstream.",
    "description": "Protobuf with snappy, or JSON. What upstream answers is the answer.",
    "security": [],
    "requestBody": {
        "required": True,
        "content": {"application/x-protobuf": {}, "application/json": {}},
    },
    "responses": {
        "204": {"description": "Taken, or all of it was over a budget."},
        "400": {"$ref": "#/components/responses/BadRequest"},
        "403": {
            "description": "A page of another site made a browser send it, in a type that needs no"
            " answer to OPTIONS (text/plain, a form's, or none)."
        },
        "413": {"$ref": "#/components/responses/TooLarge"},
        "502": {"description": "Upstream answered with what is no answer to a push."},
        "503": {"$ref": "#/components/responses/Unavailable"},
        "508": {"description": "The push comes from this Sluice itself: upstream leads back."},
        "default": {"description": "What upstream said."},
    },
}


def judging(name: str, words: str, call: str, answer: str, example: object) -> Operation:
    """An operation that judges entries."""
    body = {"required": True, "content": json_of(call, example=example)}
    failures = (400, 401, 403, 404, 413, 415, 503)
    return operation(
        "entries", name, words, answer, *failures, description=CHARGED, requestBody=body
    )


JUDGE: dict[str, object] = {
    "/api/v1/evaluate": {
        "post": judging(
            "evaluate",
            "What would become of an entry, by its namespace and size.",
            "Call",
            "Verdict",
            {"namespace": "default", "size": 512},
        )
    },
    "/api/v1/evaluate/batch": {
        "post": judging(
            "evaluateBatch",
            "The same for thousands of entries; a bad one refuses them all.",
            "Calls",
            "Verdicts",
            {"namespaces": ["default", "shop"], "sizes": [512, 1024]},
        )
    },
    "/loki/api/v1/push": {"post": PUSH},
}
