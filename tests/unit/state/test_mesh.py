from __future__ import annotations

import json
from typing import Any

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.gateway import GatewayPod
from kubectl_istio_udp.model.mesh import ControlPlane, Mesh, selector_matches
from kubectl_istio_udp.state.mesh import read_mesh
from tests.support.apiserver import ApiServer
from tests.support.builders import gateway_pod
from tests.support.mesh_builders import istiod_pod, mesh_config

DEFAULTS = Mesh()
ASSUMED = Mesh(assumed=True)


@pytest.fixture(autouse=True)
def no_config(server: ApiServer) -> None:
    server.remove("ConfigMap", "istio-system", "istio")


def test_reads_the_mesh_config(api: Api, server: ApiServer) -> None:
    server.put(mesh_config(rootNamespace="mesh-root", accessLogFile="/dev/stdout"), istiod_pod())
    assert read_mesh(api) == Mesh("mesh-root", writes_access_log=True, istio=(1, 31))


def test_a_default_provider_writes_an_access_log_too(api: Api, server: ApiServer) -> None:
    server.put(mesh_config(defaultProviders={"accessLogging": ["otel"]}))
    assert read_mesh(api).writes_access_log


def test_an_installation_with_a_revision_has_its_own_config(api: Api, server: ApiServer) -> None:
    server.put(
        mesh_config("istio-ca-root-cert") | {"data": {"root-cert.pem": "x"}},
        mesh_config("istio-stable", rootNamespace="of-revision"),
        mesh_config("unrelated", rootNamespace="no"),
    )
    assert read_mesh(api).root_namespace == "of-revision"


def test_the_config_without_a_revision_goes_first(api: Api, server: ApiServer) -> None:
    server.put(mesh_config(rootNamespace="plain"), mesh_config("istio-1-31", rootNamespace="other"))
    assert read_mesh(api).root_namespace == "plain"


def test_each_revision_has_its_own(api: Api, server: ApiServer) -> None:
    server.put(
        mesh_config(rootNamespace="plain"),
        mesh_config("istio-canary", rootNamespace="of-canary"),
        istiod_pod("a", "1.30.4"),
        istiod_pod("b", "1.31.0", revision="canary"),
    )
    canary = read_mesh(api, ControlPlane(revision="canary"))
    assert (canary.root_namespace, canary.istio, canary.assumed) == ("of-canary", (1, 31), False)
    assert read_mesh(api).root_namespace == "plain"
    assert read_mesh(api).istio == (1, 30)


def test_several_revisions_are_ambiguous(api: Api, server: ApiServer) -> None:
    server.put(mesh_config("istio-a", rootNamespace="x"), mesh_config("istio-b", rootNamespace="y"))
    assert read_mesh(api) == ASSUMED


def test_a_control_plane_in_another_namespace(api: Api, server: ApiServer) -> None:
    config = mesh_config("istio-asm-1-24")
    config["metadata"]["namespace"] = "aks-istio-system"
    shared = mesh_config("istio-shared-configmap-asm-1-24", accessLogFile="/dev/stdout")
    shared["metadata"]["namespace"] = "aks-istio-system"
    istiod = istiod_pod(version="1.24.3", revision="asm-1-24", namespace="aks-istio-system")
    istiod["spec"]["containers"][0]["env"] = [
        {"name": "SHARED_MESH_CONFIG", "value": "istio-shared-configmap-asm-1-24"}
    ]
    server.put(config, shared, istiod)
    found = read_mesh(api, ControlPlane("aks-istio-system", "asm-1-24"))
    assert found.root_namespace == "aks-istio-system"
    assert (found.istio, found.writes_access_log, found.assumed) == ((1, 24), True, False)


def test_a_control_plane_outside_the_cluster_is_unknown(api: Api, server: ApiServer) -> None:
    found = read_mesh(api, ControlPlane("", address="meshconfig.googleapis.com:443"))
    assert found.assumed and found.root_namespace == "istio-system"
    assert not server.requests


@pytest.mark.parametrize("data", [None, {}, {"mesh": ""}, {"mesh": "- a list"}])
def test_an_empty_config_is_istios_default(
    api: Api, server: ApiServer, data: dict[str, Any] | None
) -> None:
    server.put(mesh_config() | {"data": data})
    assert read_mesh(api) == DEFAULTS


def test_unreadable_settings_are_istios_defaults_and_marked_as_assumed(
    api: Api, server: ApiServer
) -> None:
    assert read_mesh(api) == ASSUMED
    server.put(mesh_config() | {"data": {"mesh": "{"}})
    assert read_mesh(api) == ASSUMED


@pytest.mark.parametrize("path", ["/configmaps/istio$", r"/configmaps\b"])
def test_without_permission_the_default_is_assumed(api: Api, server: ApiServer, path: str) -> None:
    server.put(mesh_config(rootNamespace="hidden"), istiod_pod(version="1.20.3"))
    server.fail("GET", path, 403)
    assert read_mesh(api) == Mesh(istio=(1, 20), assumed=True)


def test_of_several_istiods_the_oldest_counts(api: Api, server: ApiServer) -> None:
    server.put(istiod_pod("a", "1.31.0"), istiod_pod("b", "1.9.4-distroless"), istiod_pod("c", "x"))
    assert read_mesh(api).istio == (1, 9)


