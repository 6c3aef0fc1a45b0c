"""The kinds that the plugin manages: exposure, response, access log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from kubectl_istio_udp.model.errors import UsageError

MANAGER = "kubectl-istio-udp"


class Kind(str, Enum):
    """A kind; the value is the part before the slash in `response/hello`.

    EXPOSURE: a Service's UDP ports on a gateway.
    RESPONSE: an HTTP answer that a gateway or sidecar sends itself.
    ACCESS_LOG: periodic log lines for open TCP connections.
    """

    EXPOSURE = "exposure"
    RESPONSE = "response"
    ACCESS_LOG = "accesslog"

    @classmethod
    def of_word(cls, word: str) -> Kind | None:
        """The kind for a word, e.g. `response` or `responses`; None for an unknown word."""
        plain = word.lower()
        return next((kind for kind in cls if plain in (kind.value, f"{kind.value}s")), None)

    @property
    def label(self) -> str:
        """The label on its objects with the name of the exposure, response or access log."""
        return f"{MANAGER}/{self.value}"

    @property
    def words(self) -> str:
        """The kind in messages: `access log`."""
        return "access log" if self is Kind.ACCESS_LOG else self.value

    @property
    def api_kind(self) -> str:
        """The kind in Kubernetes' spelling: `AccessLog`."""
        return "AccessLog" if self is Kind.ACCESS_LOG else self.value.capitalize()

    @property
    def object_prefix(self) -> str:
        """The prefix of its objects' names."""
        return "udp" if self is Kind.EXPOSURE else self.value


@dataclass(frozen=True)
class Ref:
    """An exposure, response or access log by kind and name, as on the command line.

    Attributes:
        kind: the kind.
        name: its name in its namespace.
    """

    kind: Kind
    name: str

    @classmethod
    def parse(cls, text: str) -> Ref:
        """Read `coredns`, `response/hello` or, as kubectl allows, `responses/hello`.

        Raises:
            UsageError: the kind is unknown, or the name is missing.
        """
        word, slash, name = text.rpartition("/")
        if not slash:
            return cls(Kind.EXPOSURE, text)
        kind_named = Kind.of_word(word)
        if kind_named and name:
            return cls(kind_named, name)
        kinds = ", ".join(f"{kind.value}/NAME" for kind in Kind)
        raise UsageError(f"unknown kind in {text!r}", hints=[f"use NAME (an exposure) or {kinds}"])

    def __str__(self) -> str:
        """As on the command line."""
        return self.name if self.kind is Kind.EXPOSURE else f"{self.kind.value}/{self.name}"


@dataclass(frozen=True)
class ObjectRef:
    """A Kubernetes object by kind, namespace and name.

    Attributes:
        kind: e.g. `ServiceEntry`.
        namespace: its namespace.
        name: its name.
    """

    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> ObjectRef:
        """The reference to an object, from its manifest."""
        metadata = manifest["metadata"]
        return cls(manifest["kind"], metadata.get("namespace") or "", metadata["name"])

    def __str__(self) -> str:
        """`ServiceEntry default/udp-default-coredns`; `Namespace default` without a namespace."""
        name = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind} {name}"


class Spec(Protocol):
    """The settings of an exposure, response or access log, as stored in its objects' annotation."""

    @property
    def kind(self) -> Kind:
        """The kind."""

    @property
    def namespace(self) -> str:
        """The namespace."""

    @property
    def name(self) -> str:
        """The name."""

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name), unique within the kind."""

    @property
    def object_name(self) -> str:
        """The name of its objects, or their common prefix if there are several of one kind."""

    @property
    def objects(self) -> tuple[ObjectRef, ...]:
        """The objects that it consists of, in writing order."""

    @property
    def possible_locations(self) -> frozenset[tuple[str, str]]:
        """(kind, namespace) of every object that it may have, including leftovers.

        Objects that other options or an earlier version created belong to it too; the next write
        deletes them.
        """

    def to_json(self) -> str:
        """The annotation's value: versioned JSON; equal specs give equal text."""
