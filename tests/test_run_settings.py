"""What a `sluice run` is told: budgets that change while it runs, and settings."""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import shippers
import yaml
from harness import Sluice, budget, running, wait_until, write_budgets
from runs import SHOP, small
from shippers import Entry, Stream
from shipping import shipping

from sluice import columns, ledger_file, row_seal, window

# how it reloads


def test_budgets_replaced_under_load_apply_and_no_push_is_dropped(sluice, upstream):
    upstream.control(keep=False)
    server = sluice([SHOP], upstream.url)
    with shipping(server, small) as load:
        for limit in (10**9, 2 * 10**9, 500):
            load.wait_for(20)
            write_budgets(server.budgets, [budget("shop", limit), budget("pay", limit)])
            wait_until(
                lambda limit=limit: server.teams()["shop"]["dailyLimit"] == limit,
                f"the limit is {limit}",
            )
        load.wait_for(20)
    assert set(load.answers) == {204}
    assert server.teams()["pay"]["dailyLimit"] == 500
    # Over the lowered limit from then on.
    before = upstream.count()["requests"]
    assert server.send(small(0)).status == 204
    assert upstream.count()["requests"] == before
    write_budgets(server.budgets, [budget("pay", 500)])
    wait_until(lambda: "shop" not in server.teams(), "the budget is gone")
    assert server.send(small(0)).status == 204
    assert upstream.count()["requests"] == before + 1


def write_configmap(folder: Path, version: str, *budgets: dict[str, Any]) -> None:
    """Write budgets as a kubelet does: a new directory, and one rename that shows it."""
    new = folder / f"..{version}"
    new.mkdir(parents=True)
    (new / "budgets.yaml").write_text(yaml.safe_dump_all(budgets))
    link = folder / "..data_tmp"
    link.symlink_to(new.name)
    old = (folder / "..data").resolve() if (folder / "..data").exists() else None
    link.rename(folder / "..data")
    if old is None:
        (folder / "budgets.yaml").symlink_to("..data/budgets.yaml")
    else:
        shutil.rmtree(old)


@pytest.mark.parametrize("what", ["directory", "file"])
def test_a_configmap_that_changes_is_seen_and_no_push_is_dropped(tmp_path, upstream, what):
    folder = tmp_path / "configmap"
    write_configmap(folder, "1", SHOP)
    path = folder if what == "directory" else folder / "budgets.yaml"
    server = Sluice(tmp_path / "sluice", path, upstream.url)
    with running(server), shipping(server, small) as load:
        for version, limit in (("2", 10**9), ("3", 2 * 10**9)):
            load.wait_for(10)
            write_configmap(folder, version, budget("shop", limit))
            wait_until(
                lambda limit=limit: server.teams()["shop"]["dailyLimit"] == limit,
                f"the limit is {limit}",
            )
        load.stop()
    assert set(load.answers) == {204}


def test_a_refused_document_leaves_its_last_good_version_and_everybody_is_told(sluice, upstream):
    server = sluice([budget("shop", 111), budget("pay", 222)], upstream.url)
    health = server.get("/api/health").json
    assert (health["status"], health["problems"]) == ("ok", [])
    write_budgets(server.budgets, [budget("shop", "1Gib"), budget("pay", 333)])
    wait_until(lambda: server.teams()["pay"]["dailyLimit"] == 333, "the good one applies")
    assert server.teams()["shop"]["dailyLimit"] == 111
    health = server.get("/api/health").json
    assert health["status"] == "degraded"
    assert health["ready"] is True
    (problem,) = health["problems"]
    assert problem["key"] == "shop/shop"
    assert "spec.dailyLimit" in problem["message"]
    assert problem["file"].endswith("budgets.yaml")
    assert server.metric("tco_budget_problems") == 1
    assert server.metric("tco_budget_reloads_total", result="refused") == 1
    assert "shop/shop: spec.dailyLimit" in server.log.read_text()

    # An unparsable file keeps them all.
    server.budgets.write_text("a: [b\n")
    wait_until(
        lambda: "not YAML" in server.get("/api/health").json["problems"][0]["message"], "it is seen"
    )
    assert {name: team["dailyLimit"] for name, team in server.teams().items()} == {
        "shop": 111,
        "pay": 333,
    }

    # The same key twice: the first counts.
    twice = [budget("shop", 444), budget("pay", 333), budget("shop", 555)]
    write_budgets(server.budgets, twice)
    wait_until(lambda: server.teams()["shop"]["dailyLimit"] == 444, "the first of two applies")
    (problem,) = server.get("/api/health").json["problems"]
    assert "second document" in problem["message"]

    write_budgets(server.budgets, [budget("shop", 666)])
    wait_until(lambda: server.metric("tco_budget_problems") == 0, "all is well")
    assert set(server.teams()) == {"shop"}
    assert server.get("/api/health").json["status"] == "ok"


def test_a_refused_document_is_skipped_at_the_first_start_and_the_rest_apply(sluice, upstream):
    server = sluice([budget("shop", "1Gib"), budget("pay", 222)], upstream.url)
    assert set(server.teams()) == {"pay"}
    assert server.get("/api/health").json["problems"][0]["key"] == "shop/shop"
    assert server.metric("tco_budget_problems") == 1
    assert server.send(small(0)).status == 204
    assert server.counts("pay")["received"]["entries"] == 0


def test_files_of_a_folder_that_are_not_read_are_named_in_the_log(tmp_path, upstream):
    folder = tmp_path / "budgets"
    write_budgets(folder / "a.yaml", [SHOP])
    # A line end in a name must not end the line of the log.
    (folder / "b.json").write_text("{}")
    (folder / "c\nd.txt").write_text("")
    with running(server := Sluice(tmp_path / "sluice", folder, upstream.url)):
        (line,) = [each for each in server.tail().splitlines() if "left out" in each]
    assert "only *.yaml and *.yml files are read" in line
    assert line.endswith("left out: 'c\\nd.txt', b.json")


