"""The controller judges the gateway's mesh by the rules that the command line has."""

from __future__ import annotations

from typing import Any

import pytest

from kubectl_istio_udp.model.exposure import Discovery
from tests.support import builders
from tests.support.builders import service, tcp, udp
from tests.support.controlling import Running, annotated, space, until
from tests.support.mesh_builders import istiod_pod, mesh_config

CONFIG: dict[str, Any] = {"mesh_configs": (("istio-system", "istio"),)}
# Every discovery is allowed, so that the mesh decides which one it is.
FREE = {"kubectl-istio-udp/allow-discovery": "selector,endpoints"}


def read_namespaces(*names: str) -> dict[str, Any]:
    key = "kubernetes.io/metadata.name"
    expression = {"key": key, "operator": "In", "values": list(names)}
    return {"discoverySelectors": [{"matchExpressions": [expression]}]}


def labelled(found: dict[str, Any]) -> dict[str, Any]:
    """A Namespace with the label that the API server gives it."""
    name = found["metadata"]["name"]
    found["metadata"]["labels"] = {"kubernetes.io/metadata.name": name}
    return found


@pytest.fixture
def meshed(running: Running) -> Running:
    running.server.put(
        labelled(space("default", **FREE)), labelled(builders.namespace("istio-system"))
    )
    return running


def test_a_namespace_that_istiod_does_not_read_gets_a_list_of_endpoints(meshed: Running) -> None:
    meshed.server.put(mesh_config(**read_namespaces("istio-system")), annotated())
    meshed.start(**CONFIG)
    meshed.exposed()
    assert meshed.spec().discovery is Discovery.ENDPOINTS


def test_it_follows_a_change_of_the_mesh(meshed: Running) -> None:
    meshed.server.put(annotated())
    meshed.start(**CONFIG)
    meshed.exposed()
    assert meshed.spec().discovery is Discovery.SELECTOR
    meshed.server.put(mesh_config(**read_namespaces("istio-system")))
    until(lambda: meshed.spec().discovery is Discovery.ENDPOINTS)


def test_a_gateway_in_a_namespace_that_istiod_does_not_read_is_refused(meshed: Running) -> None:
    meshed.server.put(mesh_config(**read_namespaces("default")), annotated())
    meshed.start(**CONFIG)
    assert "ExposeRefused" in meshed.tells("does not read a namespace of this exposure")
    assert meshed.filter() is None
    found = labelled(builders.namespace("istio-system"))
    found["metadata"]["labels"]["kubernetes.io/metadata.name"] = "default"
    meshed.server.put(found)
    meshed.exposed()


def test_a_service_that_the_mesh_hides_gets_a_list_of_endpoints(meshed: Running) -> None:
    """Otherwise the endpoints of the TCP port with the same number would be used."""
    found = service(ports=[udp(), tcp()], annotations={"kubectl-istio-udp/expose": "5300:53"})
    meshed.server.put(mesh_config(defaultServiceExportTo=["."]), found)
    meshed.start(**CONFIG)
    meshed.exposed()
    assert meshed.spec().discovery is Discovery.ENDPOINTS


def of_another_gateway(target: str) -> dict[str, Any]:
    """An EnvoyFilter for one Gateway of the Gateway API, which Istio before 1.27 gives to all."""
    value = {
        "name": "theirs",
        "address": {
            "socket_address": {"protocol": "UDP", "address": "0.0.0.0", "port_value": 5300}
        },
    }
    reference = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": target}
    return {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": builders.metadata("istio-system", "theirs"),
        "spec": {
            "targetRefs": [reference],
            "configPatches": [
                {
                    "applyTo": "LISTENER",
                    "match": {"context": "GATEWAY"},
                    "patch": {"operation": "ADD", "value": value},
                }
            ],
        },
    }


@pytest.mark.parametrize(("version", "exposed"), [("1.26.3", False), ("1.31.0", True)])
def test_what_istiod_ignores_depends_on_its_version(
    meshed: Running, version: str, exposed: bool
) -> None:
    meshed.server.put(istiod_pod(version=version), of_another_gateway("other"), annotated())
    meshed.start(**CONFIG)
    if exposed:
        meshed.exposed()
    else:
        assert "taken" in meshed.tells("5300")
        assert meshed.filter() is None
        # The controller notices an upgrade of istiod.
        meshed.server.put(istiod_pod(version="1.31.0"))
        meshed.exposed()


def test_filters_of_the_root_namespace_that_the_mesh_names_count(meshed: Running) -> None:
    theirs = of_another_gateway("any")
    theirs["metadata"]["namespace"] = "root"
    del theirs["spec"]["targetRefs"]
    meshed.server.put(builders.namespace("root"), mesh_config(rootNamespace="root"), theirs)
    meshed.server.put(annotated())
    meshed.start(**CONFIG, root_namespaces=("root",))
    assert "taken" in meshed.tells("5300")
    assert meshed.filter() is None


def test_a_mesh_that_cannot_be_read_is_as_the_flags_say(meshed: Running) -> None:
    theirs = of_another_gateway("any")
    theirs["metadata"]["namespace"] = "root"
    del theirs["spec"]["targetRefs"]
    meshed.server.put(builders.namespace("root"), theirs, annotated())
    meshed.start(root_namespaces=("root",))
    assert "taken" in meshed.tells("5300")
    assert meshed.filter() is None
