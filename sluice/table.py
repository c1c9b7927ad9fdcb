"""The table: which budget governs which stream. Immutable; a reload builds a new one.

Rule 1: a stream belongs to one budget at most. When several match, the order is: more match
labels, explicit `namespaces`, the budget's own namespace, the budget's name, the older
creationTimestamp, the smaller key.
Rule 2: a budget governs other namespaces than its own only where nobody can use that to
throttle another team: in a file given to `run`, or in Sluice's own namespace.
Rule 3: an empty label is an absent one.
"""

import enum
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sluice import budget, errors

NAMESPACE_LABELS = ("namespace", "k8s_namespace_name", "kubernetes_namespace_name")
APP_LABELS = ("app", "app_kubernetes_io_name", "service_name", "container", "job")
SYSTEM_NAMESPACE = "sluice-system"

# Set by Loki's pattern ingester on the streams that it makes. Any client can set them, too.
LOKI_LABELS = ("__aggregated_metric__", "__pattern__")

# conflicts() looks at so many sets of label names in a namespace for each budget.
SHAPES_MAX = 64

# Sorts after every timestamp: of two budgets the one that does not tell its age is younger.
AGELESS = "~"

Names = tuple[str, ...]


class Claim(enum.IntEnum):
    """Why a budget governs a namespace; the smaller wins."""

    EXPLICIT = 0
    OWN = 1
    NAME = 2


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two budgets that match the same streams of a namespace.

    Budgets are given by their place in the table. `on` is the rule by which `loser` lost.
    `wholly`: it gets nothing in this namespace, for `winner` has the same match labels;
    otherwise it loses only the streams that carry the winner's match labels too.
    """

    loser: int
    winner: int
    namespace: str
    on: str
    wholly: bool


@dataclass(frozen=True, slots=True)
class NotAllowed:
    """A budget that names namespaces it may not govern; it governs its own only."""

    team: int
    namespaces: tuple[str, ...]


# The order of two budgets in one namespace, and of one and the same budget never two.
Rank = tuple[int, Claim, str, str]
Ranked = tuple[Rank, int]
# The budgets of one namespace: by the names of their match labels, then by the values. The
# first of a list governs; the others match nothing that it does not.
Place = dict[Names, dict[Names, list[Ranked]]]


class Table:
    """Finds the budget of a stream or of a namespace.

    Args:
        budgets: their places in the table are their places here.
        trusted: they come from a file given to `run`: each may govern any namespace.
        system_namespace: Sluice's own, whose budgets are trusted as well.
        namespace_labels: the labels that may name a stream's namespace, first present first.
        exempt_loki_streams: no budget governs streams with one of LOKI_LABELS.

    Raises:
        BadBudget: two budgets have the same key.

    Threads: any number may ask at once.
    """

    def __init__(
        self,
        budgets: Iterable[budget.Budget],
        *,
        trusted: bool = True,
        system_namespace: str = SYSTEM_NAMESPACE,
        namespace_labels: Sequence[str] = NAMESPACE_LABELS,
        exempt_loki_streams: bool = False,
    ) -> None:
        self.budgets = tuple(budgets)
        self._exempts_loki_streams = exempt_loki_streams
        self.namespace_labels = tuple(namespace_labels)
        if not self.namespace_labels:
            raise ValueError("0 namespace labels where 1 is the least")
        self.index_of: dict[str, int] = {}
        self._places: dict[str, Place] = {}
        not_allowed = []
        for team, own in enumerate(self.budgets):
            if self.index_of.setdefault(own.key, team) != team:
                raise errors.BadBudget(f"{own.key} is given twice", "metadata.name")
            claims, refused = _claims(own, trusted or own.namespace == system_namespace)
            if refused:
                not_allowed.append(NotAllowed(team, refused))
            self._add(team, own, claims)
        self.not_allowed = tuple(not_allowed)
        for place in self._places.values():
            for by_values in place.values():
                for teams in by_values.values():
                    teams.sort()

    def _add(self, team: int, own: budget.Budget, claims: Mapping[str, Claim]) -> None:
        names = tuple(name for name, _ in own.match_labels)
        values = tuple(value for _, value in own.match_labels)
        for namespace, claim in claims.items():
            rank = (-len(names), claim, own.created or AGELESS, own.key)
            by_values = self._places.setdefault(namespace, {}).setdefault(names, {})
            by_values.setdefault(values, []).append((rank, team))

    def team_of(self, labels: Mapping[str, str]) -> int:
        """Place of the budget that governs a stream with these labels; -1 if none does."""
        if self._exempts_loki_streams and has_loki_label(labels):
            return -1
        place = self._places.get(self.namespace_of(labels), {})
        found = [
            teams[0]
            for names, by_values in place.items()
            if (teams := by_values.get(tuple([labels.get(name, "") for name in names])))
        ]
        return min(found)[1] if found else -1

    def of_namespace(self, namespace: str) -> int:
        """Place of the budget that governs a stream of which only the namespace is known."""
        return self.team_of({self.namespace_labels[0]: namespace})

    def namespace_of(self, labels: Mapping[str, str]) -> str:
        """The namespace that a stream's labels name; "" if they name none."""
        return _first(labels, self.namespace_labels)

    def app_of(self, labels: Mapping[str, str]) -> str:
        """The application that a stream's labels name; "" if they name none."""
        return _first(labels, APP_LABELS)

    @functools.cached_property
    def conflicts(self) -> tuple[Conflict, ...]:
        """For each budget and namespace, the strongest budget that it loses streams to.

        By loser, then by namespace.
        """
        found = [
            Conflict(loser, winner, namespace, on, wholly)
            for namespace, place in self._places.items()
            for loser, winner, on, wholly in _losses(place)
        ]
        return tuple(sorted(found, key=lambda c: (c.loser, c.namespace)))


