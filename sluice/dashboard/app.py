"""The dashboard's HTTP: pages, what is live on them, the REST API. Only GET; it changes nothing."""

import itertools
import logging
import time
from collections.abc import Callable, Iterable

import flask
from prometheus_client.registry import Collector

import sluice
from sluice import api, auth, errors, metrics, source
from sluice.dashboard import assets, board, panel, rows, snapshot, views

log = logging.getLogger("sluice.dashboard")

# The scripts are ours or plotly's, from this server; there is nothing inline, not even a style:
# bars are SVG, and plotly writes its rules into plots.css, see static/plotly-policy.js.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
BOARD = "sluice.board"
# Where the overview's rows belong.
ROWS = "\0"
ROW, TEMPLATES = "row.html", ("overview.html", "team.html", "error.html")
MACHINES = ("/api/", "/ready", "/metrics", "/openapi.json", "/live", "/static/")


def create_app(
    origin: source.Source,
    status: source.Status,
    *,
    guard: auth.Auth = auth.NOBODY_IS_ASKED,
    clock: Callable[[], float] = time.time,
    currency: str = "",
    title_note: str = "",
    collectors: Iterable[Collector] = (),
) -> flask.Flask:
    """The WSGI application of the dashboard.

    Args:
        guard: who may look.
        clock: epoch seconds.
        currency: shown with costs, such as EUR.
        title_note: shown beside the name, such as the cluster's.
        collectors: further series of /metrics.
    """
    app = flask.Flask("sluice.dashboard", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    for name in TEMPLATES:
        # Compiled now, and not for whoever looks first.
        app.jinja_env.get_template(name)
    shown = board.Board(origin, clock, currency, problems=lambda: len(status.all_problems))
    app.extensions[BOARD] = shown
    counters = metrics.Metrics(*collectors)
    app.register_blueprint(api.blueprint(origin, clock, status))
    app.register_blueprint(pages(origin, shown, rows.Rows(app.jinja_env.get_template(ROW))))
    app.add_url_rule("/metrics", "metrics", counters.response)
    app.context_processor(lambda: {"note": title_note, "version": sluice.__version__})
    api.errors_as_json(app, log, counters)
    guard.guard(app)
    app.after_request(finished)
    return app


def board_of(app: flask.Flask) -> board.Board:
    """The board behind an application, to be stopped with its server."""
    found: board.Board = app.extensions[BOARD]
    return found


def pages(origin: source.Source, shown: board.Board, table: rows.Rows) -> flask.Blueprint:
    """What people look at."""
    routes = flask.Blueprint("pages", __name__)

    def team_of(namespace: str, name: str) -> tuple[snapshot.Snapshot, views.Team]:
        now = shown.snapshot()
        team = now.teams.get(f"{namespace}/{name}")
        if team is None:
            raise source.NotFound(f"no team {name!r} in namespace {namespace!r}")
        return now, team

    @routes.get("/")
    def overview() -> flask.Response:
        now = shown.snapshot()
        has_cost = now.totals["cost"] != ""
        head, _, tail = flask.render_template(
            "overview.html",
            rows=ROWS if now.teams else "",
            empty_row=table.empty(has_cost=has_cost),
            has_cost=has_cost,
            totals=now.totals,
            mark=shown.mark(now),
        ).partition(ROWS)
        pieces = itertools.chain([head], table.pieces(now, has_cost=has_cost), [tail])
        return flask.Response(pieces, mimetype="text/html")

    @routes.get("/teams/<namespace>/<name>")
    def team_page(namespace: str, name: str) -> str:
        _, team = team_of(namespace, name)
        return flask.render_template(
            "team.html",
            own=team.row.budget,
            texts=views.detail(team, shown.currency),
            path=views.href(namespace, name),
        )

    @routes.get("/teams/<namespace>/<name>/panel.json")
    def team_panel(namespace: str, name: str) -> flask.Response:
        span = flask.request.args.get("span", "")
        if span and span not in panel.SPANS:
            raise errors.BadRequest(f"span: {span[:64]!r} is not one of {', '.join(panel.SPANS)}")
        _, team = team_of(namespace, name)
        return flask.jsonify(panel.panel(origin, team, span))

    @routes.get("/live")
    def live() -> flask.Response:
        return _stream(shown, None)

    @routes.get("/live/<namespace>/<name>")
    def live_team(namespace: str, name: str) -> flask.Response:
        return _stream(shown, f"{namespace}/{name}")

    @routes.get("/static/<name>")
    def static(name: str) -> flask.Response:
        return assets.response(name)

    return routes


def _stream(shown: board.Board, key: str | None) -> flask.Response:
    # A browser that connects anew says what it saw last, the first time the page does.
    asked = flask.request
    mark = asked.headers.get("Last-Event-ID") or asked.args.get("since", "")
    # Whoever asks for the headers only does not listen.
    events = () if asked.method == "HEAD" else shown.listen(mark, key)
    made = flask.Response(events, mimetype="text/event-stream")
    # nginx would keep events until it has a buffer full.
    made.headers["X-Accel-Buffering"] = "no"
    return made


def finished(made: flask.Response) -> flask.Response:
    """Every answer on its way out: errors as pages for people, headers, gzip."""
    asked = flask.request
    is_for_people = (
        not asked.path.startswith(MACHINES)
        and asked.accept_mimetypes.best_match(("application/json", "text/html")) == "text/html"
    )
    if made.status_code >= errors.BadRequest.status and made.is_json and is_for_people:
        told = made.get_json()
        made.set_data(flask.render_template("error.html", told=told))
        made.mimetype = "text/html"
    for name, value in HEADERS.items():
        made.headers.setdefault(name, value)
    made.headers.setdefault("Cache-Control", "no-store")
    assets.compress(made)
    return made
