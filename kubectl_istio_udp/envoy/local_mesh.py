"""A substitute for a cluster on this machine: pods are DNS servers on loopback addresses."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.envoy.dns_server import DnsServer
from kubectl_istio_udp.envoy.eds import Address, published
from kubectl_istio_udp.envoy.local_gateway import LOOPBACK, raise_file_limit
from kubectl_istio_udp.model.errors import IstioUdpError, UsageError
from kubectl_istio_udp.model.gateway import is_gateway_pod
from kubectl_istio_udp.model.hop import Hop, Via
from kubectl_istio_udp.model.ports import (
    FIRST_UNPRIVILEGED_PORT,
    PRIVILEGED_PORT_OFFSET,
    ExposedPort,
)
from kubectl_istio_udp.model.service import IPV4, EndpointSlice, Service, endpoints_of
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.render.samples import istio_gateway
from kubectl_istio_udp.state.from_manifests import (
    Manifest,
    endpoint_slices,
    namespace_of,
    of_kind,
    pods_from,
    running,
    selected,
    snapshot_from,
)

_COUNT = re.compile(r"(-\d+)?$")


class LocalMeshFailed(IstioUdpError):
    """A server cannot run on this machine."""


@dataclass
class _Running:
    """A running pod and its server."""

    pod: Manifest
    backend: DnsServer
    ready: bool = True


class LocalMesh:
    """A Service with its pods and a gateway's pod; use it in `with`.

    In a cluster each pod has its own network and may use any port. Here ports below 1024 are
    moved up so that any user may bind them, and a pod with taken ports gets the next address.
    """

    def __init__(self, manifests: Sequence[Manifest], name: str | None) -> None:
        """Take a Service, its pods and the gateway from manifests; others are ignored.

        Args:
            manifests: Services, Pods and their controllers. Without a pod of a gateway, one as in
                Istio's installation is added.
            name: the Service; None for the only one with a UDP port.

        Raises:
            UsageError: it is not clear which Service to expose.
        """
        pods = pods_from(manifests)
        gateways = [pod for pod in pods if is_gateway_pod(pod)]
        services = of_kind(manifests, "Service")
        if not gateways:
            pod, in_front = istio_gateway()
            gateways, services = [pod], [*services, in_front]
        found = _choose(services, name)
        backends = selected(found, pods)
        if not backends:
            raise UsageError(
                f"the manifests have no pod of Service {found['metadata']['name']}",
                hints=["add a Pod or a Deployment that its selector selects"],
            )
        self.manifest = _with_bindable_targets(found)
        self.service = Service.from_object(self.manifest)
        self.gateway_pod = str(gateways[0]["metadata"]["name"])
        self._fixed = [running(gateways[0], LOOPBACK)]
        self._fixed += [self.manifest if s is found else s for s in services]
        self._waiting = [_with_bindable_ports(pod) for pod in backends]
        self._running: list[_Running] = []
        self._applied: list[Manifest] = []
        self._addresses = (f"127.0.0.{number}" for number in range(2, 255))
        self._started = 0

    def __enter__(self) -> LocalMesh:
        """Start every pod.

        Raises:
            LocalMeshFailed: a server cannot run on this machine.
        """
        try:
            for pod in self._waiting:
                self._start(pod)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End every server."""
        for each in self._running:
            each.backend.close()
        self._running = []

    @property
    def pods(self) -> dict[str, DnsServer]:
        """The server of each pod, by the pod's name."""
        return {str(each.pod["metadata"]["name"]): each.backend for each in self._running}

    def apply(self, manifests: Iterable[Manifest]) -> None:
        """Take the manifests that would be written to a cluster; ServiceEntries are used."""
        self._applied = list(manifests)

    def start_successor(self, name: str) -> str:
        """Start a copy of a pod, and return its name."""
        pod = next(each.pod for each in self._running if each.pod["metadata"]["name"] == name)
        new = _COUNT.sub(f"-{self._started + 1}", name, count=1)
        self._start({**pod, "metadata": {**pod["metadata"], "name": new}})
        return new

    def unready(self, name: str) -> None:
        """Make a pod unready, like one that is about to end."""
        for each in self._running:
            if each.pod["metadata"]["name"] == name:
                each.ready = False

    def stop(self, name: str) -> None:
        """End a pod."""
        self.pods[name].close()
        self._running = [e for e in self._running if e.pod["metadata"]["name"] != name]

    def endpoints(self) -> dict[str, list[Address]]:
        """The endpoint lists that istiod would publish now."""
        return published(self._objects())

    def snapshot(self) -> Snapshot:
        """The snapshot that `expose` would read now."""
        return snapshot_from(
            self._objects(),
            self.service.namespace,
            self.service.name,
            # The user wrote the files, so a gateway may be in any namespace.
            gateway_namespaces={namespace_of(self._fixed[0])},
            bound=(),
            file_limit=raise_file_limit(),
        )

    def hops(self, ports: Sequence[ExposedPort]) -> list[Hop]:
        """The hops that `verify` would test: every ready pod, then the gateway."""
        slices = [EndpointSlice.from_object(s) for s in of_kind(self._objects(), "EndpointSlice")]
        return [
            *(
                Hop(Via.POD, endpoint.target, endpoint.address, endpoint.port, number)
                for number, name in {p.service_port: p.service_port_name for p in ports}.items()
                for endpoint in endpoints_of(slices, name, (IPV4,))
                if endpoint.ready
            ),
            *(
                Hop(Via.GATEWAY, self.gateway_pod, LOOPBACK, p.listener_port, p.service_port)
                for p in ports
            ),
        ]

    def _objects(self) -> list[Manifest]:
        """All objects that the cluster would have now."""
        pods = [running(e.pod, e.backend.address, ready=e.ready) for e in self._running]
        return [*self._fixed, *pods, *endpoint_slices(self.manifest, pods), *self._applied]

    def _start(self, pod: Manifest) -> None:
        for address in self._addresses:
            slices = endpoint_slices(self.manifest, [running(pod, address)])
            ports = {
                number
                for each in slices
                for (_, protocol), number in EndpointSlice.from_object(each).ports.items()
                if protocol == "UDP"
            }
            try:
                self._running.append(_Running(pod, DnsServer(address, sorted(ports))))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                raise _failed(address, error) from None
            self._started += 1
            return
        raise LocalMeshFailed("other programs use the ports of a pod on every loopback address")


