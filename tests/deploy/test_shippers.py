"""The examples of deploy/shippers: they parse, push to the agent, and set the namespace label."""

import re
from pathlib import Path
from typing import Any

import yaml

from sluice import table

SHIPPERS = Path(__file__).parents[2] / "deploy" / "shippers"
HOST, PORT = "tco-agent.sluice-system.svc", 8080
PATH = "/loki/api/v1/push"
ADDRESS = f"http://{HOST}:{PORT}"


def load(name: str) -> Any:
    return yaml.safe_load((SHIPPERS / name).read_text())


def test_the_readme_lists_every_example() -> None:
    listed = set(re.findall(r"^\| `(\S+)`", (SHIPPERS / "README.md").read_text(), re.M))
    assert listed == {path.name for path in SHIPPERS.iterdir()} - {"README.md"}


def test_the_readme_and_every_example_name_the_same_address() -> None:
    assert ADDRESS + PATH in (SHIPPERS / "README.md").read_text()
    for path in SHIPPERS.iterdir():
        assert HOST in path.read_text(), path.name


def test_namespace_is_a_label_that_sluice_looks_at() -> None:
    assert "namespace" in table.NAMESPACE_LABELS


TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*) | (?P<text>"(?:\\.|[^"\\\n])*")
      | (?P<open>[{\[(]) | (?P<close>[}\])]) | (?P<sign>[=,+])
      | (?P<name>[A-Za-z_][A-Za-z0-9_.]*) | (?P<bad>.)""",
    re.X,
)
PAIRS = {"{": "}", "[": "]", "(": ")"}


def alloy_tokens(text: str) -> list[str]:
    """The tokens of Alloy's syntax without comments; AssertionError where brackets do not close."""
    tokens: list[str] = []
    expected: list[str] = []
    for found in TOKEN.finditer(text):
        kind, token = str(found.lastgroup), found[0]
        assert kind != "bad", f"{token!r} at {found.start()}"
        if kind == "open":
            expected.append(PAIRS[token])
        if kind == "close":
            assert expected, f"{token!r} at {found.start()} closes nothing"
            assert token == expected.pop(), f"{token!r} at {found.start()}"
        if kind != "space":
            tokens.append(token)
    assert not expected, f"{expected} missing at the end"
    return tokens


def test_alloy_pushes_to_the_agent_and_hands_every_line_on() -> None:
    tokens = alloy_tokens((SHIPPERS / "alloy.alloy").read_text())
    text = " ".join(tokens)
    assert f'loki.write "sluice" {{ endpoint {{ url = "{ADDRESS}{PATH}" }} }}' in text
    labelled = 'source_labels = [ "__meta_kubernetes_namespace" ] target_label = "namespace"'
    assert labelled in text
    # Whatever a component exports to is there.
    made = set(re.findall(r'([a-z_.]+) "(\w+)" \{', text))
    used = set(re.findall(r"\b([a-z_]+(?:\.[a-z_]+)+)\.(\w+)\.(?:receiver|output|targets)\b", text))
    assert used
    assert used <= made
    assert ("loki.write", "sluice") in used


def test_promtail_pushes_to_the_agent_and_labels_by_namespace() -> None:
    config = load("promtail.yaml")
    assert config["clients"] == [{"url": ADDRESS + PATH}]
    (scrape,) = config["scrape_configs"]
    rules = {rule["target_label"]: rule for rule in scrape["relabel_configs"]}
    assert rules["namespace"]["source_labels"] == ["__meta_kubernetes_namespace"]
    # Without them it reads every node's files, or none.
    assert rules["__host__"]["source_labels"] == ["__meta_kubernetes_pod_node_name"]
    assert rules["__path__"]["replacement"] == "/var/log/pods/*$1/*.log"


def test_fluent_bit_pushes_to_the_agent_and_sends_nothing_but_the_line() -> None:
    pipeline = load("fluent-bit.yaml")["pipeline"]
    (output,) = pipeline["outputs"]
    assert (output["name"], output["host"], output["port"]) == ("loki", HOST, PORT)
    assert output["uri"] == PATH
    labels = dict(each.strip().split("=", 1) for each in output["labels"].split(","))
    assert labels["namespace"] == "$kubernetes['namespace_name']"
    assert output["drop_single_key"] == "raw"
    assert "kubernetes" in [each.strip() for each in output["remove_keys"].split(",")]
    # Its default is one, and a chunk that was answered 503 is then lost.
    assert output["retry_limit"] > 1
    assert pipeline["filters"][0]["name"] == "kubernetes"


def test_vector_pushes_to_the_agent_and_sends_nothing_but_the_line() -> None:
    config = load("vector.yaml")
    sink = config["sinks"]["sluice"]
    assert sink["type"] == "loki"
    assert (sink["endpoint"], sink["path"]) == (ADDRESS, PATH)
    assert sink["labels"]["namespace"] == "{{ kubernetes.pod_namespace }}"
    assert sink["encoding"] == {"codec": "text"}
    assert set(sink["inputs"]) == set(config["sources"])
