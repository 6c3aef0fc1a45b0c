"""Which ports of a Gateway its gateway's Envoys serve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kubectl_istio_udp.controller.conditions import Why
from kubectl_istio_udp.controller.outcome import Unavailable
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.watch import Key
from kubectl_istio_udp.model.envoyfilter import revisions
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.gateway import GatewayPod
from kubectl_istio_udp.model.ports import ExposedPort
from kubectl_istio_udp.model.proxystate import BoundListener, ProxyState, Revisions
from kubectl_istio_udp.state import proxies
from kubectl_istio_udp.state.caches import Caches
from kubectl_istio_udp.state.ownership import Existing

# A response takes milliseconds. A pod that poses as a gateway and never responds must not hold up
# the reports about others.
_QUERY_SECONDS = 5.0


@dataclass(frozen=True)
class Programming:
    """What the ready pods of a gateway say about the ports of an exposure.

    Attributes:
        lacking: reason and message why a port is not served yet, by gateway port.
        taken: why the gateway cannot serve a port, by gateway port.
    """

    lacking: Mapping[int, Why] = field(default_factory=dict)
    taken: Mapping[int, Unavailable] = field(default_factory=dict)


class Programmer:
    """Asks gateways' Envoys, and remembers which of them had everything."""

    def __init__(self, api: Api, caches: Caches) -> None:
        """Take the cluster for queries, and its state."""
        self._api, self._caches = api, caches
        # The configuration of each exposure that these pods of its gateway were found to have.
        self._seen: dict[Key, tuple[object, frozenset[tuple[str, str]]]] = {}

    def clear(self) -> None:
        """Forget what was found while another replica may have led."""
        self._seen.clear()

    def forget(self, key: Key) -> None:
        """Forget what was found about an exposure."""
        self._seen.pop(key, None)

    def read(self, existing: Existing, spec: ExposureSpec) -> Programming:
        """Find what the ready pods of an exposure's gateway lack.

        Nothing is queried while neither the exposure nor the set of ready pods changes.

        Args:
            existing: the exposure.
            spec: its settings in its EnvoyFilter.

        Raises:
            ClusterError: a pod could not be queried.
        """
        envoy_filter = existing.object("EnvoyFilter")
        wanted = revisions(envoy_filter or {})
        pods = [
            pod for gateway in self._caches.gateways_at(spec.gateway) for pod in gateway.ready_pods
        ]
        if not pods:
            self.forget(spec.key)
            why = ("Pending", f"gateway {spec.gateway} has no ready pod")
            return Programming({port.gateway_port: why for port in spec.ports})
        seen = (wanted, frozenset((pod.name, pod.uid) for pod in pods))
        if self._seen.get(spec.key) == seen:
            return Programming()
        found = self._query(spec, wanted, pods)
        if found == Programming():
            self._seen[spec.key] = seen
        return found

    def _query(
        self, spec: ExposureSpec, wanted: Mapping[str, Revisions], pods: list[GatewayPod]
    ) -> Programming:
        self.forget(spec.key)
        lacking: dict[int, Why] = {}
        taken: dict[int, Unavailable] = {}
        for pod in pods:
            state, bound = proxies.configuration(
                self._api, spec.gateway.namespace, pod.name, f"{spec.object_name}-", _QUERY_SECONDS
            )
            for port in spec.ports:
                for why in _lack(spec, port, wanted, pod.name, state):
                    lacking.setdefault(port.gateway_port, why)
                for other in _others(port, bound):
                    taken.setdefault(port.gateway_port, other)
        return Programming(lacking, taken)


def _lack(
    spec: ExposureSpec,
    port: ExposedPort,
    wanted: Mapping[str, Revisions],
    pod: str,
    state: ProxyState,
) -> Iterator[Why]:
    """Why a pod does not serve a port, if it does not."""
    listener = spec.proxy_name(port)
    clusters = [spec.cluster_name(port, backend) for backend in port.backends]
    lack = state.first_lack(
        {listener: wanted["LISTENER"].get(listener, "")},
        {name: wanted["CLUSTER"].get(name, "") for name in clusters},
    )
    if lack is not None:
        yield ("Invalid" if lack.refusal else "Pending", f"gateway pod {pod} {lack}")


def _others(port: ExposedPort, bound: tuple[BoundListener, ...]) -> Iterator[Unavailable]:
    """Which listener of istiod has the port. EnvoyFilters that add one are counted elsewhere."""
    for each in bound:
        if each.protocol == "UDP" and each.port == port.listener_port:
            yield Unavailable(
                f"port {port.gateway_port}/UDP of the gateway is taken by listener {each.name} "
                "of Istio (HTTP/3)",
                conflicts=True,
            )
