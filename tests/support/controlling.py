"""Controllers in this process, and queries about their cluster."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kubectl_istio_udp.controller.outcome import Outcome
from kubectl_istio_udp.controller.run import Controller, Settings
from kubectl_istio_udp.controller.waits import Timing
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.exposure import Discovery, ExposureSpec
from kubectl_istio_udp.model.ports import PortRequest
from kubectl_istio_udp.render.exposure import writes
from tests.support import builders
from tests.support.apiserver import ApiServer, Request
from tests.support.clock import MovedClock

NAME = "udp-default-coredns"
EXPOSE = "kubectl-istio-udp/expose"


def space(name: str, allow: str | None = "5300-5399", **notes: str) -> dict[str, Any]:
    found = builders.namespace(name)
    if allow is not None:
        notes.setdefault("kubectl-istio-udp/allow", allow)
    found["metadata"]["annotations"] = {
        "kubectl-istio-udp/allow-endpoints": "10.0.0.0/8, 192.0.2.0/24",
        **notes,
    }
    return found


def annotated(name: str = "coredns", ports: str = "5300:53", **more: Any) -> dict[str, Any]:
    """A Service that requests to be exposed; `options` are more annotations."""
    options = {f"kubectl-istio-udp/{k}": v for k, v in more.pop("options", {}).items()}
    created = more.pop("created", None)
    found = builders.service(name, annotations={EXPOSE: ports, **options}, **more)
    if created:
        found["metadata"]["creationTimestamp"] = created
    return found


def until(check: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait until something is true, and return it.

    Only a busy machine needs this long; the limit ends a failing test.
    """
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)
    return found


def reconcile(controller: Controller, key: tuple[str, str]) -> Outcome:
    """Reconcile an exposure in this thread."""
    return controller._reconciler.reconcile(key, controller.caches.intent(key))


class Running:
    """Running controllers, and queries about the cluster.

    Attributes:
        clock: the controllers' time.
        timing: what controllers wait for that start from now on.
    """

    def __init__(self, api: Api, server: ApiServer) -> None:
        self.api, self.server = api, server
        self.controllers: list[Controller] = []
        self.clock = MovedClock()
        self.timing = Timing(listener=0.05, cooldown=0.05, replace=0.05)

    def wait_for(self, **seconds: float) -> None:
        """Set the waits of controllers that start from now on."""
        self.timing = dataclasses.replace(self.timing, **seconds)

    def start(self, identity: str = "one", **settings: Any) -> Controller:
        usual = {
            "namespace": "istio-system",
            "gateway_namespaces": ("istio-system",),
            "root_namespaces": ("istio-system",),
            "file_limit": 65_536,
            "elect": False,
            "port": 0,
            "timing": self.timing,
        }
        asked = Settings(identity, **{**usual, **settings})
        controller = Controller(self.api, asked, self.clock)
        self.controllers.append(controller)
        controller.start()
        return controller

    def stop(self) -> None:
        for controller in self.controllers:
            controller.stop()

    @contextmanager
    def late_renewal(self, controller: Controller) -> Iterator[None]:
        """The API server holds the renewal of the Lease until the controller may not write."""
        comes, goes_on = threading.Event(), threading.Event()

        def seen(request: Request) -> None:
            if request.method == "PUT" and "/leases/" in request.path:
                comes.set()
                assert goes_on.wait(60)

        self.server.seen = seen
        self.clock.move(6.0)
        assert comes.wait(60)
        self.clock.move(5.0)
        assert not controller._may_write()
        try:
            yield
        finally:
            goes_on.set()

    def quiet(self) -> list[str]:
        """Wait until nothing is due and there are no requests for a while; return the writes."""
        deadline, still = time.monotonic() + 60, 0
        while time.monotonic() < deadline:
            asked, worked = len(self.server.requests), time.process_time()
            # Many waits, because a busy machine may not run this process at all during one.
            for _ in range(20):
                time.sleep(0.0025)
            idle = time.process_time() - worked < 0.01 and len(self.server.requests) == asked
            idle = idle and not self._is_anything_due()
            still = still + 1 if idle else 0
            if still == 3:
                return self.server.writes()
        raise AssertionError(f"it goes on asking: {self.server.requests[-5:]}")

    def _is_anything_due(self) -> bool:
        """Whether a delay has ended that no worker has noticed: each looks at the clock again."""
        queues = [
            queue for each in self.controllers for queue in (each._queue, each._reporter._queue)
        ]
        return any(due <= self.clock() for queue in queues for due in tuple(queue._due.values()))

    def entry(self, name: str = NAME, namespace: str = "istio-system") -> Any:
        return self.server.get("ServiceEntry", namespace, name)

    def filter(self, name: str = NAME) -> Any:
        return self.server.get("EnvoyFilter", "istio-system", name)

    def spec(self, name: str = NAME) -> ExposureSpec:
        return ExposureSpec.from_json(
            self.filter(name)["metadata"]["annotations"]["kubectl-istio-udp/spec"]
        )

    def addresses(self, name: str = NAME) -> list[str]:
        entry = self.entry(name)
        return [e["address"] for e in entry["spec"].get("endpoints", ())] if entry else []

    def has(self, addresses: list[str]) -> bool:
        return self.addresses() == addresses

    def exposed(self, name: str = NAME) -> Any:
        return until(lambda: self.filter(name) and self.companion(name))

    def companion(self, name: str = NAME) -> Any:
        return self.server.get("Service", "istio-system", name)

    def told(self, service: str = "coredns") -> list[str]:
        return [
            f"{e['reason']}: {e['message']}"
            for e in self.server.all("Event")
            if e["involvedObject"]["name"] == service
        ]

    def tells(self, what: str, service: str = "coredns") -> str:
        found: str = until(lambda: next((t for t in self.told(service) if what in t), None))
        return found


def expose_by_hand(server: ApiServer, discovery: str, name: str = "coredns") -> None:
    """What `expose` writes."""
    planned = builders.plan_of(
        ports=[PortRequest(5300, 53)], discovery=Discovery(discovery), name=name
    )
    for write in writes(planned.exposure):
        server.apply(write.key, dict(write.manifest), write.manager, False, False)


def filter_changes(running: Running) -> list[str]:
    return [w for w in running.server.writes() if "PATCH" in w and "envoyfilters" in w]


def next_of(controller: Controller) -> tuple[str, str]:
    """The exposure that is reconciled next."""
    taken = controller._queue.take(0)
    assert taken is not None
    return taken[0]
