"""A team's budget, read from a TeamBudget manifest or refused with the field at fault.

Rule 1: what the CRD refuses is refused here, and an unknown IANA zone besides; the CRD in
deploy/ and this file change together.
"""

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sluice import errors, fields, quantity, window

API_VERSION = "tco.io/v1"
KIND = "TeamBudget"
DEFAULT_NAMESPACE = "default"

ZONE_MAX = 64
NAMESPACES_MAX = 256
MATCH_LABELS_MAX = 16
LABEL_VALUE_MAX = 2048  # Loki's default for max_label_value_length
SAMPLE_RATE = 0.5
COST_MAX = 1_000_000_000

ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+\-/]*")
# What a team may be told of, see notify/rules.py; "none" stands for nothing.
NOTIFY = "tco.io/notify"
RULES = ("throttle", "drop", "recovery", "forecast")

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)

TOP_FIELDS = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})
# fmt: off
SPEC_FIELDS = frozenset({
    "dailyLimit", "monthlyLimit", "namespaces", "selector", "timeZone", "enforcement", "onStale",
    "throttle", "mode", "costPerGiB",
})
# Source: ObjectMeta, Kubernetes 1.32.
METADATA_FIELDS = frozenset({
    "name", "generateName", "namespace", "selfLink", "uid", "resourceVersion", "generation",
    "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "labels",
    "annotations", "ownerReferences", "finalizers", "managedFields",
})
# fmt: on


@dataclass(frozen=True, slots=True)
class Budget:
    """What one team may send: limits in bytes, and which streams it is charged for.

    `namespaces` is None when the manifest names none. `match_labels` are sorted. `created`
    is in UTC to the second, "" when the manifest does not say, as in a file. `notify` are the
    RULES that the team is told of, None where the process's own setting holds.
    """

    name: str
    namespace: str
    daily_limit: int
    monthly_limit: int | None = None
    namespaces: tuple[str, ...] | None = None
    match_labels: tuple[tuple[str, str], ...] = ()
    time_zone: str = "UTC"
    dry_run: bool = False
    on_stale: str = "FairShare"
    sample_rate: float = SAMPLE_RATE
    created: str = ""
    cost_per_gib: float | None = None
    notify: tuple[str, ...] | None = None

    @property
    def key(self) -> str:
        """What usage belongs to: "namespace/name"."""
        return f"{self.namespace}/{self.name}"

    @classmethod
    def from_manifest(
        cls, manifest: object, *, tolerated: list[errors.BadBudget] | None = None
    ) -> "Budget":
        """Read a TeamBudget manifest.

        Args:
            manifest: the mapping that YAML or JSON gave.
            tolerated: for objects that the API server has already taken. What Sluice can
                do without is appended here instead of raised: a field of a later version,
                and an unknown zone (`field` is "spec.timeZone"), for which UTC stands in.

        Raises:
            BadBudget: the CRD would refuse it, or nobody knows its zone; names the field.
        """
        top = fields.Section.of("", manifest, tolerated)
        top.constant("apiVersion", API_VERSION)
        top.constant("kind", KIND)
        top.only(TOP_FIELDS)
        metadata, spec = top.section("metadata"), top.section("spec")
        metadata.only(METADATA_FIELDS)
        name, namespace = _identity(metadata)
        spec.only(SPEC_FIELDS)
        if spec.choice("mode", ("Eventual", "Strict")) == "Strict":
            raise errors.BadBudget(
                "Strict (no overshoot, by grants) is not built yet; use Eventual", "spec.mode"
            )
        return cls(
            name=name,
            namespace=namespace,
            daily_limit=_daily_limit(spec),
            monthly_limit=_monthly_limit(spec),
            namespaces=_namespaces(spec),
            match_labels=_match_labels(spec),
            time_zone=_time_zone(spec),
            dry_run=spec.choice("enforcement", ("Enforce", "DryRun")) == "DryRun",
            on_stale=spec.choice("onStale", ("FairShare", "Allow", "Drop")),
            sample_rate=_sample_rate(spec),
            created=_created(metadata),
            cost_per_gib=_cost_per_gib(spec),
            notify=_notify(metadata),
        )


