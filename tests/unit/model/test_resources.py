"""The table of kinds, and that manifests, output and RBAC rules agree with it."""

from __future__ import annotations

from typing import Any

import pytest

from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.resources import RESOURCES
from kubectl_istio_udp.output.printing import object_line
from kubectl_istio_udp.render.controller import Installation, controller

MANIFESTS = controller(
    Installation("ns", "image", ("istio-system", "edge"), ("istio-config",), 1000, allow_all=True)
)


@pytest.mark.parametrize(
    ("kind", "namespace", "name", "path"),
    [
        ("Pod", "a", "b", "/api/v1/namespaces/a/pods/b"),
        ("Pod", None, "", "/api/v1/pods"),
        ("Namespace", None, "a", "/api/v1/namespaces/a"),
        ("Deployment", "a", "", "/apis/apps/v1/namespaces/a/deployments"),
        (
            "EnvoyFilter",
            "a",
            "b",
            "/apis/networking.istio.io/v1alpha3/namespaces/a/envoyfilters/b",
        ),
    ],
)
def test_paths(kind: str, namespace: str | None, name: str, path: str) -> None:
    resource = RESOURCES[kind]
    assert resource.path(resource.api_version, namespace, name) == path


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda m: f"{m['kind']} {m['metadata']}")
def test_a_namespace_is_given_where_the_kind_has_one(manifest: dict[str, Any]) -> None:
    resource = RESOURCES[manifest["kind"]]
    assert manifest["apiVersion"] == resource.api_version
    assert ("namespace" in manifest["metadata"]) == resource.namespaced


def test_rbac_rules_name_kinds_by_group_and_plural() -> None:
    known = {(r.group, r.plural) for r in RESOURCES.values()}
    rules = [rule for manifest in MANIFESTS for rule in manifest.get("rules", ())]
    named = {(rule["apiGroups"][0], plural) for rule in rules for plural in rule["resources"]}
    assert named and named <= known
    assert all(len(rule["apiGroups"]) == 1 for rule in rules)


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("Service", "service/x configured"),
        ("Deployment", "deployment.apps/x configured"),
        ("EnvoyFilter", "envoyfilter.networking.istio.io/x configured"),
        ("NetworkPolicy", "networkpolicy.networking.k8s.io/x configured"),
        ("ClusterRole", "clusterrole.rbac.authorization.k8s.io/x configured"),
    ],
)
def test_output_names_objects_as_kubectl_does(kind: str, line: str) -> None:
    assert object_line(kind, "x", "configured") == line


@pytest.mark.parametrize(
    ("name", "segment"),
    [
        ("a/../../pods/b/proxy/x", "a%2F..%2F..%2Fpods%2Fb%2Fproxy%2Fx"),
        ("a?b=c#d", "a%3Fb%3Dc%23d"),
        ("a%2fb", "a%252fb"),
        ("a\nb \u202e", "a%0Ab%20%E2%80%AE"),
        ("..x", "..x"),
    ],
)
def test_no_name_leads_to_another_path(name: str, segment: str) -> None:
    path = RESOURCES["Service"].path
    assert path("v1", "default", name) == f"/api/v1/namespaces/default/services/{segment}"
    assert path("v1", name, "dns") == f"/api/v1/namespaces/{segment}/services/dns"


@pytest.mark.parametrize("name", [".", ".."])
def test_dots_that_a_client_would_resolve_are_refused(name: str) -> None:
    """urllib3 and the API server take `..` out of a path, quoted or not."""
    for namespace, service in ((name, "dns"), ("default", name)):
        with pytest.raises(UsageError, match="is not a valid Kubernetes name"):
            RESOURCES["Service"].path("v1", namespace, service)
