"""Source: where the API and the dashboard have their answers from, and what a process says of
itself."""

from collections.abc import Callable
from dataclasses import dataclass, field

from sluice import budget, errors, forecast, usage
from sluice.records import NotKept, Records
from sluice.state_files import StateFiles


class NotFound(errors.SluiceError):
    """No such team."""

    status = 404


class Ambiguous(errors.SluiceError):
    """A team's name that budgets in several namespaces have."""

    status = 409


@dataclass
class Status:
    """What a process says of itself, filled in by whoever runs it.

    Attributes:
        not_ready: why it is not ready, "" when it is; waits_for says so when asked.
        problems: what is wrong with budgets that somebody wrote, as JSON objects; more_problems
            finds some when asked.
        parts: further parts of /api/health, by name; each is called for its JSON.
        complaints: what is wrong with something other than a budget, by the name of its part; each
            is called for a sentence, "" when nothing is wrong.
        reloads: budgets read anew, by result: applied or refused.
        clock_steps: jumps of the wall clock by more than a minute.
        state: the files that the process writes; one that cannot be written is a complaint.
    """

    not_ready: str = ""
    waits_for: Callable[[], str] = lambda: ""
    problems: list[dict[str, object]] = field(default_factory=list)
    more_problems: Callable[[], list[dict[str, object]]] = list
    parts: dict[str, Callable[[], object]] = field(default_factory=dict)
    complaints: dict[str, Callable[[], str]] = field(default_factory=dict)
    reloads: dict[str, int] = field(default_factory=lambda: {"applied": 0, "refused": 0})
    clock_steps: int = 0
    state: StateFiles = field(default_factory=StateFiles)

    def __post_init__(self) -> None:
        self.complaints.setdefault("state", self.state.complaint)

    @property
    def missing(self) -> str:
        """Why the process is not ready, "" when it is."""
        return self.not_ready or self.waits_for()

    @property
    def all_problems(self) -> list[dict[str, object]]:
        """What is wrong with budgets, known and found when asked."""
        return [*self.problems, *self.more_problems()]

    def as_json(self) -> dict[str, object]:
        """What /api/health says."""
        missing, problems = self.missing, self.all_problems
        complaints = {name: words for name, ask in self.complaints.items() if (words := ask())}
        found: dict[str, object] = {
            "status": "degraded" if problems or complaints else "ok",
            "ready": not missing,
            "missing": missing,
            "problems": problems,
            "complaints": complaints,
            "reloads": self.reloads,
            "clockSteps": self.clock_steps,
        }
        return found | {name: part() for name, part in self.parts.items()}


@dataclass(frozen=True, slots=True)
class Source:
    """Where the API and the dashboard have their answers from.

    Attributes:
        rows: every team's row at a moment (epoch seconds).
        outlooks: forecasts; None where none are made.
        records: the past; None where it is not kept.
        cost_per_gib: of budgets that name no cost of their own.
    """

    rows: Callable[[float], list[usage.Row]]
    outlooks: forecast.Outlooks | None = None
    records: Records | None = None
    cost_per_gib: float | None = None

    def team(self, name: str, namespace: str | None, now: float) -> usage.Row:
        """The row of a team.

        Raises:
            NotFound: there is none. Ambiguous: there are several, and `namespace` is None.
        """
        found = [
            row
            for row in self.rows(now)
            if row.budget.name == name and namespace in (None, row.budget.namespace)
        ]
        if not found:
            where = "" if namespace is None else f" in namespace {namespace!r}"
            raise NotFound(f"no team {name!r}{where}")
        if len(found) > 1:
            names = ", ".join(sorted(row.budget.namespace for row in found))
            raise Ambiguous(
                f"{len(found)} teams are called {name!r}, in the namespaces {names}:"
                " choose one with ?namespace="
            )
        return found[0]

    def past(self) -> Records:
        """The past.

        Raises:
            NotKept: this process has none.
        """
        if self.records is None:
            raise NotKept("this process keeps no history: ask the dashboard or `sluice run`")
        return self.records

    def cost_of(self, own: budget.Budget) -> float | None:
        """What a GiB of a team costs, if somebody said."""
        return self.cost_per_gib if own.cost_per_gib is None else own.cost_per_gib

    def as_json(self, row: usage.Row) -> dict[str, object]:
        """The TEAM of the API; `costPerGiB` and `forecast` where there are any."""
        found, cost = row.as_json(), self.cost_of(row.budget)
        if cost is not None:
            found["costPerGiB"] = cost
        if self.outlooks is not None:
            outlook = self.outlooks.of(row.budget.key)
            found["forecast"] = None if outlook is None else outlook.as_json()
        return found
