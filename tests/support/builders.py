"""Manifests as a cluster would hold them, and what the model makes of them."""

from __future__ import annotations

import socket
from typing import Any

from kubectl_istio_udp.model.exposure import Options
from kubectl_istio_udp.model.gateway import Gateway, GatewayPod, GatewayRef
from kubectl_istio_udp.model.request import ExposeRequest
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.model.usage import Holder, Usage, used_by
from kubectl_istio_udp.plan.exposure import Plan, plan
from kubectl_istio_udp.state.from_manifests import snapshot_from

Manifest = dict[str, Any]
GATEWAY_LABELS = {"app": "istio-ingressgateway", "istio": "ingressgateway"}
CREATED = "2026-01-02T03:04:05Z"


def metadata(namespace: str, name: str, **more: Any) -> Manifest:
    return {"name": name, "namespace": namespace, "creationTimestamp": CREATED, **more}


def namespace(name: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def udp(port: int = 53, name: str = "udp-dns", target: int | str | None = None) -> Manifest:
    return {"name": name, "port": port, "protocol": "UDP", "targetPort": target or port}


def tcp(port: int = 53, name: str = "tcp-dns", target: int | str | None = None) -> Manifest:
    return {"name": name, "port": port, "protocol": "TCP", "targetPort": target or port}


def service(
    name: str = "coredns", *, namespace: str = "default", ports: Any = None, **spec: Any
) -> Manifest:
    notes = spec.pop("annotations", None)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(namespace, name, **({"annotations": notes} if notes else {})),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "10.96.0.53",
            "selector": {"app": name},
            "ports": [udp()] if ports is None else ports,
            **spec,
        },
    }


def endpoint(address: str, pod: str = "", **conditions: Any) -> Manifest:
    entry: Manifest = {"addresses": [address], "conditions": {"ready": True, **conditions}}
    if pod:
        entry["targetRef"] = {"kind": "Pod", "name": pod, "namespace": "default"}
    return entry


def endpoint_slice(
    *endpoints: Manifest,
    of: str = "coredns",
    namespace: str = "default",
    family: str = "IPv4",
    ports: Any = None,
    suffix: str = "abc",
) -> Manifest:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata(
            namespace, f"{of}-{suffix}", labels={"kubernetes.io/service-name": of}
        ),
        "addressType": family,
        "ports": [{"name": "udp-dns", "port": 53, "protocol": "UDP"}] if ports is None else ports,
        "endpoints": list(endpoints),
    }


