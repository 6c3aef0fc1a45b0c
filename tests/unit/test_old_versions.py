"""A cluster with an Istio so old that it only serves the first versions of its API."""

from __future__ import annotations

import pytest

from tests.support.apiserver import ApiServer
from tests.support.fakes import Fakes
from tests.support.mesh_builders import istio_gateway
from tests.unit.conftest import Run

KINDS = ("ServiceEntry", "VirtualService", "Gateway", "EnvoyFilter")


@pytest.mark.parametrize("version", ["v1alpha3", "v1beta1", "v1"])
def test_everything_works_with_the_versions_that_the_cluster_serves(
    run: Run, server: ApiServer, fakes: Fakes, version: str
) -> None:
    for kind in KINDS:
        served = "v1alpha3" if kind == "EnvoyFilter" else version
        server.served[kind] = {f"networking.istio.io/{served}"}
    server.put(istio_gateway() | {"apiVersion": f"networking.istio.io/{version}"})
    assert run("expose", "coredns", "-p", "5300:53").code == 0, run.err
    (entry,) = server.all("ServiceEntry")
    assert entry["apiVersion"] == f"networking.istio.io/{version}"
    again = run("expose", "coredns", "-p", "5300:53")
    assert again.code == 0 and "unchanged" in again.out
    assert "coredns" in run("get").out
    made = run("direct", "response", "/hello", "--body", "x", "--host", "a.example", "--no-wait")
    assert made.code == 0, made.err
    (virtual_service,) = server.all("VirtualService")
    assert virtual_service["apiVersion"] == f"networking.istio.io/{version}"
    assert run("delete", "--all").code == 0, run.err
    assert not server.all("ServiceEntry") and not server.all("VirtualService")
