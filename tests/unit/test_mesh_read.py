from __future__ import annotations

import pytest

from kubectl_istio_udp.cluster.mesh import read_mesh, root_namespace
from kubectl_istio_udp.model.mesh import Mesh
from tests.unit.mesh_builders import istiod_pod, mesh_config


def test_reads_the_mesh_config(api, server):
    server.put(mesh_config(rootNamespace="mesh-root", accessLogFile="/dev/stdout"), istiod_pod())
    assert read_mesh(api) == Mesh("mesh-root", writes_access_log=True, istio=(1, 31))
    assert root_namespace(api) == "mesh-root"


def test_a_default_provider_writes_an_access_log_too(api, server):
    server.put(mesh_config(defaultProviders={"accessLogging": ["otel"]}))
    assert read_mesh(api).writes_access_log


def test_an_installation_with_a_revision_has_its_own_config(api, server):
    server.put(
        mesh_config("istio-ca-root-cert") | {"data": {"root-cert.pem": "x"}},
        mesh_config("istio-stable", rootNamespace="of-revision"),
        mesh_config("unrelated", rootNamespace="no"),
    )
    assert root_namespace(api) == "of-revision"


def test_the_config_without_a_revision_goes_first(api, server):
    server.put(mesh_config(rootNamespace="plain"), mesh_config("istio-1-31", rootNamespace="other"))
    assert root_namespace(api) == "plain"


@pytest.mark.parametrize("data", [None, {}, {"mesh": ""}, {"mesh": "- a list"}, {"mesh": "{"}])
def test_what_cannot_be_read_is_istios_default(api, server, data):
    server.put(mesh_config() | {"data": data})
    assert read_mesh(api) == Mesh("istio-system", writes_access_log=False, istio=None)


def test_without_any_config_it_is_istios_default(api):
    assert read_mesh(api) == Mesh()


@pytest.mark.parametrize("path", ["/configmaps/istio$", r"/configmaps\b"])
def test_who_may_not_read_it_gets_the_default(api, server, path):
    server.put(mesh_config(rootNamespace="hidden"), istiod_pod(version="1.20.3"))
    server.fail("GET", path, 403)
    assert read_mesh(api) == Mesh(istio=(1, 20))


def test_of_several_istiods_the_oldest_counts(api, server):
    server.put(istiod_pod("a", "1.31.0"), istiod_pod("b", "1.9.4-distroless"), istiod_pod("c", "x"))
    assert read_mesh(api).istio == (1, 9)


def test_an_istiod_that_may_not_be_seen_has_no_version(api, server):
    server.put(mesh_config(rootNamespace="seen"), istiod_pod())
    server.fail("GET", "/istio-system/pods", 403)
    assert read_mesh(api) == Mesh("seen")