def has_loki_label(labels: Mapping[str, str]) -> bool:
    """Whether a stream is marked as one that Loki makes itself."""
    return any(labels.get(name) for name in LOKI_LABELS)


def _first(labels: Mapping[str, str], names: Iterable[str]) -> str:
    for name in names:
        if value := labels.get(name):
            return value
    return ""


def _claims(own: budget.Budget, trusted: bool) -> tuple[dict[str, Claim], tuple[str, ...]]:
    """The namespaces that a budget governs, and those that it may not."""
    if own.namespaces is None:
        claims = {own.namespace: Claim.OWN}
        if trusted:
            claims.setdefault(own.name, Claim.NAME)
        return claims, ()
    if trusted:
        return dict.fromkeys(own.namespaces, Claim.EXPLICIT), ()
    refused = tuple(namespace for namespace in own.namespaces if namespace != own.namespace)
    named = len(refused) < len(own.namespaces)
    return {own.namespace: Claim.EXPLICIT if named else Claim.OWN}, refused


def _losses(place: Place) -> Iterator[tuple[int, int, str, bool]]:
    """Loser, winner, rule and whether wholly, for the budgets of one namespace."""
    shapes = sorted(place, key=lambda names: (-len(names), names))[:SHAPES_MAX]
    seen: dict[tuple[Names, Names], dict[Names, Ranked]] = {}
    for names, by_values in place.items():
        for values, ((rank, team), *beaten) in by_values.items():
            for worse, loser in beaten:
                yield loser, team, _rule(rank, worse), True
            mine = dict(zip(names, values, strict=True))
            rivals = (_rival(place, shape, mine, seen) for shape in shapes if shape != names)
            best = min((rival for rival in rivals if rival is not None), default=None)
            if best is not None and best[0] < rank:
                yield team, best[1], _rule(best[0], rank), False


def _rival(
    place: Place,
    shape: Names,
    mine: Mapping[str, str],
    seen: dict[tuple[Names, Names], dict[Names, Ranked]],
) -> Ranked | None:
    """The strongest budget of a shape whose match labels do not contradict `mine`."""
    common = tuple(name for name in shape if name in mine)
    if (shape, common) not in seen:
        strongest = seen.setdefault((shape, common), {})
        for values, teams in place[shape].items():
            shared = tuple(v for name, v in zip(shape, values, strict=True) if name in mine)
            strongest[shared] = min(teams[0], strongest.get(shared, teams[0]))
    return seen[shape, common].get(tuple(mine[name] for name in common))


def _rule(winner: Rank, loser: Rank) -> str:
    """The first rule of the order that tells the two apart."""
    if winner[0] != loser[0]:
        return "more match labels"
    if winner[1] != loser[1]:
        return "explicit namespaces" if winner[1] is Claim.EXPLICIT else "own namespace"
    return "older creationTimestamp" if winner[2] != loser[2] else "smaller key"
