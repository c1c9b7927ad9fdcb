"""Renders deploy/k8s from the chart, the one source of both; `--check` only says what differs.

Run by `make manifests`. Files that are not in FILES or BY_HAND have no business in deploy/k8s. The
rules of Prometheus stand in the chart too, for helm reads no file outside it, and are copied.
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
CHART = ROOT / "deploy" / "helm" / "sluice"
PLAIN = ROOT / "deploy" / "k8s"
RULES, COPY = CHART / "files" / "rules.yaml", "prometheus/rules.yaml"
NAMESPACE = "sluice-system"
# The version of Kubernetes that the tests run.
KUBE_VERSION = "1.34.2"

# What each file is made of, in this order. Who applies the first four of the documented steps has
# everything that runs needs: therefore the namespace and the priority stand with the rights, and
# the resource in which agents report stands with the controller, too.
FILES = {
    "teambudget-crd.yaml": ["crds/teambudget-crd.yaml"],
    "nodelogusage-crd.yaml": ["crds/nodelogusage-crd.yaml"],
    "rbac.yaml": [
        "templates/namespace.yaml",
        "templates/priorityclass.yaml",
        "templates/rbac.yaml",
    ],
    "admission.yaml": ["templates/admission.yaml"],
    "controller-deployment.yaml": [
        "templates/controller-deployment.yaml",
        "templates/controller-service.yaml",
        "crds/nodelogusage-crd.yaml",
    ],
    "agent-daemonset.yaml": ["templates/agent-daemonset.yaml", "templates/agent-service.yaml"],
    "dashboard-deployment.yaml": [
        "templates/dashboard-deployment.yaml",
        "templates/dashboard-service.yaml",
    ],
    "pdb.yaml": ["templates/pdb.yaml"],
    "networkpolicy.yaml": ["templates/networkpolicy.yaml"],
    "flowcontrol.yaml": ["templates/flowcontrol.yaml"],
}
BY_HAND = {"Kustomization", "example-teambudget.yaml"}
HEAD = "# Rendered from deploy/helm/sluice by `make manifests`: change it there.\n"
SOURCE = re.compile(r"^---\n# Source: sluice/(\S+)\n", re.M)


class Failed(Exception):
    """It cannot be rendered; the text says why."""


def rendered(helm: str) -> dict[str, str]:
    """What each file should hold, by its path in deploy/."""
    command = [helm, "template", "sluice", str(CHART), "--namespace", NAMESPACE]
    command += ["--include-crds", "--kube-version", KUBE_VERSION, "--set", "createNamespace=true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(done.stderr.strip())
    _, *parts = SOURCE.split(done.stdout)
    documents: dict[str, list[str]] = {}
    for source, text in zip(parts[::2], parts[1::2], strict=True):
        documents.setdefault(source, []).append(text.strip("\n") + "\n")
    wanted = {source for made_of in FILES.values() for source in made_of}
    if homeless := documents.keys() - wanted:
        raise Failed(f"in no file of deploy/k8s: {', '.join(sorted(homeless))}; see FILES")
    if absent := wanted - documents.keys():
        raise Failed(f"the chart renders nothing from {', '.join(sorted(absent))}; see FILES")
    made = {
        f"k8s/{name}": HEAD + "---\n".join(text for each in made_of for text in documents[each])
        for name, made_of in FILES.items()
    }
    return {**made, COPY: HEAD + RULES.read_text()}


def differences(wanted: dict[str, str]) -> list[str]:
    """A line for each file that is not as the chart says."""
    paths = [*PLAIN.iterdir(), ROOT / "deploy" / COPY]
    found = {
        path.relative_to(ROOT / "deploy").as_posix(): path.read_text()
        for path in paths
        if path.exists()
    }
    by_hand = {f"k8s/{name}" for name in BY_HAND}
    return [
        *(f"{name}: is missing" for name in wanted.keys() - found.keys()),
        *(f"{name}: not of the chart" for name in found.keys() - wanted.keys() - by_hand),
        *(f"{name}: is missing" for name in by_hand - found.keys()),
        *(
            f"{name}: differs"
            for name in wanted.keys() & found.keys()
            if wanted[name] != found[name]
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make manifests", description=__doc__)
    parser.add_argument("--helm", default="helm", help="the helm to use (default: of PATH)")
    parser.add_argument(
        "--check", action="store_true", help="write nothing, exit 1 on a difference"
    )
    chosen = parser.parse_args()
    if shutil.which(chosen.helm) is None:
        print(f"no {chosen.helm}: `make servers` builds it", file=sys.stderr)
        return 2
    try:
        wanted = rendered(chosen.helm)
    except Failed as failed:
        print(failed, file=sys.stderr)
        return 2
    if chosen.check:
        lines = differences(wanted)
        for line in sorted(lines):
            print(f"deploy/{line}", file=sys.stderr)
        if lines:
            print("the chart is the source: `make manifests` renders them anew", file=sys.stderr)
        return 1 if lines else 0
    for name, text in wanted.items():
        (ROOT / "deploy" / name).write_text(text)
        print(f"deploy/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
