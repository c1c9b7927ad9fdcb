"""Rows: the overview's table as HTML, in pieces, so that a browser begins before all is made.

A row is made anew only where its line is another one.
"""

import collections
import html
import itertools
from collections.abc import Iterator

import jinja2
import markupsafe

from sluice.dashboard import views
from sluice.dashboard.snapshot import Snapshot

Made = tuple[views.Line, str]

# A piece of a page.
ROWS = 50


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
        self._kept: tuple[str, dict[str, Made]] = ("", {})

    def pieces(self, shown: Snapshot, *, has_cost: bool) -> Iterator[str]:
        """The rows of a snapshot's teams, in their order, a few at a time."""
        pattern = self._patterns[has_cost]
        # Replaced whole: two who ask at once make the same rows twice, and no harm.
        kept_pattern, kept = self._kept
        known, made = kept if kept_pattern is pattern else {}, {}
        keys = iter(shown.teams)
        while some := list(itertools.islice(keys, ROWS)):
            for key in some:
                line, row = shown.line(key), known.get(key)
                made[key] = row if row and row[0] is line else (line, _row(pattern, key, line))
            yield "\n".join(made[key][1] for key in some)
        self._kept = pattern, made

    def empty(self, *, has_cost: bool) -> markupsafe.Markup:
        """A row without texts, for the browser to copy."""
        nothing = collections.defaultdict(str, dayBar="0", monthBar="0")
        return markupsafe.Markup(self._patterns[has_cost].format_map(nothing))


def _row(pattern: str, key: str, line: views.Line) -> str:
    escaped = {name: html.escape(text) for name, text in line.items()}
    return pattern.format_map(escaped | {"key": html.escape(key)})
