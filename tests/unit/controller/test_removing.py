"""What the controller removes, and in which order."""

from __future__ import annotations

from typing import Any

import pytest

from kubectl_istio_udp.controller.objects import marked
from kubectl_istio_udp.model.names import service_manager
from kubectl_istio_udp.model.ports import PortRequest
from kubectl_istio_udp.render.exposure import writes
from tests.support import builders
from tests.support.controlling import (
    NAME,
    Running,
    annotated,
    space,
    until,
)


@pytest.mark.parametrize("how", ["annotation", "service", "namespace", "permission"])
def test_withdrawing_a_request_deletes_everything_listener_first(
    running: Running, how: str
) -> None:
    running.start()
    running.server.put(annotated())
    running.exposed()
    running.quiet()
    history: list[str] = []

    def note(request: Any) -> None:
        found = running.filter()
        kinds = [p["applyTo"] for p in found["spec"]["configPatches"]] if found else []
        if request.method in ("PATCH", "DELETE") and "/events/" not in request.path:
            history.append(f"{request.method} {request.path.split('/')[-2]} {kinds}")

    running.server.seen = note
    if how == "annotation":
        running.server.put(builders.service())
    elif how == "service":
        running.server.remove("Service", "default", "coredns")
    elif how == "namespace":
        running.server.remove("Namespace", "", "default")
    else:
        running.server.put(space("default", None))
    until(lambda: not running.filter() and not running.entry() and not running.companion())
    assert history == [
        "DELETE services ['CLUSTER', 'LISTENER', 'CLUSTER']",
        "PATCH envoyfilters ['CLUSTER', 'LISTENER', 'CLUSTER']",
        "DELETE envoyfilters ['CLUSTER', 'CLUSTER']",
        "DELETE serviceentries []",
    ]


@pytest.mark.parametrize("by", ["person", "controller"])
def test_deletes_what_is_left_of_a_deleted_namespace(running: Running, by: str) -> None:
    """Whoever created it; nobody else can find it any more."""
    for write in writes(builders.plan_of(ports=[PortRequest(5300, 53)]).exposure):
        made = marked(write) if by == "controller" else write
        running.server.apply(made.key, dict(made.manifest), made.manager, False, False)
    for kind, name in (("ServiceEntry", NAME), ("Service", "coredns")):
        running.server.remove(kind, "default", name)
    running.server.remove("Namespace", "", "default")
    running.start()
    until(lambda: not running.filter() and not running.companion())


def test_thousands_of_entries_of_one_exposure_are_deleted_a_few_at_a_time(running: Running) -> None:
    """They are deleted a few at a time; exposures of the command line are not changed."""
    controller = running.start()
    running.server.put(annotated())
    running.exposed()
    running.quiet()
    (forged,) = (w.manifest for w in writes(planned_here()) if w.kind == "ServiceEntry")
    for number in range(30):
        metadata = {**forged["metadata"], "namespace": "default", "name": f"{NAME}.{number}"}
        running.server.put({**forged, "metadata": metadata})
        own = controller.caches.existing(("default", "coredns"))
        assert len([o for o in own.objects if o["metadata"]["namespace"] == "default"]) <= 4
    running.quiet()
    left = [key for key in running.server.there() if key[:2] == ("ServiceEntry", "default")]
    assert left == [] and running.spec().namespace == "default"


def planned_here() -> Any:
    """A plan of the exposure that `annotated` asks for."""
    return builders.plan_of(ports=[PortRequest(5300, 53)]).exposure


def test_ports_on_a_service_of_another_namespace_are_not_released(running: Running) -> None:
    """Whoever writes Services there chooses the field manager."""
    manager = service_manager("default", "coredns")
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "theirs", "namespace": "lab"},
        "spec": {"ports": [{"name": "udp-5300", "port": 5300, "protocol": "UDP"}]},
    }
    running.server.put(space("lab"), builders.service("theirs", namespace="lab", ports=[]))
    running.server.apply(("Service", "lab", "theirs"), theirs, manager, False, False)
    running.start(gateway_namespaces=("istio-system", "lab"))
    running.server.put(annotated())
    running.exposed()
    running.server.put(builders.service())
    until(lambda: not running.filter())
    writes_there = [w for w in running.server.writes() if "/namespaces/lab/services" in w]
    assert not [w for w in writes_there if w.startswith("PATCH")]
