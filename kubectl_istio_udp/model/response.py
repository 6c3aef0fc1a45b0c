"""A response: an HTTP answer that a gateway or sidecar sends itself."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from enum import Enum

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.fields import (
    Fields,
    dns_label,
    flag,
    items,
    one_of,
    optional,
    port,
    record,
    shown,
    text,
    whole_number,
)
from kubectl_istio_udp.model.gateway import GatewayRef
from kubectl_istio_udp.model.kinds import Kind, ObjectRef
from kubectl_istio_udp.model.spec_annotation import read_spec, write_spec

# Limits of Istio's HTTPDirectResponse (its API reference): status, and a maximum body of 1 MB.
_STATUSES = range(200, 600)
LARGEST_BODY_BYTES = 1_000_000
# RFC 3986, section 3.3.
_PATH = re.compile(r"/(?:[-A-Za-z0-9._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")
_PLAIN_ENCODED = re.compile(r"%(2[dDeE]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9aA]|5[fF]|7[eE])")
_WITHOUT_BODY = (204, 205, 304)
_LONGEST_PATH = 2048
# RFC 9110, section 5.6.2.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_WHOLE_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection"})
_NAME_LENGTH = 40
_ANYTHING = re.compile(".*")
_server = text(re.compile(r"[-a-z0-9]{1,63}/[-a-z0-9.]{1,253}"), "a Gateway's NAMESPACE/NAME", 320)


class ResponseApi(str, Enum):
    """The Istio API: directResponse in a VirtualService (from 1.15), or a patch of routes."""

    VIRTUAL_SERVICE = "virtualservice"
    ENVOY_FILTER = "envoyfilter"


@dataclass(frozen=True)
class Body:
    """The response's body, as stored in the annotation; the bytes are in the object itself.

    Attributes:
        size: its length in bytes.
        sha256: its SHA-256 in hexadecimal.
        binary: whether the object stores it as bytes, so that it may be any data.
    """

    size: int
    sha256: str
    binary: bool = False

    @classmethod
    def of(cls, content: bytes, binary: bool) -> Body:
        """Describe a body.

        Raises:
            UsageError: it is longer than Istio accepts, or it is not text and not binary.
        """
        if len(content) > LARGEST_BODY_BYTES:
            raise UsageError(
                f"the body has {len(content)} bytes; Istio accepts at most {LARGEST_BODY_BYTES}"
            )
        if not binary:
            try:
                content.decode()
            except UnicodeDecodeError:
                raise UsageError(
                    "the body is not UTF-8 text", hints=["accept any bytes: --binary"]
                ) from None
        return cls(len(content), hashlib.sha256(content).hexdigest(), binary)

    @classmethod
    def from_fields(cls, fields: Fields) -> Body:
        """Read the body from the spec annotation.

        Raises:
            ValueError: a field is missing or invalid.
        """
        return cls(
            size=fields.take("size", whole_number(0, LARGEST_BODY_BYTES)),
            sha256=fields.take("sha256", text(re.compile("[0-9a-f]{64}"), "a SHA-256", 64)),
            binary=fields.take("binary", flag, False),
        )


def check_path(path: str) -> str:
    """Return the path if a request can have it.

    Raises:
        UsageError: it does not begin with /, has invalid characters, or Istio would normalize it
            (pathNormalization BASE, its default, resolves dots).
    """
    if not path.startswith("/"):
        raise UsageError(f"path {path!r} does not begin with /", hints=[f"write /{path}"])
    if not _PATH.fullmatch(path) or len(path) > _LONGEST_PATH:
        raise UsageError(
            f"path {path[:80]!r} is not a valid path of a request",
            hints=[
                "write it as it is sent: ASCII, other characters encoded (%20), no query, "
                f"at most {_LONGEST_PATH} characters"
            ],
        )
    encoded = _PLAIN_ENCODED.search(path)
    if encoded:
        plain = bytes.fromhex(encoded[1]).decode()
        raise UsageError(
            f"path {path!r}: proxies decode {encoded[0]} before they compare paths",
            hints=[f"write {plain} instead"],
        )
    if any(part in (".", "..") for part in path.split("/")):
        raise UsageError(f"path {path!r}: proxies resolve /./ and /../ before they compare paths")
    return path


def check_host(text: str) -> str:
    """Return the host if a request can have it (`*`, `*.example.com`, a name, an IPv4 address).

    Raises:
        UsageError: it is not a valid host.
    """
    if text == "*":
        return text
    if text != text.lower():
        raise UsageError(f"--host {text!r} is not in lower case", hints=[f"write {text.lower()}"])
    plain = text.removeprefix("*.")
    try:
        names.check_dns_subdomain(plain, "host")
    except UsageError as error:
        raise UsageError(
            f"--host {text!r} is not a valid host",
            hints=["write a name without port, such as shop.example.com or *.example.com", "or *"],
        ) from error
    return text


def covers(pattern: str, host: str) -> bool:
    """Whether a host pattern (`*`, `*.example.com`, a name) covers or equals another one."""
    pattern, host = pattern.lower(), host.lower()
    return pattern in ("*", host) or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def parse_header(text: str) -> tuple[str, str]:
    """Parse `NAME=VALUE`.

    Raises:
        UsageError: it is not a header, or HTTP itself sets this header.
    """
    name, equals, value = text.partition("=")
    printable = bool(value) and all(" " <= char <= "~" for char in value)
    if not equals or not _TOKEN.fullmatch(name) or not printable or value != value.strip():
        raise UsageError(
            f"--header {text!r} is not NAME=VALUE",
            hints=["for example --header content-type=application/json"],
        )
    if name.lower() in _WHOLE_HEADERS:
        raise UsageError(f"--header {name}: the proxy sets this header itself")
    return (name.lower(), value)


def _header(value: object) -> tuple[str, str]:
    if not isinstance(value, list) or [type(part) for part in value] != [str, str]:
        raise ValueError(f"{shown(value)} is not a header")
    name, content = parse_header(f"{value[0]}={value[1]}")
    return (name, content)


def _namespace_or_none(value: object) -> str:
    return "" if value == "" else dns_label(value)


def default_name(path: str) -> str:
    """The default name of a response: its path, in characters that Kubernetes allows in names."""
    plain = re.sub(r"[^a-z0-9]+", "-", path.lower()).strip("-")
    return plain[:_NAME_LENGTH].rstrip("-") or "root"


@dataclass(frozen=True)
class Answer:
    """An HTTP answer and the requests that get it.

    Attributes:
        path: the request's path, without query.
        status: 200 to 599.
        body: the body; None for no body.
        prefix: whether all paths with the prefix `path` match.
        headers: the response's headers as (name, value).
        hosts: the request's hosts, at least one.
    """

    path: str
    status: int
    body: Body | None = None
    prefix: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    hosts: tuple[str, ...] = ("*",)

    def __post_init__(self) -> None:
        """Reject what Istio or Envoy would reject.

        Raises:
            UsageError: the status, the path or a host is invalid.
        """
        if self.status not in _STATUSES:
            raise UsageError(
                f"--status {self.status} is not between {_STATUSES[0]} and {_STATUSES[-1]}",
                hints=["HTTP has no other final status codes"],
            )
        check_path(self.path)
        if self.body and self.status in _WITHOUT_BODY:
            raise UsageError(f"status {self.status} cannot have a body (RFC 9110)")
        if not self.hosts:
            raise UsageError("a response needs at least one host")
        for host in self.hosts:
            check_host(host)
            wider = [other for other in self.hosts if other != host and covers(other, host)]
            if wider:
                # Istio's validation rejects a VirtualService with both.
                raise UsageError(
                    f"--host {wider[0]} already covers {host}",
                    hints=[f"omit {host}, or create a separate response for it"],
                )

    @classmethod
    def from_fields(cls, fields: Fields) -> Answer:
        """Read the answer from the spec annotation.

        Raises:
            ValueError, UsageError: a field is missing or invalid.
        """
        return cls(
            path=fields.take("path", text(_PATH, "a path", _LONGEST_PATH)),
            status=fields.take("status", whole_number(_STATUSES[0], _STATUSES[-1])),
            body=fields.take("body", optional(record(Body.from_fields))),
            prefix=fields.take("prefix", flag, False),
            headers=fields.take("headers", items(_header)),
            hosts=fields.take("hosts", items(text(_ANYTHING, "a host"))),
        )

    @property
    def catches_all(self) -> bool:
        """Whether it matches every path: istiod puts such routes after all others."""
        return self.prefix and self.path == "/"

    def covers(self, path: str) -> bool:
        """Whether a request with this path matches."""
        return path.startswith(self.path) if self.prefix else path == self.path


@dataclass(frozen=True)
class ResponseSpec:
    """The settings of a response, as stored in its objects' annotation.

    Attributes:
        namespace, name: of the response.
        answer: the answer and which requests get it.
        api: how Istio is configured.
        gateway: the gateway; None inside the mesh.
        gateway_port: the port on the gateway.
        servers: the Istio Gateways (`namespace/name`) with the server on that port.
        creates_gateway: whether the response creates one of them.
        root_namespace: the namespace of an EnvoyFilter for all sidecars; "" for a gateway.
        mesh_ports: the HTTP ports of the hosts, which an EnvoyFilter inside the mesh must name.
    """

    namespace: str
    name: str
    answer: Answer
    api: ResponseApi
    gateway: GatewayRef | None = None
    gateway_port: int = 80
    servers: tuple[str, ...] = ()
    creates_gateway: bool = False
    root_namespace: str = ""
    mesh_ports: tuple[int, ...] = ()

    @property
    def kind(self) -> Kind:
        """Kind.RESPONSE."""
        return Kind.RESPONSE

    @property
    def object_name(self) -> str:
        """The name of all of its objects."""
        return names.object_name(self.namespace, self.name, Kind.RESPONSE)

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name), unique among responses."""
        return (self.namespace, self.name)

    @property
    def mesh(self) -> bool:
        """Whether sidecars answer instead of a gateway."""
        return self.gateway is None

    @property
    def objects(self) -> tuple[ObjectRef, ...]:
        """The objects it consists of, in writing order."""
        found = {}
        if self.gateway and self.creates_gateway:
            found["Gateway"] = self.gateway.namespace
        if self.gateway or self.api is ResponseApi.VIRTUAL_SERVICE:
            found["VirtualService"] = self.namespace
        if self.api is ResponseApi.ENVOY_FILTER:
            found["EnvoyFilter"] = self.gateway.namespace if self.gateway else self.root_namespace
        return tuple(ObjectRef(kind, place, self.object_name) for kind, place in found.items())

    @property
    def possible_locations(self) -> frozenset[tuple[str, str]]:
        """(kind, namespace) of every object that it may have, with current or former options."""
        proxies = self.gateway.namespace if self.gateway else self.root_namespace
        at_gateway = [("Gateway", proxies)] if self.gateway else []
        home = ("VirtualService", self.namespace)
        return frozenset([*at_gateway, home, ("EnvoyFilter", proxies)])

    def to_json(self) -> str:
        """The annotation's value: versioned JSON with sorted keys; equal specs give equal text."""
        return write_spec(asdict(self))

    @classmethod
    def from_json(cls, text: object) -> ResponseSpec:
        """Read the annotation.

        Raises:
            ClusterError: another version wrote it, or it was edited by hand.
        """
        return read_spec(text, Kind.RESPONSE, cls._from_fields)

    @classmethod
    def _from_fields(cls, fields: Fields) -> ResponseSpec:
        return cls(
            namespace=fields.take("namespace", dns_label),
            name=fields.take("name", dns_label),
            answer=fields.take("answer", record(Answer.from_fields)),
            api=fields.take("api", one_of(ResponseApi)),
            gateway=fields.take("gateway", optional(record(GatewayRef.from_fields))),
            gateway_port=fields.take("gateway_port", port, 80),
            servers=fields.take("servers", items(_server)),
            creates_gateway=fields.take("creates_gateway", flag, False),
            root_namespace=fields.take("root_namespace", _namespace_or_none, ""),
            mesh_ports=fields.take("mesh_ports", items(port)),
        )


@dataclass(frozen=True)
class Response:
    """A response with the body's bytes and the facts that rendering needs.

    Attributes:
        spec: the settings.
        content: the body's bytes; empty without a body.
        virtual_hosts: its hosts on the gateway, narrowed to those of the Gateways' servers; empty
            inside the mesh.
    """

    spec: ResponseSpec
    content: bytes = b""
    virtual_hosts: tuple[str, ...] = ()
