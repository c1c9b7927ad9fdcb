"""The Event of an agent that may not report. Pure."""

import datetime
from typing import Any

# Source: the API server's validation of an Event's note.
NOTE_MAX = 1024


def may_not_report(
    pod: str, pod_uid: str, namespace: str, node: str, why: str, now: float
) -> dict[str, Any]:
    """The Event on the agent's pod; what it counts is in no budget's status."""
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    note = f"the agent of node {node} may not report what it counts and is not ready: {why}"
    regarding = {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": pod}
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": f"{pod[:220].rstrip('.-')}.{int(now * 1e9):x}",
            "namespace": namespace,
        },
        "eventTime": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "action": "Report",
        "reason": "MayNotReport",
        "type": "Warning",
        "note": note[:NOTE_MAX],
        "regarding": regarding | ({"uid": pod_uid} if pod_uid else {}),
        "reportingController": "tco.io/sluice-agent",
        "reportingInstance": pod[:128],
    }
