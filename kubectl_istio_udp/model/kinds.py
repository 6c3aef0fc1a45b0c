"""The kinds of thing that the product makes, and what every thing says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from kubectl_istio_udp.model.errors import UsageError

MANAGER = "kubectl-istio-udp"


class Kind(str, Enum):
    """The value is what users write before the slash: `response/hello`.

    EXPOSURE: a Service's UDP ports on a gateway.
    RESPONSE: an HTTP answer that a gateway or sidecar gives by itself.
    ACCESS_LOG: periodic log lines of long TCP connections.
    """

    EXPOSURE = "exposure"
    RESPONSE = "response"
    ACCESS_LOG = "accesslog"

    @classmethod
    def of_word(cls, word: str) -> Kind | None:
        """The kind that a word names, `response` or `responses`; None where it names none."""
        plain = word.lower()
        return next((kind for kind in cls if plain in (kind.value, f"{kind.value}s")), None)

    @property
    def label(self) -> str:
        """The label of an object that keeps the name of the thing it belongs to."""
        return f"{MANAGER}/{self.value}"

    @property
    def words(self) -> str:
        """For people: `access log`."""
        return "access log" if self is Kind.ACCESS_LOG else self.value

    @property
    def api_kind(self) -> str:
        """As Kubernetes writes kinds: `AccessLog`."""
        return "AccessLog" if self is Kind.ACCESS_LOG else self.value.capitalize()

    @property
    def object_prefix(self) -> str:
        """What the names of its objects begin with."""
        return "udp" if self is Kind.EXPOSURE else self.value


@dataclass(frozen=True)
class Ref:
    """A thing by kind and name, as a command line names it.

    Attributes:
        kind: which kind.
        name: its name in its namespace.
    """

    kind: Kind
    name: str

    @classmethod
    def parse(cls, text: str) -> Ref:
        """Read `coredns`, `response/hello` or, as kubectl allows, `responses/hello`.

        Raises:
            UsageError: there is no such kind, or no name.
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
        """As a user would write it."""
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
        """`ServiceEntry default/udp-default-coredns`."""
        return f"{self.kind} {self.namespace}/{self.name}"


class Spec(Protocol):
    """What a thing is, as the annotation of its objects keeps it."""

    @property
    def kind(self) -> Kind:
        """Which kind it is."""

    @property
    def namespace(self) -> str:
        """The namespace that its name belongs to."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name), which no other of its kind has."""

    @property
    def object_name(self) -> str:
        """The name of its objects; where it has several of a kind, what their names begin with."""

    @property
    def objects(self) -> tuple[ObjectRef, ...]:
        """The objects it consists of, in writing order."""

    @property
    def possible_places(self) -> frozenset[tuple[str, str]]:
        """(kind, namespace) of every object that it may have, left over from before included.

        What another choice of options or an earlier version put there belongs to it as well, and
        is deleted by the next write.
        """

    def to_json(self) -> str:
        """The annotation: versioned JSON, the same text for the same spec."""
