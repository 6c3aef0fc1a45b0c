"""Users who may only list in their namespace and the gateway's, which is not istio-system."""

from __future__ import annotations

from typing import Any

import pytest

from kubectl_istio_udp.model.gateway import GATEWAYS_LABEL
from kubectl_istio_udp.model.names import GATEWAY_ANNOTATION
from tests.support import builders
from tests.support.apiserver import ApiServer
from tests.support.fakes import Fakes
from tests.unit.conftest import Run

EXPOSE = ("expose", "coredns", "-p", "5300:53", "--gateway", "edge/edge", "--no-wait")
NAMED = ("--gateway-namespace", "edge")


@pytest.fixture(params=["endpoints", "selector"])
def exposed(server: ApiServer, fakes: Fakes, run: Run, request: pytest.FixtureRequest) -> ApiServer:
    """An exposure at gateway edge/edge, and no more rights than in default and in edge."""
    server.put(builders.namespace("edge"), *gateway())
    done = run(*EXPOSE, "--validate", "none", "--discovery", request.param)
    assert done.code == 0, done.err
    limit(server)
    return server


def gateway() -> list[dict[str, Any]]:
    pod = builders.gateway_pod("edge-1", namespace="edge", labels={"istio": "edge"})
    service = builders.gateway_service("edge", namespace="edge", selector={"istio": "edge"})
    return [pod, service]


def limit(server: ApiServer) -> None:
    server.permits = lambda _, __, namespace, ___: namespace in ("default", "edge")


def label(server: ApiServer) -> None:
    edge = builders.namespace("edge")
    edge["metadata"]["labels"] = {GATEWAYS_LABEL: "true"}
    server.put(edge)
    server.permits = lambda _, kind, namespace, ___: (
        namespace in ("default", "edge") or kind == "Namespace"
    )


def annotate(server: ApiServer) -> None:
    service = server.get("Service", "default", "coredns")
    service["metadata"]["annotations"][GATEWAY_ANNOTATION] = "edge/edge"
    server.put(service)


@pytest.mark.parametrize("named_by", [label, annotate, None], ids=["label", "annotation", "option"])
def test_the_exposure_is_found(run: Run, exposed: ApiServer, named_by: Any) -> None:
    if named_by:
        named_by(exposed)
    words = () if named_by else NAMED
    got = run("get", *words)
    assert got.code == 0, got.err
    assert "edge/edge" in got.out and "2/2" in got.out
    for verb in (("get", "coredns"), ("describe", "coredns"), ("verify", "coredns")):
        done = run(*verb, *words)
        assert done.code == 0, (verb, done.err, done.out)
    assert run("delete", "coredns", "--no-wait", *words).code == 0
    assert [e for e in exposed.all("EnvoyFilter") if e["metadata"]["namespace"] == "edge"] == []


def test_exposing_again_finds_the_exposure_at_the_named_gateway(
    run: Run, exposed: ApiServer
) -> None:
    """EnvoyFilters of the root namespace must be read too: they may apply to all gateways."""
    exposed.permits = lambda _, kind, namespace, ___: (
        namespace in ("default", "edge") or (kind, namespace) == ("EnvoyFilter", "istio-system")
    )
    before = exposed.all("ServiceEntry")
    done = run(*EXPOSE, "--validate", "none")
    assert done.code == 0, done.err
    assert exposed.all("ServiceEntry") == before


def test_who_does_not_find_it_reads_what_to_type(run: Run, server: ApiServer) -> None:
    limit(server)
    hint = "for a gateway in another namespace: --gateway-namespace NAMESPACE"
    for words in (("get",), ("get", "coredns"), ("verify", "coredns"), ("delete", "coredns")):
        done = run(*words)
        assert done.code == 3 and hint in done.err, (words, done.err)
    done = run("get", *NAMED)
    assert done.code == 0 and "No exposures" in done.err and hint in done.err
    done = run("verify", "coredns", *NAMED)
    assert done.code == 3 and "exposure coredns not found" in done.err and hint in done.err
