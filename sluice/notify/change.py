"""Changes: what a sink has yet to be told, from what it was told last and what holds. Pure.

What a sink was told of a team counts while its window is open. `level` is what holds, `told` what
counts (allow if nothing does), `last` what was told last, in whatever window:

    level, compared           that rule is wanted        else, recovery wanted   else
    ------------------------  -------------------------  ----------------------  ---------------
    level > told              say throttle or drop       if level < last: say    if level < last:
                                                         recovery to level       level, silently
    level == told             nothing                    nothing                 nothing
    level < told, allow       -                          say recovery            allow, silently
    level < told, throttle    -                          say recovery to         throttle,
                                                         throttle                silently
    allow, and the window of  -                          say recovery            allow, silently
    `last` has closed

So a team that begins with allow is no news, a recovery is told only to whom the trouble was, what
nobody wanted to hear does not come later in another guise, and a sink that was away is told what
holds and not what it missed.

The forecast is said once a day: that it is gone for an hour is not told, so its return is no news.
Only after the limit was reached in between it may be said again.
"""

from dataclasses import dataclass, replace

from sluice.notify.rules import Condition
from sluice.policy import Action

DROP, THROTTLE, RECOVERY, FORECAST = "drop", "throttle", "recovery", "forecast"


@dataclass(frozen=True, slots=True)
class Said:
    """What a sink was last told of a team: a level and, apart from it, a forecast.

    Windows are keys, `forecast` that of a day; "" is nothing. `at` and `forecast_at` are epoch
    seconds. `dry_run`: the level was one at which no line is lost.
    """

    level: Action = Action.ALLOW
    window: str = ""
    at: float = 0.0
    forecast: str = ""
    forecast_at: float = 0.0
    dry_run: bool = False


NOTHING = Said()


@dataclass(frozen=True, slots=True)
class Change:
    """Something to tell of a team.

    Attributes:
        rule: throttle, drop, recovery or forecast.
        before: the level that was told last.
        condition: what holds now.
    """

    rule: str
    before: Action
    condition: Condition

    @property
    def key(self) -> str:
        """The team's budget: "namespace/name"."""
        return self.condition.key

    @property
    def level(self) -> Action:
        """The level that holds."""
        return self.condition.level

    @property
    def window(self) -> str:
        """Key of the window that this is about."""
        return self.condition.open[0] if self.rule == FORECAST else self.condition.window


def difference(
    said: Said, condition: Condition, wanted: tuple[str, ...], now: float
) -> tuple[list[Change], Said]:
    """What to tell a sink of a team, and what it will have been told then.

    Args:
        wanted: the rules that it is told of.
        now: epoch seconds.
    """
    level = condition.level
    is_over = said.window not in condition.open or (said.dry_run and not condition.dry_run)
    counts = Action.ALLOW if is_over else said.level
    rule, after = "", said
    if level > counts and level.word in wanted:
        rule = level.word
    elif level < said.level and RECOVERY in wanted:
        rule = RECOVERY
    if rule or level < said.level:
        where = condition.window if level else ""
        is_dry = condition.dry_run and level > Action.ALLOW
        after = replace(said, level=level, window=where, at=now, dry_run=is_dry)
    changes = [Change(rule, said.level, condition)] if rule else []
    day = condition.open[0]
    if level is Action.DROP or said.forecast != day:
        after = replace(after, forecast="", forecast_at=0.0)
    if condition.forecast and FORECAST in wanted and said.forecast != day:
        changes.append(Change(FORECAST, said.level, condition))
        after = replace(after, forecast=day, forecast_at=now)
    return changes, after