def test_without_permission_to_list_istiod_the_version_is_unknown(
    api: Api, server: ApiServer
) -> None:
    server.put(mesh_config(rootNamespace="seen"), istiod_pod())
    server.fail("GET", "/istio-system/pods", 403)
    assert read_mesh(api) == Mesh("seen")


@pytest.mark.parametrize(
    ("variable", "value", "selects_pods", "selectors"),
    [
        ("PILOT_ENABLE_SERVICEENTRY_SELECT_PODS", "false", False, True),
        ("PILOT_ENABLE_SERVICEENTRY_SELECT_PODS", "true", True, True),
        ("ENABLE_SELECTOR_BASED_K8S_GATEWAY_POLICY", "0", True, False),
        ("ENABLE_SELECTOR_BASED_K8S_GATEWAY_POLICY", "1", True, True),
    ],
)
def test_reads_istiods_environment(
    api: Api, server: ApiServer, variable: str, value: str, selects_pods: bool, selectors: bool
) -> None:
    istiod = istiod_pod()
    istiod["spec"]["containers"][0]["env"] = [{"name": variable, "value": value}]
    server.put(mesh_config(), istiod)
    found = read_mesh(api)
    assert found.selects_pods is selects_pods
    assert found.selectors_for_gateway_api is selectors


@pytest.mark.parametrize(
    ("version", "value", "hides"),
    [("1.30.4", "true", True), ("1.30.4", "false", False), ("1.31.0", "true", False)],
)
def test_filtered_clusters_hide_changes_before_1_31(
    api: Api, server: ApiServer, version: str, value: str, hides: bool
) -> None:
    istiod = istiod_pod(version=version)
    variable = {"name": "PILOT_FILTER_GATEWAY_CLUSTER_CONFIG", "value": value}
    istiod["spec"]["containers"][0]["env"] = [variable]
    server.put(mesh_config(), istiod)
    assert read_mesh(api).hides_changes is hides


LABELS = {"team": "a", "env": "prod"}


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [
        ([], True),
        ([{"matchLabels": {"team": "a"}}], True),
        ([{"matchLabels": {"team": "b"}}], False),
        ([{"matchLabels": {"team": "b"}}, {"matchLabels": {"env": "prod"}}], True),
        ([{"matchLabels": {"team": "a", "env": "test"}}], False),
        ([{"matchExpressions": [{"key": "team", "operator": "In", "values": ["a"]}]}], True),
        ([{"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["a"]}]}], False),
        ([{"matchExpressions": [{"key": "gone", "operator": "NotIn", "values": ["a"]}]}], True),
        ([{"matchExpressions": [{"key": "team", "operator": "Exists"}]}], True),
        ([{"matchExpressions": [{"key": "gone", "operator": "Exists"}]}], False),
        ([{"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}], False),
        ([{"matchExpressions": [{"key": "gone", "operator": "DoesNotExist"}]}], True),
        ([{}], True),
    ],
)
def test_which_namespaces_istiod_reads(
    api: Api, server: ApiServer, selectors: list[dict[str, Any]], expected: bool
) -> None:
    server.put(mesh_config(discoverySelectors=selectors))
    assert read_mesh(api).reads_namespace(LABELS) is expected
    assert not selectors or selector_matches(selectors[-1], LABELS) is expected


PROXY_CONFIG = json.dumps({"discoveryAddress": "istiod-1-31.mesh.svc:15012"})


@pytest.mark.parametrize(
    ("env", "annotations", "expected"),
    [
        ({}, {}, ControlPlane()),
        ({"PROXY_CONFIG": "{}"}, {}, ControlPlane()),
        ({"PROXY_CONFIG": "no JSON"}, {}, ControlPlane()),
        ({"PROXY_CONFIG": "[]"}, {}, ControlPlane()),
        ({"PROXY_CONFIG": PROXY_CONFIG}, {}, ControlPlane("mesh", "1-31")),
        ({"CA_ADDR": "istiod.istio-system.svc:15012"}, {}, ControlPlane()),
        (
            {"CA_ADDR": "istiod-asm-1-24.aks-istio-system.svc:15012"},
            {},
            ControlPlane("aks-istio-system", "asm-1-24"),
        ),
        (
            {"CA_ADDR": "istiod.aks-istio-system.svc.cluster.local:15012"},
            {"istio.io/rev": "ignored"},
            ControlPlane("aks-istio-system"),
        ),
        (
            {"PROXY_CONFIG": '{"discoveryAddress":"meshconfig.googleapis.com:443"}'},
            {"istio.io/rev": "asm-managed"},
            ControlPlane(""),
        ),
        ({}, {"istio.io/rev": "canary"}, ControlPlane(revision="canary")),
        ({}, {"istio.io/rev": "default"}, ControlPlane()),
        (
            {},
            {"sidecar.istio.io/status": '{"revision":"1-30"}', "istio.io/rev": "prod"},
            ControlPlane(revision="1-30"),
        ),
    ],
)
def test_the_control_plane_of_a_gateway(
    env: dict[str, Any], annotations: dict[str, Any], expected: ControlPlane
) -> None:
    manifest = gateway_pod(env=env, by_istiod=False)
    manifest["metadata"]["annotations"] = annotations
    assert GatewayPod.from_object(manifest).control_plane == expected


def test_a_control_plane_as_messages_name_it() -> None:
    assert str(ControlPlane()) == "istiod.istio-system"
    assert str(ControlPlane("mesh", "1-31")) == "istiod-1-31.mesh"
    assert str(ControlPlane("", address="x:443")) == "x:443"