def read_object(
    found: Mapping[str, Any],
) -> tuple[Budget | None, list[errors.BadBudget]]:
    """Read a TeamBudget that the API server has taken; its lists leave apiVersion and kind out.

    Returns the budget, None where it cannot be read at all, and what is wrong with it.
    """
    wrong: list[errors.BadBudget] = []
    manifest = {"apiVersion": API_VERSION, "kind": KIND, **found}
    try:
        return Budget.from_manifest(manifest, tolerated=wrong), wrong
    except errors.BadBudget as error:
        return None, [error]


def object_key(found: Mapping[str, Any]) -> str:
    """The key of a TeamBudget that the API server has taken."""
    metadata = found["metadata"]
    return f"{metadata['namespace']}/{metadata['name']}"


def key_of(manifest: object) -> str | None:
    """Read the key of a TeamBudget manifest that may be wrong everywhere else.

    None when it cannot be read, or the manifest is of another kind.
    """
    try:
        top = fields.Section.of("", manifest)
        top.constant("kind", KIND)
        name, namespace = _identity(top.section("metadata"))
    except errors.BadBudget:
        return None
    return f"{namespace}/{name}"


def _identity(metadata: fields.Section) -> tuple[str, str]:
    name = metadata.dns_name("name", fields.NAME)
    return name, metadata.dns_name("namespace", fields.NAMESPACE, absent=DEFAULT_NAMESPACE)


def _daily_limit(spec: fields.Section) -> int:
    value = spec.values.get("dailyLimit")
    if value is None:
        raise errors.BadBudget("missing; bytes per day, such as 10Gi", "spec.dailyLimit")
    return quantity.parse(value, "spec.dailyLimit")


def _monthly_limit(spec: fields.Section) -> int | None:
    value = spec.values.get("monthlyLimit")
    if value is None:
        return None
    limit, daily = quantity.parse(value, "spec.monthlyLimit"), _daily_limit(spec)
    if limit < daily:
        raise errors.BadBudget(
            f"{limit} bytes is less than spec.dailyLimit, {daily} bytes", "spec.monthlyLimit"
        )
    return limit


def _namespaces(spec: fields.Section) -> tuple[str, ...] | None:
    field = "spec.namespaces"
    value = spec.values.get("namespaces")
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        raise errors.BadBudget(f"{fields.shown(value)} where a list of namespaces is due", field)
    if not 1 <= len(value) <= NAMESPACES_MAX:
        raise errors.BadBudget(f"{len(value)} namespaces, not 1 to {NAMESPACES_MAX}", field)
    place: dict[str, int] = {}
    for i, namespace in enumerate(value):
        here = f"{field}[{i}]"
        if not isinstance(namespace, str):
            raise errors.BadBudget(fields.not_text(value, i), here)
        fields.check_name(namespace, fields.NAMESPACE, here)
        if namespace in place:
            raise errors.BadBudget(f"{namespace!r} is in {field}[{place[namespace]}] too", here)
        place[namespace] = i
    return tuple(place)


def _match_labels(spec: fields.Section) -> tuple[tuple[str, str], ...]:
    selector = spec.section("selector")
    selector.only(("matchLabels",))
    labels = selector.section("matchLabels")
    # The API server drops a null before it looks, here as everywhere.
    given = {name: value for name, value in labels.values.items() if value is not None}
    count = len(given)
    if count > MATCH_LABELS_MAX:
        raise errors.BadBudget(f"{count} labels, more than {MATCH_LABELS_MAX}", labels.path)
    pairs = []
    for name, value in given.items():
        shown = fields.shown(name)
        if not isinstance(name, str) or not isinstance(value, str):
            raise errors.BadBudget(f"{shown}: {fields.not_text(labels.values, name)}", labels.path)
        if not value:
            raise errors.BadBudget(
                f"{shown} is empty, and an empty label is an absent one", labels.path
            )
        if len(value) > LABEL_VALUE_MAX:
            raise errors.BadBudget(
                f"{shown} has {len(value)} characters, more than {LABEL_VALUE_MAX}", labels.path
            )
        pairs.append((name, value))
    return tuple(sorted(pairs))


