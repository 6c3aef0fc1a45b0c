"""The EnvoyFilter of an access log."""

from __future__ import annotations

from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.names import labels
from kubectl_istio_udp.render.accesslog import access_log_writes
from tests.support.mesh_builders import access_log


def test_it_has_the_labels_of_its_access_log() -> None:
    (write,) = access_log_writes(access_log("x", namespace="lab"))
    assert write.manifest["metadata"]["labels"] == labels(Kind.ACCESS_LOG, "lab", "x")
