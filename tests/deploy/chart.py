"""Helm as a user runs it, and what the chart renders to."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml
from servers import build

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "sluice"
PLAIN = ROOT / "deploy" / "k8s"
HELM_S = 60


def helm(
    *args: str, home: Path | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run helm; AssertionError with its words if it fails, unless told."""
    done = subprocess.run(
        [str(build.place("helm")), *args],
        # Settings, repositories and plugins of whoever runs the tests are not the tests'.
        env={"PATH": os.defpath, "HOME": str(home or "/nonexistent")},
        capture_output=True,
        text=True,
        timeout=HELM_S,
        check=False,
    )
    if check:
        assert done.returncode == 0, f"helm {' '.join(args)}: {done.stdout}{done.stderr}"
    return done


def template(*args: str, namespace: str = "sluice-system", check: bool = True) -> Any:
    """Run `helm template` with the chart."""
    return helm("template", "sluice", str(CHART), "--namespace", namespace, *args, check=check)


def render(*args: str, namespace: str = "sluice-system") -> list[dict[str, Any]]:
    """The objects that the chart renders to."""
    text = template(*args, namespace=namespace).stdout
    return [each for each in yaml.safe_load_all(text) if each is not None]


def setting(path: str, value: Any) -> str:
    """The argument of helm that sets a value."""
    return f"--set-json={path}={json.dumps(value)}"


def to_namespace(name: str) -> dict[str, Any]:
    """The rule of a network policy that lets out to a namespace."""
    labels = {"kubernetes.io/metadata.name": name}
    return {"to": [{"namespaceSelector": {"matchLabels": labels}}]}


def pick(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The one object of this kind and name."""
    found = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def plain_objects() -> list[dict[str, Any]]:
    """The objects of deploy/k8s, without the example; each once."""
    found = {}
    for path in sorted(PLAIN.glob("*.yaml")):
        if path.name != "example-teambudget.yaml":
            for each in yaml.safe_load_all(path.read_text()):
                key = each["kind"], each["metadata"]["name"]
                assert found.setdefault(key, each) == each, f"{key} stands twice, and differs"
    return list(found.values())


def container(workload: dict[str, Any]) -> dict[str, Any]:
    """The one container of a DaemonSet or Deployment."""
    (found,) = workload["spec"]["template"]["spec"]["containers"]
    return found  # type: ignore[no-any-return]