def _time_zone(spec: fields.Section) -> str:
    field = "spec.timeZone"
    zone = spec.text("timeZone")
    if zone is None:
        return "UTC"
    if len(zone) > ZONE_MAX:
        raise errors.BadBudget(f"{len(zone)} characters, more than {ZONE_MAX}", field)
    if not ZONE.fullmatch(zone):
        raise errors.BadBudget(f"{fields.shown(zone)} is not a zone such as Europe/Berlin", field)
    try:
        window.find_zone(zone)
    except errors.BadBudget as error:
        spec.forgive(error)
        return "UTC"
    return zone


def _sample_rate(spec: fields.Section) -> float:
    throttle = spec.section("throttle")
    throttle.only(("sampleRate",))
    rate = _number(throttle, "sampleRate", 1, "from 0 to 1")
    return SAMPLE_RATE if rate is None else rate


def _cost_per_gib(spec: fields.Section) -> float | None:
    return _number(spec, "costPerGiB", COST_MAX, "such as 0.5")


def _number(section: fields.Section, name: str, most: int, words: str) -> float | None:
    value = section.values.get(name)
    if value is None:
        return None
    field = section.field(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise errors.BadBudget(f"{fields.shown(value)} is not a number {words}", field)
    # Written so that a NaN, which is neither below 0 nor above `most`, is refused too.
    if not 0 <= value <= most:
        raise errors.BadBudget(f"{fields.shown(value)} is not between 0 and {most}", field)
    return float(value)


def _notify(metadata: fields.Section) -> tuple[str, ...] | None:
    """The rules in the annotation. The CRD cannot look at it, so a bad one is forgiven."""
    annotations = metadata.section("annotations")
    value = annotations.values.get(NOTIFY)
    if value is None:
        return None
    try:
        if not isinstance(value, str):
            raise errors.BadBudget(
                fields.not_text(annotations.values, NOTIFY), f"metadata.annotations[{NOTIFY}]"
            )
        return parse_rules(value, f"metadata.annotations[{NOTIFY}]")
    except errors.BadBudget as error:
        metadata.forgive(error)
        return None


def parse_rules(value: object, field: str) -> tuple[str, ...]:
    """Read RULES with commas between them, in any order; "none" is ().

    Raises:
        BadBudget: something else; names `field`.
    """
    if not isinstance(value, str):
        raise errors.BadBudget(f"{fields.shown(value)} is not a string", field)
    given = [word.strip() for word in value.split(",")]
    if given == ["none"]:
        return ()
    for word in given:
        if word not in RULES:
            raise errors.BadBudget(
                f"{fields.shown(word)} is not one of {', '.join(RULES)}, and not none", field
            )
    return tuple(rule for rule in RULES if rule in given)


def _created(metadata: fields.Section) -> str:
    """When the object was created, in UTC, so that two ages compare as text."""
    value = metadata.values.get("creationTimestamp")
    if value is None:
        return ""
    field = metadata.field("creationTimestamp")
    # Some YAML readers turn an unquoted timestamp into a datetime.
    text = value.isoformat() if isinstance(value, datetime.datetime) else value
    if not isinstance(text, str) or not TIMESTAMP.fullmatch(text):
        raise errors.BadBudget(
            f"{fields.shown(value)} is not a time such as 2026-11-22T10:00:00Z", field
        )
    try:
        return window.iso(datetime.datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError) as error:
        raise errors.BadBudget(f"{fields.shown(text)}: {error}", field) from None