def _failed(address: str, error: OSError) -> LocalMeshFailed:
    text = f"no DNS server can run at {address}: {error.strerror}"
    if error.errno != errno.EADDRNOTAVAIL:
        return LocalMeshFailed(text)
    # Linux has all of 127.0.0.0/8; macOS only has 127.0.0.1.
    return LocalMeshFailed(
        text, hints=[f"give the machine that address: sudo ifconfig lo0 alias {address}"]
    )


def _choose(services: Sequence[Manifest], name: str | None) -> Manifest:
    """The Service to expose: the named one, else the only one with a UDP port.

    Raises:
        UsageError: there is none, or there are several.
    """
    matching = [s for s in services if name in (None, s["metadata"]["name"])]
    udp = [s for s in matching if Service.from_object(s).udp_ports]
    if len(udp) == 1:
        return udp[0]
    listed = ", ".join(str(s["metadata"]["name"]) for s in (udp or services))
    if udp:
        raise UsageError(
            f"the manifests have several Services: {listed}",
            hints=["name one: demo SERVICE -f FILE"],
        )
    wanted = f"no Service {name} with a UDP port" if name else "no Service with a UDP port"
    raise UsageError(f"the manifests have {wanted}", hints=[f"their Services: {listed}"])


def _bindable(number: int) -> int:
    return number if number >= FIRST_UNPRIVILEGED_PORT else number + PRIVILEGED_PORT_OFFSET


def _with_bindable_targets(service: Manifest) -> Manifest:
    ports = []
    for port in service["spec"]["ports"]:
        target = port.get("targetPort") or port["port"]
        ports.append(
            {**port, "targetPort": _bindable(target) if isinstance(target, int) else target}
        )
    metadata = {**service["metadata"], "namespace": namespace_of(service)}
    return {**service, "metadata": metadata, "spec": {**service["spec"], "ports": ports}}


def _with_bindable_ports(pod: Manifest) -> Manifest:
    def moved(container: Mapping[str, Any]) -> dict[str, Any]:
        ports = [
            {**port, "containerPort": _bindable(port["containerPort"])}
            for port in container.get("ports") or ()
        ]
        return {**container, "ports": ports}

    spec = {**pod["spec"], "containers": [moved(c) for c in pod["spec"].get("containers") or ()]}
    return {**pod, "spec": spec}


def replace_every_pod(
    lab: LocalMesh, serve: Callable[[dict[str, list[Address]]], None], between: Callable[[], None]
) -> Iterator[tuple[str, str]]:
    """A rolling restart as by a Deployment: start a pod, make the old one unready, end it.

    Args:
        lab: the local mesh with the pods.
        serve: called with the endpoint lists after each change.
        between: called before each further step.

    Yields:
        The names of the old and the new pod, after each replacement.
    """
    for old in list(lab.pods):
        new = lab.start_successor(old)
        serve(lab.endpoints())
        between()
        lab.unready(old)
        serve(lab.endpoints())
        between()
        lab.stop(old)
        between()
        yield old, new
