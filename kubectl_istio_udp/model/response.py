"""A response: an HTTP answer that a gateway or a sidecar gives by itself."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from enum import Enum

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.annotation import read_spec, write_spec
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

# Istio's validation of HTTPDirectResponse (its API reference): status, and 1 MB as the hard limit.
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
    """What makes Istio answer: its own API (from 1.15 on), or a patch of Envoy's routes."""

    VIRTUAL_SERVICE = "virtualservice"
    ENVOY_FILTER = "envoyfilter"


@dataclass(frozen=True)
class Body:
    """What is answered with, as the annotation keeps it; the bytes are in the object itself.

    Attributes:
        size: its length in bytes.
        sha256: its hash, hexadecimal.
        binary: whether it is written in the bytes form, so that it need not be text.
    """

    size: int
    sha256: str
    binary: bool = False

    @classmethod
    def of(cls, content: bytes, binary: bool) -> Body:
        """Describe a body.

        Raises:
            UsageError: it is longer than Istio takes, or no text without the bytes form.
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
        """Read the body of a spec annotation.

        Raises:
            ValueError: a field is missing or wrong.
        """
        return cls(
            size=fields.take("size", whole_number(0, LARGEST_BODY_BYTES)),
            sha256=fields.take("sha256", text(re.compile("[0-9a-f]{64}"), "a SHA-256", 64)),
            binary=fields.take("binary", flag, False),
        )


def check_path(path: str) -> str:
    """Return a path that a request can have, as it is.

    Raises:
        UsageError: it does not begin with /, holds what a path cannot hold, or would be
            normalised away by Istio (pathNormalization BASE, its default, resolves dots).
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
    """Return a host that a request can be for (`*`, `*.example.com`, a name, an IPv4 address).

    Raises:
        UsageError: it is none.
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
    """Whether a host pattern (`*`, `*.example.com`, a name) takes in another one, or equals it."""
    pattern, host = pattern.lower(), host.lower()
    return pattern in ("*", host) or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def parse_header(text: str) -> tuple[str, str]:
    """Read `NAME=VALUE`.

    Raises:
        UsageError: it is no header, or one that HTTP itself sets.
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
    """The name of a response that is given none: its path in letters that Kubernetes takes."""
    plain = re.sub(r"[^a-z0-9]+", "-", path.lower()).strip("-")
    return plain[:_NAME_LENGTH].rstrip("-") or "root"


@dataclass(frozen=True)
class Answer:
    """What is answered to which requests.

    Attributes:
        path: of the request, without query.
        status: 200 to 599.
        body: None answers without one.
        prefix: whether every path that begins with `path` counts.
        headers: (name, value) of the response's headers.
        hosts: of the request; at least one.
    """

    path: str
    status: int
    body: Body | None = None
    prefix: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    hosts: tuple[str, ...] = ("*",)

    def __post_init__(self) -> None:
        """Refuse what Istio or Envoy would refuse.

        Raises:
            UsageError: the status, the path or a host is none.
        """
        if self.status not in _STATUSES:
            raise UsageError(
                f"--status {self.status} is not in {_STATUSES[0]}..{_STATUSES[-1]}",
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
                # Istio's validation refuses a VirtualService with both.
                raise UsageError(
                    f"--host {wider[0]} already covers {host}",
                    hints=[f"omit {host}, or create a separate response for it"],
                )

    @classmethod
    def from_fields(cls, fields: Fields) -> Answer:
        """Read the answer of a spec annotation.

        Raises:
            ValueError, UsageError: a field is missing or wrong.
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
        """Whether it is for every path: istiod puts such routes behind all others."""
        return self.prefix and self.path == "/"

    def covers(self, path: str) -> bool:
        """Whether a request of this path is meant."""
        return path.startswith(self.path) if self.prefix else path == self.path


@dataclass(frozen=True)
class ResponseSpec:
    """What a response is, as its objects' annotation keeps it.

    Attributes:
        namespace, name: its own name.
        answer: to what, with what.
        api: what makes Istio answer so.
        gateway: which gateway; None inside the mesh.
        gateway_port: the port at the gateway.
        servers: the Istio Gateways (`namespace/name`) whose server on that port takes it.
        creates_gateway: whether one of them is the response's own.
        root_namespace: where an EnvoyFilter for every sidecar goes; "" at a gateway.
        mesh_ports: the HTTP ports of the hosts, which an EnvoyFilter must name, inside the mesh.
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
        """(namespace, name), which no other response has."""
        return (self.namespace, self.name)

    @property
    def mesh(self) -> bool:
        """Whether sidecars answer, not a gateway."""
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
    def possible_places(self) -> frozenset[tuple[str, str]]:
        """(kind, namespace) of every object that it may have, whatever its options are or were."""
        proxies = self.gateway.namespace if self.gateway else self.root_namespace
        at_gateway = [("Gateway", proxies)] if self.gateway else []
        home = ("VirtualService", self.namespace)
        return frozenset([*at_gateway, home, ("EnvoyFilter", proxies)])

    def to_json(self) -> str:
        """The annotation: versioned JSON, sorted, so that the same spec is the same text."""
        return write_spec(asdict(self))

    @classmethod
    def from_json(cls, text: object) -> ResponseSpec:
        """Read the annotation.

        Raises:
            ClusterError: another version wrote it, or someone edited it.
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
    """A response with its body: all that rendering needs.

    Attributes:
        spec: what is wanted.
        content: the body's bytes, empty where there is no body.
        virtual_hosts: its hosts as the gateway has them: the narrower ones of these and those of
            the Gateways' servers; empty inside the mesh.
    """

    spec: ResponseSpec
    content: bytes = b""
    virtual_hosts: tuple[str, ...] = ()
