"""How Istio routes HTTP: the servers of Gateways, and other VirtualServices.

The rules for precedence are from istiod's sources (pilot/pkg/networking/core, release 1.31:
buildGatewayHTTPRouteConfig, SortVHostRoutes, BuildSidecarVirtualHostWrapper).
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
# Fields of a match that do not narrow it beyond the path.
_NO_CONDITIONS = frozenset({"uri", "name", "ignoreUriCase", "statPrefix"})


@dataclass(frozen=True)
class Server:
    """One server of an Istio Gateway.

    Attributes:
        gateway: the Gateway, as `namespace/name`.
        port: the port number.
        hosts: as in the manifest, `host` or `namespace/host`.
        tls: whether it terminates TLS.
        http: whether it can answer HTTP: not for TCP or TLS passthrough.
        redirects: whether it redirects all requests to https.
        response: (namespace, name) of the response that created it; None for other Gateways.
    """

    gateway: str
    port: int
    hosts: tuple[str, ...]
    tls: bool = False
    http: bool = True
    redirects: bool = False
    response: tuple[str, str] | None = None

    def admits(self, host: str, namespace: str) -> bool:
        """Whether it accepts a host from a VirtualService in this namespace."""
        return bool(self.taken(host, namespace))

    def taken(self, host: str, namespace: str) -> frozenset[str]:
        """The virtual hosts that a VirtualService's host becomes here: the intersection."""
        found = set()
        for text in self.hosts:
            scope, slash, pattern = text.rpartition("/")
            scope = self.gateway.partition("/")[0] if scope == "." else scope
            if slash and scope not in ("*", namespace):
                continue
            if covers(pattern, host):
                found.add(host)
            elif covers(host, pattern):
                found.add(pattern.lower())
        return frozenset(found)


def servers_from(gateways: Iterable[Mapping[str, Any]], gateway: Gateway) -> tuple[Server, ...]:
    """The servers that Gateway manifests (networking.istio.io) configure on a gateway's pods."""
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
    """Whether a VirtualService matches a request, so that later routes do not get it."""

    NO = 0
    PERHAPS = 1
    YES = 2


@dataclass(frozen=True)
class OtherVirtualService:
    """A VirtualService that the plugin did not create.

    Attributes:
        owner: the VirtualService, as `namespace/name`.
        hosts: its hosts.
        gateways: the Gateways it is bound to, as `namespace/name`, or `mesh`.
        routes: its HTTP routes, as in the manifest.
        exported: the namespaces that see it (exportTo); empty for all.
        created: its creationTimestamp; istiod orders VirtualServices with the same host by it.
    """

    owner: str
    hosts: tuple[str, ...]
    gateways: frozenset[str]
    routes: tuple[Mapping[str, Any], ...]
    exported: frozenset[str] = frozenset()
    created: str = ""

    @classmethod
    def from_object(cls, manifest: Mapping[str, Any]) -> OtherVirtualService:
        """Read a VirtualService manifest; short hosts are completed as istiod does."""
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
        """Whether one of its routes matches every request."""
        return any(
            not route.get("match") or any(map(_for_all, route["match"])) for route in self.routes
        )

    def takes(self, answer: Answer) -> Takes:
        """Whether it matches an answer's requests if it has precedence.

        A route for all requests is ignored, because istiod puts it after all others.
        """
        if answer.catches_all:
            return Takes.YES if self.catches_all else Takes.PERHAPS if self.routes else Takes.NO
        found = Takes.NO
        for route in self.routes:
            for match in route.get("match") or ():
                found = max(found, _match(match, answer), key=lambda takes: takes.value)
        return found


def _exported(export_to: Iterable[str], namespace: str) -> frozenset[str]:
    namespaces = frozenset(namespace if each == "." else each for each in export_to)
    return frozenset() if "*" in namespaces else namespaces


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
    # Istio's regular expressions (RE2) differ from Python's, and a foreign expression may take
    # Python forever.
    return Takes.PERHAPS if "regex" in uri else Takes.YES