@pytest.mark.parametrize("content", ["", "# all gone\n", "apiVersion: v1\nkind: List\nitems: []\n"])
def test_a_budgets_file_that_is_emptied_leaves_the_last_good_ones_in_force(
    sluice, upstream, content
):
    server = sluice([budget("shop", 0)], upstream.url)
    server.budgets.write_text(content)
    wait_until(lambda: server.get("/api/health").json["problems"], "it is seen")
    # As long as the file stays so.
    time.sleep(2.5)
    assert server.send(small(0)).status == 204
    assert upstream.count()["requests"] == 0
    assert server.counts("shop")["dropped"]["entries"] == 10
    health = server.get("/api/health").json
    assert health["status"] == "degraded"
    assert "holds no TeamBudget; the last good ones (1)" in health["problems"][0]["message"]
    assert server.metric("tco_budget_problems") == 1
    write_budgets(server.budgets, [budget("shop", 10**6)])
    wait_until(lambda: server.get("/api/health").json["status"] == "ok", "all is well")
    assert server.send(small(0)).status == 204
    assert upstream.count()["requests"] == 1


def full_ledger(directory: Path) -> None:
    """A state directory in which every row of the ledger belongs to a key of this month."""
    directory.mkdir(parents=True)
    rows = ledger_file.FileRows(directory, columns.COLUMNS)
    rows.reserve(ledger_file.ROWS)
    keys = ["", "shop/shop", *(f"ci/pr-{i}" for i in range(ledger_file.ROWS - 2))]
    rows.names = {key: row for row, key in enumerate(keys)}
    rows.begin(rows.names)
    month = window.open_windows("UTC", time.time()).month
    rows.rows[:, columns.MONTH_AT + columns.KEY] = month
    row_seal.sealed(rows.rows, rows.weight)
    rows.write_names()
    rows.close()


def test_budgets_that_the_ledger_has_no_room_for_are_a_problem_and_tried_again(tmp_path, upstream):
    budgets = write_budgets(tmp_path / "budgets.yaml", [budget("shop", 111)])
    full_ledger(tmp_path / "state")
    server = Sluice(tmp_path / "sluice", budgets, upstream.url, state_dir=tmp_path / "state")
    with running(server):
        assert server.get("/api/health").json["status"] == "ok"
        write_budgets(budgets, [budget("shop", 222), budget("pay", 222)])
        wait_until(lambda: server.metric("tco_budget_problems") == 1, "it is seen")
        (problem,) = server.get("/api/health").json["problems"]
        assert "not in force: 1 new budgets, room for 0 more keys" in problem["error"]
        assert server.get("/api/health").json["status"] == "degraded"
        assert server.metric("tco_budget_reloads_total", result="refused") == 1
        assert server.teams()["shop"]["dailyLimit"] == 111
        write_budgets(budgets, [budget("shop", 333)])
        wait_until(lambda: server.teams()["shop"]["dailyLimit"] == 333, "it is tried again")
        assert server.metric("tco_budget_problems") == 0
        assert "Traceback" not in server.log.read_text()


# settings


class Configured(Sluice):
    """`sluice run` with every setting from the environment."""

    def command(self) -> list[str]:
        return [sys.executable, *self.program(), "run"]


def test_settings_come_from_the_environment_too(tmp_path, upstream):
    budgets = write_budgets(tmp_path / "budgets.yaml", [SHOP])
    server = Configured(tmp_path / "sluice", budgets, upstream.url)
    server.env = {
        "SLUICE_BUDGETS": str(budgets),
        "SLUICE_UPSTREAM": upstream.url,
        "SLUICE_LISTEN": f"127.0.0.1:{server.port}",
        "SLUICE_STATE_DIR": str(tmp_path / "elsewhere"),
        "SLUICE_UPSTREAM_HEADER": "X-Scope-OrgID=ours\nX-Other=a b",
        "SLUICE_MAX_BODY": "2Ki",
        "SLUICE_UNBUDGETED": "drop",
        "SLUICE_NAMESPACE_LABEL": "team namespace",
        "SLUICE_LOG_FORMAT": "json",
        "SLUICE_LOG_LEVEL": "debug",
        # Not headers of a request, though a WSGI environment may lend its own.
        "HTTP_X_SECRET": "secret",
        "CONTENT_TYPE": "application/json",
    }
    with running(server):
        labels = {"namespace": "free", "team": "shop"}
        streams = [Stream(labels, [Entry(1, "line")]), Stream({"app": "a"}, [Entry(1, "line")])]
        assert server.send(shippers.promtail(streams), "theirs").status == 204
        (push,) = upstream.received()
        sent = shippers.decode(push["body"], push["headers"])
        assert sent == streams[:1]
        assert push["tenant"] == "ours"
        assert push["headers"]["X-Other"] == "a b"
        assert "secret" not in str(push["headers"])
        assert server.push(b"x" * 2049, {"Content-Type": "application/json"}).status == 413
        assert server.push(b"{}", {}).status == 400
        assert (tmp_path / "elsewhere" / "ledger.map").exists()
        assert server.stop() == 0
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, lines))
    assert any("the ledger is written" in line["message"] for line in lines)


def test_a_refused_budget_is_a_json_line_too(sluice, upstream):
    server = sluice([SHOP, budget("pay", "1Gib")], upstream.url, args=["--log-format", "json"])
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (refusal,) = (line for line in lines if line["level"] == "warning")
    assert "pay/pay" in refusal["message"]
