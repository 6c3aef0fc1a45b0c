"""Names of the objects that things become, and the labels that say whose they are."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.kinds import MANAGER as MANAGER
from kubectl_istio_udp.model.kinds import Kind

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
NAMESPACE_LABEL = "kubectl-istio-udp/namespace"
# On the objects that the controller makes: what asked for them.
SOURCE_LABEL = "kubectl-istio-udp/source"
# What the hosts of our ServiceEntries end with.
HOST_SUFFIX = f".{MANAGER}.internal"
SPEC_ANNOTATION = "kubectl-istio-udp/spec"
QUERY_ANNOTATION = "kubectl-istio-udp/query"

# A Service's name is a DNS label (RFC 1123), and the companion Service bears the longest name.
LONGEST_LABEL = 63
LONGEST_SUBDOMAIN = 253
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_HASH_LENGTH = 8
_LIKE_A_HASH = re.compile(rf"-[0-9a-f]{{{_HASH_LENGTH}}}$")


def namespaced_name(manifest: Mapping[str, Any]) -> tuple[str, str]:
    """The (namespace, name) of an object; the namespace is "" where it has none."""
    metadata = manifest["metadata"]
    return metadata.get("namespace") or "", metadata["name"]


def is_dns_label(text: object) -> bool:
    """Whether a value is a DNS label (RFC 1123) of at most 63 characters."""
    return isinstance(text, str) and len(text) <= LONGEST_LABEL and bool(_LABEL.fullmatch(text))


def check_dns_label(text: str, what: str) -> str:
    """Return a text that is a DNS label of at most 63 characters, as it is.

    Raises:
        UsageError: it is not; `what` names it in the message.
    """
    if not is_dns_label(text):
        raise UsageError(
            f"{what} {text!r} is not a valid Kubernetes name",
            hints=[
                f"use lower-case letters, digits and '-', at most {LONGEST_LABEL}, "
                "beginning and ending with a letter or digit"
            ],
        )
    return text


def check_dns_subdomain(text: str, what: str) -> str:
    """Return a text that is DNS labels with dots between, at most 253 characters, as it is.

    Raises:
        UsageError: it is not; `what` names it in the message.
    """
    if len(text) > LONGEST_SUBDOMAIN:
        raise UsageError(f"{what} {text!r} is longer than {LONGEST_SUBDOMAIN} characters")
    for part in text.split("."):
        check_dns_label(part, what)
    return text


def object_name(namespace: str, name: str, kind: Kind = Kind.EXPOSURE) -> str:
    """The name of a thing's objects in a namespace where things of several may meet.

    `udp-default-coredns` for exposure coredns of namespace default. Two different things
    never share a name: where the parts could be read in two ways (a dash in the namespace, an
    end like a hash) or the whole is longer than a Service's name may be, a hash of both parts ends
    it. The same thing always gets the same name.
    """
    plain = f"{kind.object_prefix}-{namespace}-{name}"
    plainly = "-" not in namespace and not _LIKE_A_HASH.search(plain)
    if plainly and len(plain) <= LONGEST_LABEL:
        return plain
    digest = hashlib.sha256(f"{namespace}/{name}".encode()).hexdigest()[:_HASH_LENGTH]
    kept = plain[: LONGEST_LABEL - _HASH_LENGTH - 1].rstrip("-")
    return f"{kept}-{digest}"


def exposure_of_name(name: str) -> tuple[str, str] | None:
    """The exposure (namespace, name) whose objects have a name.

    None where no exposure's objects have it, or where the name was too long to be kept whole.
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
    """Whether an object's name is one that an exposure's objects may have.

    Args:
        name: the object's name.
        namespace, exposure: the exposure's namespace and name.
    """
    base = object_name(namespace, exposure)
    return name == base or name.startswith(f"{base}.")


def guessable_host(namespace: str, name: str) -> str:
    """The host of an exposure's ServiceEntry in spec version 1, and the end of later hosts."""
    return f"{name}.{namespace}{HOST_SUFFIX}"


def exposure_of_host(host: str) -> tuple[str, str] | None:
    """The exposure (namespace, name) that a ServiceEntry's host was made for; None for others."""
    parts = host.removesuffix(HOST_SUFFIX).split(".")
    return (parts[-1], parts[-2]) if host.endswith(HOST_SUFFIX) and len(parts) >= 2 else None


def labels(kind: Kind, namespace: str, name: str) -> dict[str, str]:
    """The labels that every object of a thing carries."""
    return {MANAGED_BY_LABEL: MANAGER, kind.label: name, NAMESPACE_LABEL: namespace}


def owner_of(labels: Mapping[str, str]) -> tuple[Kind, str, str] | None:
    """What an object's labels name: (kind, namespace, name); None for other people's objects.

    They can be forged; whether they are true is decided in state/ownership.py.
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

    One for each exposure: ports that one manager applied earlier and leaves out later go away.
    """
    return f"{MANAGER}/{object_name(namespace, name)}"


def exposure_of_manager(manager: str) -> tuple[str, str] | None:
    """The exposure (namespace, name) of a field manager; None as for `exposure_of_name`."""
    name = manager.removeprefix(f"{MANAGER}/")
    return exposure_of_name(name) if name != manager else None


def label_selector(
    namespace: str | None = None, name: str | None = None, kind: Kind | None = None
) -> str:
    """The label selector that finds the objects of all things, a namespace's, a kind's, or one's.

    A name needs its kind.
    """
    parts = [f"{MANAGED_BY_LABEL}={MANAGER}"]
    parts.append(f"{NAMESPACE_LABEL}={namespace}" if namespace else NAMESPACE_LABEL)
    if kind:
        parts.append(f"{kind.label}={name}" if name else kind.label)
    return ",".join(parts)
