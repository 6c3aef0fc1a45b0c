"""A cause, and texts that several rules use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from kubectl_istio_udp.model.annotation_values import PREFIX, some
from kubectl_istio_udp.model.exposure import Discovery
from kubectl_istio_udp.model.ports import ExposedPort
from kubectl_istio_udp.verify.evidence import Evidence, PodState

CHECK_ISTIOD = "check istiod: kubectl get pods -A -l app=istiod"


@dataclass(frozen=True)
class Cause:
    """Why a hop does not answer, or another problem although all hops answer.

    Attributes:
        reason: one CamelCase word for programs, as in Kubernetes: `StaleAddresses`.
        text: a clause for users; "" if the hop's own answer says everything.
        remedy: what to do or type next; "" if that depends.
    """

    reason: str
    text: str = ""
    remedy: str = ""


Rule = Callable[[Evidence, ExposedPort, str], Cause | None]


def hosts_agree(evidence: Evidence, port: ExposedPort, pod: str) -> bool:
    """Whether the cluster of a port has exactly the ready endpoints."""
    dns = evidence.spec.discovery is Discovery.DNS
    return dns or evidence.hosts(pod, port) == evidence.addresses(port)


def run_again(evidence: Evidence, *flags: str) -> str:
    """`run again: kubectl istio-udp expose ...`, with these flags.

    The controller repairs the exposure of a Gateway or of an annotated Service, so this says how to
    find out why it has not.
    """
    if not evidence.declared:
        return f"run again: {expose_command(evidence, *flags)}"
    settings = [flag for flag in flags if " " in flag]
    if settings:
        return _with_setting(evidence, *settings)
    return "the controller repairs this; see kubectl istio-udp controller status"


def _with_setting(evidence: Evidence, setting: str) -> str:
    """How to change a setting of a declared exposure; `setting` is a flag, `--idle-timeout 5m`."""
    name, _, value = setting.removeprefix("--").partition(" ")
    owner = "Service" if evidence.spec.service else "Gateway"
    return f"annotate its {owner}: {PREFIX}{name}={value}"


def expose_command(evidence: Evidence, *flags: str) -> str:
    """The command that changes the settings in flags, and no others."""
    spec = evidence.spec
    if evidence.declared:
        return _with_setting(evidence, *flags)
    name = [] if spec.name == spec.service else [f"--name {spec.name}"]
    start = f"kubectl istio-udp expose -n {spec.namespace} {spec.service}"
    return " ".join([start, *name, *flags])


def hosts_differ(evidence: Evidence, port: ExposedPort, pod: str) -> str:
    """`sends to A, but the ready endpoints are B`."""
    hosts, addresses = evidence.hosts(pod, port), evidence.addresses(port)
    has, should = _listed(hosts) or "nowhere", _listed(addresses) or "no ready endpoints"
    name = evidence.service.name
    return f"gateway {pod} sends port {port.service_port} to {has}, but Service {name} has {should}"


def none_ready(pods: Iterable[PodState]) -> str:
    """`none is ready (pod: why, ...)`."""
    waiting = [f"{pod.name}: {pod.why}" for pod in pods if not pod.ready]
    return f"none is ready ({some_of(waiting)})"


def port_numbers(addresses: Iterable[str]) -> frozenset[str]:
    """The ports of addresses like `10.0.0.1:53`."""
    return frozenset(address.rpartition(":")[2] for address in addresses)


def labels_text(labels: Mapping[str, str]) -> str:
    """`key=value,...`."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items())) or "no label"


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(sorted(texts))


def some_of(texts: Iterable[str]) -> str:
    """The first few of some texts, sorted."""
    return some(sorted(texts))


def name_of(manifest: Mapping[str, object] | None) -> str:
    """`namespace/name` of a manifest."""
    metadata = (manifest or {}).get("metadata")
    if not isinstance(metadata, Mapping):
        return ""
    return f"{metadata['namespace']}/{metadata['name']}"
