"""Measure the cost of a decision beside many exposures, and how long other threads wait for it.

    .venv/bin/python -m bench.decision --exposures 1000

Against the API server in this process (tests/support/apiserver.py), which answers at once. Prints
the CPU time of the controller's thread for a changed exposure, which touches the gateway, and the
part of it for which it holds the lock that all decisions about gateways take.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

from kubectl_istio_udp.controller.objects import marked
from kubectl_istio_udp.controller.run import Controller, Settings
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.kubeconfig import ConnectionOptions
from kubectl_istio_udp.model.ports import PortRequest
from kubectl_istio_udp.render.exposure import writes
from tests.support import builders
from tests.support.apiserver import ApiServer

KEY = ("default", "coredns")
CHANGES = 20
ALLOWED = {
    "allow": "1-65535",
    "allow-endpoints": "10.0.0.0/8",
    "allow-total-ports": "50000",
    "allow-total-sessions": "5000000",
}


class TimedLock:
    """A lock that notes the CPU seconds of who held it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._lock, self._begun = threading.Lock(), 0.0

    def __enter__(self) -> None:
        self._lock.acquire()
        self._begun = time.thread_time()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.seconds.append(time.thread_time() - self._begun)
        self._lock.release()


def envoy_filters(count: int) -> list[dict[str, Any]]:
    """The EnvoyFilters of this many exposures of namespace `default`, with a port each."""
    made = []
    for number in range(count):
        planned = builders.plan_of(
            ports=[PortRequest(10_000 + number, 53)], name=f"x{number}", max_sessions=50
        )
        made += [marked(w).manifest for w in writes(planned.exposure) if w.kind == "EnvoyFilter"]
    return [dict(manifest) for manifest in made]


def service(idle_seconds: int) -> dict[str, Any]:
    """A Service that requests port 5300."""
    notes = {"expose": "5300:53", "max-sessions": "100", "idle-timeout": f"{idle_seconds}s"}
    return builders.service(annotations={f"kubectl-istio-udp/{k}": v for k, v in notes.items()})


def wait_for(check: Any) -> None:
    while not check():
        time.sleep(0.02)


def measure(count: int) -> dict[str, float]:
    server = ApiServer()
    namespace = builders.namespace("default")
    notes = {f"kubectl-istio-udp/{key}": value for key, value in ALLOWED.items()}
    namespace["metadata"]["annotations"] = notes
    server.put(*builders.cluster(), namespace, *envoy_filters(count))
    with tempfile.TemporaryDirectory() as folder:
        config = server.kubeconfig(Path(folder) / "config")
        api = Api.connect(ConnectionOptions(kubeconfig=str(config)))
    places = ("istio-system",)
    settings = Settings("one", *places, places, places, 10**9, elect=False, port=None, workers=0)
    controller = Controller(api, settings)
    reconciler, lock = controller._reconciler, TimedLock()
    reconciler._reserver._deciding = lock  # type: ignore[assignment]
    controller.start()
    wait_for(controller._may_write)
    looks = []
    for number in range(CHANGES + 1):
        server.put(service(20 + number))

        def heard(number: int = number) -> bool:
            intent: Any = controller.caches.intent(KEY)
            return bool(intent) and intent.request.options.idle_timeout.seconds == 20 + number

        wait_for(heard)
        reconciler._waits.clear()
        begun = time.thread_time()
        outcome = reconciler.reconcile(KEY, controller.caches.intent(KEY))
        looks.append(time.thread_time() - begun)
        assert outcome.state == "ok", outcome
    controller.stop()
    server.stop()
    # The first look makes the exposure.
    return {
        "exposures": count,
        "look_cpu_ms": round(1000 * median(looks[1:]), 1),
        "lock_cpu_ms": round(1000 * median(lock.seconds[1:]), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--exposures", type=int, default=1000)
    print(json.dumps(measure(parser.parse_args().exposures)))


if __name__ == "__main__":
    main()