def pod(
    name: str = "coredns-1",
    *,
    namespace: str = "default",
    app: str = "coredns",
    labels: Any = None,
    annotations: Any = None,
    containers: Any = None,
    phase: str = "Running",
) -> Manifest:
    containers = containers or [{"name": app, "image": "coredns/coredns"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata(
            namespace, name, labels={"app": app, **(labels or {})}, annotations=annotations or {}
        ),
        "spec": {"containers": containers},
        "status": {
            "phase": phase,
            "podIP": "10.244.0.20",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [
                {"name": c["name"], "ready": phase == "Running", "state": {}} for c in containers
            ],
        },
    }


def on_host(address: str, name: str = "coredns-1") -> Manifest:
    """A pod on its node's network, with the node's address."""
    found = pod(name)
    found["spec"]["hostNetwork"] = True
    found["status"]["podIP"] = address
    return found


def gateway_pod(
    name: str = "istio-ingressgateway-1",
    *,
    namespace: str = "istio-system",
    labels: Any = None,
    ips: tuple[str, ...] = ("10.244.0.7",),
    ready: bool = True,
    image: str = "docker.io/istio/proxyv2:1.31.0",
    args: Any = None,
    first_port: int | None = None,
    limits: Any = None,
    owner: tuple[str, str] | None = None,
    by_istiod: bool = True,
    env: Any = None,
) -> Manifest:
    """A gateway's pod; `owner` is the kind and the name of its workload."""
    spec: Manifest = {
        "containers": [
            {
                "name": "istio-proxy",
                "image": image,
                "args": args
                or ["proxy", "router", "--domain", "$(POD_NAMESPACE).svc.cluster.local"],
                "resources": {"limits": limits or {}},
                "env": [{"name": name, "value": value} for name, value in (env or {}).items()],
            }
        ]
    }
    if first_port is not None:
        sysctl = {"name": "net.ipv4.ip_unprivileged_port_start", "value": str(first_port)}
        spec["securityContext"] = {"sysctls": [sysctl]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata(
            namespace,
            name,
            labels=dict(GATEWAY_LABELS if labels is None else labels),
            annotations={"sidecar.istio.io/status": "{}"} if by_istiod else {},
            ownerReferences=[{"kind": owner[0], "name": owner[1], "controller": True}]
            if owner
            else [],
        ),
        "spec": spec,
        "status": {
            "phase": "Running",
            "podIP": ips[0] if ips else "",
            "podIPs": [{"ip": ip} for ip in ips],
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def gateway_service(
    name: str = "istio-ingressgateway",
    *,
    namespace: str = "istio-system",
    selector: Any = None,
    **spec: Any,
) -> Manifest:
    found = service(
        name,
        namespace=namespace,
        ports=[tcp(80, "http2", 8080), tcp(443, "https", 8443)],
        **{"type": "LoadBalancer", "clusterIP": "10.96.0.80", **spec},
    )
    found["spec"]["selector"] = dict(GATEWAY_LABELS if selector is None else selector)
    return found


def cluster(**parts: Any) -> list[Manifest]:
    """A cluster with a DNS Service of two pods and one ingress gateway; `parts` replace some."""
    usual: dict[str, Any] = {
        "service": service(),
        "slices": [
            endpoint_slice(
                endpoint("10.244.0.20", "coredns-1"), endpoint("10.244.0.21", "coredns-2")
            )
        ],
        "pods": [pod("coredns-1"), pod("coredns-2")],
        "gateways": [gateway_pod()],
        "gateway_service": gateway_service(),
        "more": [],
    }
    usual |= parts
    singles = [usual["service"], usual["gateway_service"]]
    lists = [usual["slices"], usual["pods"], usual["gateways"], usual["more"]]
    return [o for o in singles if o] + [o for each in lists for o in each]


def snapshot_of(
    manifests: list[Manifest],
    /,
    *,
    name: str = "coredns",
    namespace: str = "default",
    gateway: str | None = None,
    gateway_selector: dict[str, str] | None = None,
    **more: Any,
) -> Snapshot:
    """What cluster.snapshot reads from these manifests; `more` are further fields of a Snapshot."""

    return snapshot_from(
        manifests, namespace, name, gateway=gateway, gateway_selector=gateway_selector, **more
    )


def proc_net(*remotes: str) -> str:
    """/proc/net/udp of a gateway pod with a listener, and a session to each of these addresses."""
    lines = ["   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid"]
    for number, remote in enumerate(("0.0.0.0:0", *remotes)):
        address, _, port = remote.rpartition(":")
        host = socket.inet_aton(address)[::-1].hex().upper()
        state = "07" if port == "0" else "01"
        lines.append(
            f"{number:5}: 00000000:{14_000 + number:04X} {host}:{int(port):04X} {state} "
            "00000000:00000000 00:00000000 00000000  1337        0 12345 2 0000000000000000 0"
        )
    return "\n".join(lines)


def gateway_of(selector: dict[str, str]) -> Gateway:
    """A gateway in istio-system with one pod; its selector is the pod's labels."""
    pod = GatewayPod("pod", labels=selector)
    return Gateway(GatewayRef("istio-system", "gateway", selector), (pod,))


def usage(ports: int = 0, sessions: int = 0) -> Usage:
    """What another exposure uses of a gateway."""
    return used_by(more=[Holder(("other", "holder"), ports, sessions)])


def plan_of(
    objects: list[Manifest] | None = None,
    *,
    ports: Any = (),
    discovery: Any = None,
    name: str | None = None,
    facts: dict[str, Any] | None = None,
    expect_rate: float | None = None,
    **options: Any,
) -> Plan:
    """What `expose` of the DNS Service decides; `facts` are further fields of the Snapshot."""
    request = ExposeRequest(
        "default",
        "coredns",
        name=name,
        ports=tuple(ports),
        discovery=discovery,
        options=Options(**options),
        automatic_sessions="max_sessions" not in options,
        expect_rate=expect_rate,
    )
    return plan(request, snapshot_of(cluster() if objects is None else objects, **(facts or {})))
