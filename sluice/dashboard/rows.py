"""Rows: the overview's table as HTML. A row is made anew only where its line is another one."""

import collections
import html
from collections.abc import Mapping

import jinja2
import markupsafe

from sluice.dashboard import views

Made = tuple[views.Line, str]


class Rows:
    """The rows of one table after the other; what is kept is the one asked for last.

    Args:
        template: of a row, with a field such as {name} for each text of a line, and {key}.

    Threads: any number.
    """

    def __init__(self, template: jinja2.Template) -> None:
        self._patterns = {
            has_cost: template.render(has_cost=has_cost) for has_cost in (False, True)
        }
        self._kept: tuple[bool, dict[str, Made]] = (False, {})

    def of(self, lines: Mapping[str, views.Line], *, has_cost: bool) -> markupsafe.Markup:
        """The lines by key, in their order."""
        # Replaced whole: two who ask at once make the same rows twice, and no harm.
        kept_cost, kept = self._kept
        if kept_cost is not has_cost:
            kept = {}
        pattern, made = self._patterns[has_cost], {}
        for key, line in lines.items():
            known = kept.get(key)
            made[key] = known if known and known[0] is line else (line, _row(pattern, key, line))
        self._kept = has_cost, made
        return markupsafe.Markup("\n".join(row for _, row in made.values()))

    def empty(self, *, has_cost: bool) -> markupsafe.Markup:
        """A row without texts, for the browser to copy."""
        nothing = collections.defaultdict(str, dayBar="0", monthBar="0")
        return markupsafe.Markup(self._patterns[has_cost].format_map(nothing))


def _row(pattern: str, key: str, line: views.Line) -> str:
    escaped = {name: html.escape(text) for name, text in line.items()}
    return pattern.format_map(escaped | {"key": html.escape(key)})
