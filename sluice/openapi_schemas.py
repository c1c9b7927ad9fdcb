"""What the REST API says, as JSON Schema: the `components.schemas` of its OpenAPI document.

Strict where an answer is: what a schema does not name does not come. The health of a process has
parts of its own, and problems are as various as budgets.
"""

from sluice import policy

Schema = dict[str, object]

ACTIONS = [action.word for action in policy.Action]
SIZE_MAX = 2**63 - 1
INSTANT = "2026-11-23T12:00:00Z"


def ref(name: str) -> Schema:
    """A schema of this document, by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def text(words: str, **more: object) -> Schema:
    """A string."""
    return {"type": "string", "description": words, **more}


def whole(words: str, **more: object) -> Schema:
    """A whole number that is not negative. It may be above 2^53, and is exact."""
    return {"type": "integer", "minimum": 0, "description": words, **more}


def instant(words: str) -> Schema:
    """An instant in UTC."""
    return text(words, format="date-time", examples=[INSTANT])


def or_null(schema: Schema) -> Schema:
    """The schema, or null."""
    return {**schema, "type": [schema["type"], "null"]}


def array(items: Schema, words: str) -> Schema:
    """A list."""
    return {"type": "array", "items": items, "description": words}


def record(words: str, must: dict[str, Schema], may: dict[str, Schema] | None = None) -> Schema:
    """An object with the fields that it must have, those that it may have, and no other."""
    return {
        "type": "object",
        "description": words,
        "properties": must | (may or {}),
        "required": list(must),
        "additionalProperties": False,
    }


NAME = text("The budget's name.", examples=["backend-team"])
NAMESPACE = text("The namespace of the budget itself.", examples=["default"])
OUTCOMES = {
    "received": "What came in.",
    "forwarded": "What upstream took; this is usage.",
    "sampled": "Left out in the throttle band.",
    "dropped": "Dropped over the limit.",
    "refused": "Refused by upstream, to be sent again.",
}

COUNT = record(
    "Entries, and the bytes in them.",
    {"entries": whole("Entries."), "bytes": whole("Bytes of lines and structured metadata.")},
)
COUNTS = record(
    "What became of what came in: received = forwarded + sampled + dropped + refused, when nothing"
    " is in flight. Of this process since its ledger began; on controller and dashboard the"
    " cluster's of the open day.",
    {name: {**ref("Count"), "description": words} for name, words in OUTCOMES.items()},
)
FORECAST = record(
    "What is expected, from what the team has been sending.",
    {
        "bytesPerSecond": whole("Bytes offered per second in the last minutes."),
        "usualBytesPerSecond": whole("Bytes offered per second in the last day."),
        "trend": text("The first by the second.", enum=["rising", "steady", "falling"]),
        "dayExhausted": or_null(instant("When the daily limit will be spent; null: not today.")),
        "monthExhausted": or_null(
            instant("When the monthly limit will be spent; null: not this month.")
        ),
    },
)
TEAM = record(
    "A team: its budget, its usage and what happens to its entries.",
    {
        "name": NAME,
        "namespace": NAMESPACE,
        "namespaces": array(
            {"type": "string"}, "The namespaces whose streams are charged to the team."
        ),
        "timeZone": text("The zone of its days and months.", examples=["Europe/Berlin"]),
        "enforcement": text(
            "DryRun: all passes, and what would have happened is counted.",
            enum=["Enforce", "DryRun"],
        ),
        "dailyLimit": whole("Bytes a day.", maximum=SIZE_MAX, examples=[1_000_000]),
        "monthlyLimit": or_null(
            whole("Bytes a month; null: no limit.", maximum=SIZE_MAX, examples=[30_000_000])
        ),
        "currentUsage": whole("Bytes forwarded in the open day.", examples=[812_345]),
        "monthlyUsage": whole("Bytes forwarded in the open month.", examples=[9_123_456]),
        "percent": {
            "type": "number",
            "minimum": 0,
            "description": "Usage of the tighter window, rounded down to a tenth of a percent.",
            "examples": [81.2],
        },
        "action": text(
            "What an entry of the team's mean size would get now; nothing hangs on 100 percent.",
            enum=ACTIONS,
        ),
        "dayEnds": instant("When the open day ends."),
        "monthEnds": instant("When the open month ends."),
        "lastUpdated": instant("What moment the figures are of."),
        "counts": ref("Counts"),
    },
    {
        "nodeUsage": whole("On an agent: this node's part of currentUsage."),
        "costPerGiB": {
            "type": "number",
            "minimum": 0,
            "description": "What a GiB costs, if somebody said.",
            "examples": [0.5],
        },
        "forecast": {
            "description": "Where forecasts are made; null before the team was seen.",
            "oneOf": [ref("Forecast"), {"type": "null"}],
        },
    },
)
TEAMS = record(
    "All teams.",
    {
        "time": instant("Now."),
        "teams": array(ref("Team"), "In no order that means anything."),
    },
)
POINT = record(
    "A step of a team's history. Usage is of the windows that were open when it ended; the other"
    " bytes are of the step, by what became of them.",
    {
        "time": instant("When the step ended."),
        "dayUsage": whole("Bytes of the day that was open."),
        "monthUsage": whole("Bytes of the month that was open."),
        **{name: whole(words) for name, words in OUTCOMES.items() if name != "received"},
    },
)
HISTORY = record(
    "What a team used, and what became of its entries, step by step.",
    {
        "name": NAME,
        "namespace": NAMESPACE,
        "from": instant("The first step ends after it."),
        "to": instant("The last step does not end after it."),
        "stepSeconds": whole("The length of a step.", minimum=60, multipleOf=60),
        "points": array(
            ref("Point"), "Oldest first. Steps of which nothing is known are left out."
        ),
    },
)
PLACE = record(
    "Where bytes came from.",
    {
        "name": text("A namespace or an application.", examples=["checkout"]),
        "bytes": whole("Bytes forwarded."),
    },
)
TOP = record(
    "Who ate it: where a team's bytes came from since a moment.",
    {
        "name": NAME,
        "namespace": NAMESPACE,
        "since": instant("The begin of the open day."),
        "namespaces": array(ref("Place"), "The largest first."),
        "apps": array(ref("Place"), "The largest first."),
    },
)
EVENT = record(
    "Something that happened to a team.",
    {
        "time": instant("When."),
        "namespace": text("The budget's namespace; empty: no team in particular."),
        "name": text("The budget's name; empty: no team in particular."),
        "type": text("As in Kubernetes.", enum=["Normal", "Warning"]),
        "reason": text("A word for programs.", examples=["Exceeded"]),
        "message": text("A sentence for people."),
    },
)
EVENTS = record("What happened.", {"events": array(ref("Event"), "Newest first.")})
HEALTH: Schema = {
    "type": "object",
    "description": "What the process says of itself; each kind of process has further parts.",
    "properties": {
        "status": text("degraded: there are problems or complaints.", enum=["ok", "degraded"]),
        "ready": {"type": "boolean", "description": "What /ready would say."},
        "missing": text("Why it is not ready; empty when it is."),
        "problems": array({"type": "object"}, "Budgets that cannot be used as they are, and why."),
        "complaints": {
            "type": "object",
            "description": "What is wrong with a part of the process, by the name of the part.",
            "additionalProperties": text("A sentence for people."),
        },
        "reloads": record(
            "How often budgets were read anew.",
            {"applied": whole("With success."), "refused": whole("With a refusal.")},
        ),
        "clockSteps": whole("Jumps of the wall clock by more than a minute."),
        "reconciliation": {
            "type": "object",
            "description": "Of a process that takes pushes: bytes sent upstream by how their charge"
            " ended; with --upstream-metrics also what upstream received, what was charged, and"
            " why they differ.",
            "properties": {
                "settledBytes": {"type": "object", "additionalProperties": {"type": "integer"}},
                "tenants": array({"type": "string"}, "Those of upstream that are compared."),
                "error": {"type": ["string", "null"], "description": "Why upstream's page is bad."},
                "since": text("When both sides began."),
                "checked": text("When upstream's counter was read last."),
                "counterResets": whole("How often upstream's counter began again."),
                "receivedBytes": whole("By upstream's counter."),
                "chargedBytes": whole("What became usage."),
                "differenceBytes": {"type": "integer", "description": "received - charged."},
                "words": array({"type": "string"}, "The same in sentences, with the reasons."),
            },
        },
    },
    "required": [
        "status",
        "ready",
        "missing",
        "problems",
        "complaints",
        "reloads",
        "clockSteps",
    ],
    "additionalProperties": True,
}
ERROR = record(
    "Why there is no other answer.",
    {
        "error": text("What, where, and the two numbers that disagree."),
        "status": whole("The HTTP status.", minimum=400, maximum=599),
    },
)

DRY_RUN: Schema = {"type": "boolean", "default": False, "description": "Charge nothing."}
SIZE = whole("Bytes of an entry.", maximum=SIZE_MAX, examples=[512])
ACTION = text("What to do with the entry.", enum=ACTIONS)
CALL = record(
    "An entry that somebody else forwards.",
    {"namespace": text("Where it comes from.", examples=["default"]), "size": SIZE},
    {"dryRun": DRY_RUN},
)
VERDICT = record(
    "What becomes of an entry.",
    {"action": ACTION},
    {
        "sampleRate": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "description": "With throttle: the share of entries to keep.",
        },
        "unbudgeted": {"const": True, "description": "No budget governs the namespace."},
    },
)
CALLS = record(
    "Entries that somebody else forwards: namespaces[i] and sizes[i] make one. The sizes are"
    f" {SIZE_MAX} bytes together at most.",
    {
        "namespaces": array(text("Where it comes from."), "One for each entry."),
        "sizes": array(SIZE, "One for each entry."),
    },
    {"dryRun": DRY_RUN},
)
VERDICTS = record(
    "What becomes of entries.", {"actions": array(ACTION, "One for each entry, in their order.")}
)

SHOWN: dict[str, Schema] = {
    "Count": COUNT,
    "Counts": COUNTS,
    "Forecast": FORECAST,
    "Team": TEAM,
    "Teams": TEAMS,
    "Point": POINT,
    "History": HISTORY,
    "Place": PLACE,
    "Top": TOP,
    "Event": EVENT,
    "Events": EVENTS,
    "Health": HEALTH,
    "Error": ERROR,
}
JUDGED: dict[str, Schema] = {
    "Call": CALL, "Verdict": VERDICT, "Calls": CALLS, "Verdicts": VERDICTS,
}  # fmt: skip
