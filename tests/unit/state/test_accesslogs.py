"""What `access-log` reads before it decides."""

from __future__ import annotations

from typing import Any

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.accesslog import LogScope
from kubectl_istio_udp.model.errors import Forbidden
from kubectl_istio_udp.model.logscope import AccessLogSnapshot
from kubectl_istio_udp.model.mesh import Mesh
from kubectl_istio_udp.state.accesslogs import read_access_log_snapshot
from tests.support.apiserver import ApiServer
from tests.support.builders import metadata
from tests.support.mesh_builders import access_log, envoy_filter, put, sidecar_pod

MESH = Mesh("istio-system", writes_access_log=True, istio=(1, 31))


def telemetry(namespace: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "telemetry.istio.io/v1alpha1",
        "kind": "Telemetry",
        "metadata": metadata(namespace, "t"),
        "spec": spec,
    }


def read(
    api: Api, namespace: str = "default", name: str = "namespace", mesh: Mesh = MESH
) -> AccessLogSnapshot:
    return read_access_log_snapshot(api, mesh, namespace, name)


def owners(snapshot: AccessLogSnapshot) -> list[str]:
    return [setting.owner for setting in snapshot.settings]


def test_reads_the_namespaces_proxies(api: Api, server: ApiServer) -> None:
    server.put(
        sidecar_pod("web-1", version="1.30.2"),
        sidecar_pod("web-2", native=True, version="edge"),
        sidecar_pod("done", phase="Succeeded"),
        sidecar_pod("elsewhere", namespace="lab"),
    )
    snapshot = read(api)
    assert snapshot.mesh == MESH
    assert [(p.name, p.istio) for p in snapshot.proxies] == [("web-1", (1, 30)), ("web-2", None)]
    assert snapshot.proxies[0].labels == {"app": "web"}
    assert (snapshot.settings, snapshot.objects, snapshot.present) == ((), (), None)
    assert snapshot.telemetry_logs is False


def test_in_the_root_namespace_every_proxy_is_selected(api: Api, server: ApiServer) -> None:
    server.put(sidecar_pod("a"), sidecar_pod("b", namespace="lab"))
    put(server, access_log(), access_log(namespace="lab"))
    server.put(telemetry("lab", accessLogging=[{}]))
    snapshot = read(api, "istio-system", "mesh")
    assert {p.name for p in snapshot.proxies} == {"a", "b", "istio-ingressgateway-1"}
    assert owners(snapshot) == [
        "default/accesslog-default-namespace",
        "lab/accesslog-lab-namespace",
    ]
    assert snapshot.telemetry_logs is True


def test_finds_the_existing_access_log(api: Api, server: ApiServer) -> None:
    mine = access_log()
    put(server, mine, access_log("other", selector={"app": "x"}))
    put(server, access_log("mesh", namespace="istio-system", scope=LogScope.MESH))
    put(server, access_log(namespace="lab"))
    server.put(envoy_filter("theirs", namespace="default"))
    snapshot = read(api)
    assert snapshot.present == mine
    assert [o["metadata"]["name"] for o in snapshot.objects] == ["accesslog-default-namespace"]
    assert (
        owners(snapshot)
        == [
            "default/accesslog-default-namespace",
            "default/accesslog-default-other",
            "istio-system/accesslog-istio-system-mesh",
        ]
        or len(owners(snapshot)) == 3
    )


def test_finds_another_object_with_the_same_name(api: Api, server: ApiServer) -> None:
    server.put(envoy_filter("accesslog-default-namespace", namespace="default"))
    snapshot = read(api)
    assert len(snapshot.objects) == 1
    assert snapshot.present is None


@pytest.mark.parametrize(
    ("namespace", "spec", "expected"),
    [
        ("default", {"accessLogging": [{}]}, True),
        ("istio-system", {"accessLogging": [{"providers": [{"name": "envoy"}]}]}, True),
        ("default", {"accessLogging": [{"disabled": True}]}, False),
        ("default", {"accessLogging": [{"disabled": True}, {}]}, True),
        ("default", {"metrics": [{}]}, False),
        ("lab", {"accessLogging": [{}]}, False),
    ],
)
def test_whether_a_telemetry_turns_logging_on(
    api: Api, server: ApiServer, namespace: str, spec: dict[str, Any], expected: bool
) -> None:
    server.put(telemetry(namespace, **spec))
    assert read(api).telemetry_logs is expected


def test_an_istio_without_telemetries_has_none(api: Api, server: ApiServer) -> None:
    server.installed.discard("Telemetry")
    assert read(api).telemetry_logs is False


def test_a_root_namespace_that_may_not_be_read_is_ignored(api: Api, server: ApiServer) -> None:
    put(server, access_log("mesh", namespace="istio-system", scope=LogScope.MESH))
    put(server, access_log("other"))
    server.put(telemetry("istio-system", accessLogging=[{}]))
    for plural in ("envoyfilters", "telemetries"):
        server.fail("GET", f"/istio-system/{plural}", 403)
    snapshot = read(api)
    assert owners(snapshot) == ["default/accesslog-default-other"]
    assert snapshot.telemetry_logs is False


@pytest.mark.parametrize("plural", ["envoyfilters", "pods", "telemetries"])
def test_the_namespace_itself_must_be_readable(api: Api, server: ApiServer, plural: str) -> None:
    server.fail("GET", f"/default/{plural}", 403)
    with pytest.raises(Forbidden, match=plural):
        read(api)
