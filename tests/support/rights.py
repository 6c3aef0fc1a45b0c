"""The rights that a team usually has in its namespace, for tests that act as a tenant."""

from __future__ import annotations

from typing import Any

RBAC = "rbac.authorization.k8s.io"


def rights(namespace: str) -> list[dict[str, Any]]:
    """A ServiceAccount `tenant` with a team's usual rights in its namespace."""
    account = {"kind": "ServiceAccount", "name": "tenant", "namespace": namespace}
    made: list[dict[str, Any]] = [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "tenant", "namespace": namespace},
        },
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "Role",
            "metadata": {"name": "istio", "namespace": namespace},
            "rules": [
                {
                    "apiGroups": ["networking.istio.io", "security.istio.io"],
                    "resources": ["*"],
                    "verbs": ["*"],
                },
                {
                    "apiGroups": ["discovery.k8s.io"],
                    "resources": ["endpointslices"],
                    "verbs": ["*"],
                },
            ],
        },
    ]
    for kind, name in (("ClusterRole", "admin"), ("Role", "istio")):
        made.append(
            {
                "apiVersion": f"{RBAC}/v1",
                "kind": "RoleBinding",
                "metadata": {"name": f"tenant-{name}", "namespace": namespace},
                "roleRef": {"apiGroup": RBAC, "kind": kind, "name": name},
                "subjects": [account],
            }
        )
    return made
