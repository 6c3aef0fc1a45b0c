"""Names of the objects that the plugin creates, and labels that name their owner."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.kinds import MANAGER as MANAGER
from kubectl_istio_udp.model.kinds import Kind

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
NAMESPACE_LABEL = "kubectl-istio-udp/namespace"
# On objects that the controller creates: what requested them.
SOURCE_LABEL = "kubectl-istio-udp/source"
# The name of the controller's Deployment, Lease and ClusterRoleBinding.
CONTROLLER = f"{MANAGER}-controller"
# All labels that the plugin writes.
LABELS = (MANAGED_BY_LABEL, NAMESPACE_LABEL, SOURCE_LABEL, *(kind.label for kind in Kind))
# The suffix of the hosts of exposures' ServiceEntries.
HOST_SUFFIX = f".{MANAGER}.internal"
SPEC_ANNOTATION = "kubectl-istio-udp/spec"
GATEWAY_ANNOTATION = "kubectl-istio-udp/gateway"
EXPOSE_ANNOTATION = "kubectl-istio-udp/expose"
QUERY_ANNOTATION = "kubectl-istio-udp/query"

# A Service's name must be a DNS label (RFC 1123); the companion Service has the longest name.
LONGEST_LABEL = 63
LONGEST_SUBDOMAIN = 253
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_HASH_LENGTH = 8
_LIKE_A_HASH = re.compile(rf"-[0-9a-f]{{{_HASH_LENGTH}}}$")


def namespaced_name(manifest: Mapping[str, Any]) -> tuple[str, str]:
    """The (namespace, name) of an object; the namespace is "" if it has none."""
    metadata = manifest["metadata"]
    return metadata.get("namespace") or "", metadata["name"]


def is_dns_label(text: object) -> bool:
    """Whether a value is a DNS label (RFC 1123) of at most 63 characters."""
    return isinstance(text, str) and len(text) <= LONGEST_LABEL and bool(_LABEL.fullmatch(text))


def check_dns_label(text: str, what: str) -> str:
    """Return the text if it is a DNS label of at most 63 characters.

    Raises:
        UsageError: it is not; the message begins with `what`.
    """
    if not is_dns_label(text):
        plain = text.rpartition("/")[2]
        raise UsageError(
            f"{what} {text!r} is not a valid Kubernetes name",
            hints=[
                f"write the name alone: {plain}"
                if plain != text and is_dns_label(plain)
                else f"use lower-case letters, digits and '-', at most {LONGEST_LABEL}, "
                "beginning and ending with a letter or digit"
            ],
        )
    return text


def check_dns_subdomain(text: str, what: str) -> str:
    """Return the text if it consists of DNS labels separated by dots, at most 253 characters.

    Raises:
        UsageError: it is not; the message begins with `what`.
    """
    if len(text) > LONGEST_SUBDOMAIN:
        raise UsageError(f"{what} {text!r} is longer than {LONGEST_SUBDOMAIN} characters")
    for part in text.split("."):
        check_dns_label(part, what)
    return text


def check_namespaced_name(text: str, what: str) -> str:
    """Return the text if it is `NAME` or `NAMESPACE/NAME`.

    Raises:
        UsageError: it is not; the message begins with `what`.
    """
    parts = text.split("/")
    if len(parts) > 2:
        raise UsageError(f"{what} {text!r} is neither NAME nor NAMESPACE/NAME")
    for part in parts:
        check_dns_subdomain(part, what)
    return text


@lru_cache(maxsize=4096)
def object_name(namespace: str, name: str, kind: Kind = Kind.EXPOSURE) -> str:
    """The name of the objects of an exposure, response or access log.

    `udp-default-coredns` for exposure coredns in namespace default. The name is deterministic and
    unique: if it is ambiguous (a dash in the namespace, or a suffix like a hash) or too long for a
    Service, a hash of namespace and name is appended.
    """
    plain = f"{kind.object_prefix}-{namespace}-{name}"
    plainly = "-" not in namespace and not _LIKE_A_HASH.search(plain)
    if plainly and len(plain) <= LONGEST_LABEL:
        return plain
    digest = hashlib.sha256(f"{namespace}/{name}".encode()).hexdigest()[:_HASH_LENGTH]
    kept = plain[: LONGEST_LABEL - _HASH_LENGTH - 1].rstrip("-")
    return f"{kept}-{digest}"


def exposure_of_name(name: str) -> tuple[str, str] | None:
    """The exposure (namespace, name) whose objects have this name.

    None if no exposure's objects can have it, or if the name was too long and was truncated.
    """
    start = f"{Kind.EXPOSURE.object_prefix}-"
    whole = name.removeprefix(start)
    if whole == name:
        return None
    for text in (whole, _LIKE_A_HASH.sub("", whole)):
        for dash in (found.start() for found in re.finditer("-", text)):
            pair = (text[:dash], text[dash + 1 :])
            if all(map(is_dns_label, pair)) and object_name(*pair) == name:
                return pair
    return None


def is_object_name(name: str, namespace: str, exposure: str) -> bool:
    """Whether an object's name is one that the exposure's objects may have.

    Args:
        name: the object's name.
        namespace, exposure: the exposure's namespace and name.
    """
    base = object_name(namespace, exposure)
    return name == base or name.startswith(f"{base}.")


def guessable_host(namespace: str, name: str) -> str:
    """The host of an exposure's ServiceEntry in spec version 1; later hosts end with it."""
    return f"{name}.{namespace}{HOST_SUFFIX}"


def exposure_of_host(host: str) -> tuple[str, str] | None:
    """The exposure (namespace, name) that a ServiceEntry's host belongs to; None for others."""
    parts = host.removesuffix(HOST_SUFFIX).split(".")
    return (parts[-1], parts[-2]) if host.endswith(HOST_SUFFIX) and len(parts) >= 2 else None


def labels(kind: Kind, namespace: str, name: str) -> dict[str, str]:
    """The labels on every object of an exposure, response or access log."""
    return {MANAGED_BY_LABEL: MANAGER, kind.label: name, NAMESPACE_LABEL: namespace}


def owner_of(labels: Mapping[str, str]) -> tuple[Kind, str, str] | None:
    """The owner that an object's labels name: (kind, namespace, name); None without such labels.

    Labels can be forged; state/ownership.py decides whether to trust them.
    """
    named = [kind for kind in Kind if kind.label in labels]
    if labels.get(MANAGED_BY_LABEL) != MANAGER or len(named) != 1:
        return None
    namespace, name = labels.get(NAMESPACE_LABEL), labels[named[0].label]
    if namespace is None or not (is_dns_label(namespace) and is_dns_label(name)):
        return None
    return (named[0], namespace, name)


def service_manager(namespace: str, name: str) -> str:
    """The field manager of an exposure's ports on the gateway's own Service.

    One per exposure: the API server removes ports that a manager applied and then leaves out.
    """
    return f"{MANAGER}/{object_name(namespace, name)}"


def exposure_of_manager(manager: str) -> tuple[str, str] | None:
    """The exposure (namespace, name) of a field manager; None as in `exposure_of_name`."""
    name = manager.removeprefix(f"{MANAGER}/")
    return exposure_of_name(name) if name != manager else None


def label_selector(namespace: str | None = None) -> str:
    """The label selector for all objects of the plugin, or for those of a namespace."""
    place = f"{NAMESPACE_LABEL}={namespace}" if namespace else NAMESPACE_LABEL
    return f"{MANAGED_BY_LABEL}={MANAGER},{place}"
