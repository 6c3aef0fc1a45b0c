"""How Istio routes HTTP: the servers of its Gateways, and other people's VirtualServices.

What is said here of precedence was read in istiod's sources (pilot/pkg/networking/core, release
1.31: buildGatewayHTTPRouteConfig, SortVHostRoutes, BuildSidecarVirtualHostWrapper).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from kubectl_istio_udp.model.gateway import Gateway, selects
from kubectl_istio_udp.model.names import owner_of
from kubectl_istio_udp.model.response import Answer, covers

MESH = "mesh"
_HTTP = frozenset({"HTTP", "HTTP2", "HTTPS", "GRPC", "GRPC-WEB"})
_NOT_TERMINATED = frozenset({"PASSTHROUGH", "AUTO_PASSTHROUGH"})
# Parts of a match that restrict nothing that a path alone does not say.
_NO_CONDITIONS = frozenset({"uri", "name", "ignoreUriCase", "statPrefix"})


@dataclass(frozen=True)
class Server:
    """One server of an Istio Gateway.

    Attributes:
        gateway: the Gateway, `namespace/name`.
        port: its number.
        hosts: as written there, `host` or `namespace/host`.
        tls: whether it terminates TLS.
        http: whether it speaks HTTP that it can answer: not TCP, nor TLS that it passes through.
        redirects: whether it answers everything with a redirect to https.
        response: (namespace, name) of the response that made it, None for other people's.
    """

    gateway: str
    port: int
    hosts: tuple[str, ...]
    tls: bool = False
    http: bool = True
    redirects: bool = False
    response: tuple[str, str] | None = None

    def admits(self, host: str, namespace: str) -> bool:
        """Whether a VirtualService of this namespace may answer for a host here."""
        return bool(self.taken(host, namespace))

    def taken(self, host: str, namespace: str) -> frozenset[str]:
        """The virtual hosts that a VirtualService's host becomes here: what both take in."""
        found = set()
        for text in self.hosts:
            space, slash, pattern = text.rpartition("/")
            space = self.gateway.partition("/")[0] if space == "." else space
            if slash and space not in ("*", namespace):
                continue
            if covers(pattern, host):
                found.add(host)
            elif covers(host, pattern):
                found.add(pattern.lower())
        return frozenset(found)


def servers_from(gateways: Iterable[Mapping[str, Any]], gateway: Gateway) -> tuple[Server, ...]:
    """The servers that Gateway manifests (networking.istio.io) give a gateway's pods."""
    found = []
    for manifest in gateways:
        metadata, spec = manifest["metadata"], manifest.get("spec") or {}
        selector = spec.get("selector") or {}
        if not any(selects(selector, pod.labels) for pod in gateway.pods):
            continue
        owner = owner_of(metadata.get("labels") or {})
        for server in spec.get("servers") or ():
            port, tls = server.get("port") or {}, server.get("tls") or {}
            protocol = str(port.get("protocol", "")).upper()
            found.append(
                Server(
                    gateway=f"{metadata['namespace']}/{metadata['name']}",
                    port=int(port.get("number", 0)),
                    hosts=tuple(server.get("hosts") or ()),
                    tls=protocol == "HTTPS",
                    http=protocol in _HTTP and tls.get("mode") not in _NOT_TERMINATED,
                    redirects=bool(tls.get("httpsRedirect")),
                    response=owner[1:] if owner else None,
                )
            )
    return tuple(found)


class Takes(Enum):
    """Whether a VirtualService takes a request before those after it do."""

    NO = 0
    PERHAPS = 1
    YES = 2


@dataclass(frozen=True)
class Rival:
    """Somebody else's VirtualService.

    Attributes:
        owner: `namespace/name`.
        hosts: its hosts.
        gateways: those it is bound to, `namespace/name`, or `mesh`.
        routes: its HTTP routes, as written.
        exported: the namespaces that see it (exportTo); empty for all.
        created: its creationTimestamp, by which istiod orders those of one host.
    """

    owner: str
    hosts: tuple[str, ...]
    gateways: frozenset[str]
    routes: tuple[Mapping[str, Any], ...]
    exported: frozenset[str] = frozenset()
    created: str = ""

    @classmethod
    def from_object(cls, manifest: Mapping[str, Any]) -> Rival:
        """Read a VirtualService manifest; a short host is completed as istiod does."""
        metadata, spec = manifest["metadata"], manifest.get("spec") or {}
        namespace = metadata["namespace"]
        bound = spec.get("gateways") or [MESH]
        return cls(
            owner=f"{namespace}/{metadata['name']}",
            hosts=tuple(_complete(host, namespace) for host in spec.get("hosts") or ()),
            gateways=frozenset(g if g == MESH or "/" in g else f"{namespace}/{g}" for g in bound),
            routes=tuple(spec.get("http") or ()),
            exported=_exported(spec.get("exportTo") or (), namespace),
            created=str(metadata.get("creationTimestamp", "")),
        )

    @property
    def catches_all(self) -> bool:
        """Whether one of its routes is for every request."""
        return any(
            not route.get("match") or any(map(_for_all, route["match"])) for route in self.routes
        )

    def takes(self, answer: Answer) -> Takes:
        """Whether it takes the requests that an answer is for, standing before it.

        A route for everything does not count: istiod puts those behind all others.
        """
        if answer.catches_all:
            return Takes.YES if self.catches_all else Takes.PERHAPS if self.routes else Takes.NO
        found = Takes.NO
        for route in self.routes:
            for match in route.get("match") or ():
                found = max(found, _match(match, answer), key=lambda takes: takes.value)
        return found


def _exported(export_to: Iterable[str], namespace: str) -> frozenset[str]:
    spaces = frozenset(namespace if space == "." else space for space in export_to)
    return frozenset() if "*" in spaces else spaces


def _complete(host: str, namespace: str) -> str:
    if "." in host or host == "*":
        return host
    return f"{host}.{namespace}.svc.cluster.local"


def _limited(match: Mapping[str, Any]) -> bool:
    return bool(set(match) - _NO_CONDITIONS)


def _for_all(match: Mapping[str, Any]) -> bool:
    uri = match.get("uri") or {}
    everything = not uri or uri.get("prefix") == "/" or uri.get("regex") == ".*"
    return everything and not _limited(match)


def _match(match: Mapping[str, Any], answer: Answer) -> Takes:
    uri, limited = match.get("uri") or {}, _limited(match)
    if match.get("ignoreUriCase"):
        uri = {kind: text.lower() for kind, text in uri.items()}
        answer = replace(answer, path=answer.path.lower())
    takes = _uri(uri, answer)
    if _for_all(match):
        return Takes.NO
    return Takes.PERHAPS if limited and takes is Takes.YES else takes


def _uri(uri: Mapping[str, str], answer: Answer) -> Takes:
    if "exact" in uri:
        if not answer.prefix:
            return Takes.YES if uri["exact"] == answer.path else Takes.NO
        return Takes.PERHAPS if answer.covers(uri["exact"]) else Takes.NO
    if "prefix" in uri:
        if answer.path.startswith(uri["prefix"]):
            return Takes.YES
        return Takes.PERHAPS if answer.covers(uri["prefix"]) else Takes.NO
    # Istio's regular expressions (RE2) are not Python's, and somebody else wrote them: Python's
    # may take for ever over one.
    return Takes.PERHAPS if "regex" in uri else Takes.YES
