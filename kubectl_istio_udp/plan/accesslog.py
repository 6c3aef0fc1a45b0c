"""Decide everything about an access log from its settings and a snapshot of the cluster."""

from __future__ import annotations

from dataclasses import dataclass

from kubectl_istio_udp.model.accesslog import AccessLogSpec
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.logscope import AccessLogSnapshot


@dataclass(frozen=True)
class AccessLogPlan:
    """A planned access log, and the number of proxies that it applies to now."""

    spec: AccessLogSpec
    proxies: int


def plan_access_log(
    spec: AccessLogSpec, snapshot: AccessLogSnapshot, *, named: bool
) -> AccessLogPlan:
    """Choose the field of Envoy that every proxy supports.

    Args:
        spec: the settings.
        snapshot: the state of the cluster.
        named: whether the user chose the name.

    Raises:
        UsageError: the name was derived from labels, and belongs to an access log with others.
    """
    present = snapshot.present
    if not named and present is not None and present.selector != spec.selector:
        labels = ",".join(f"{key}={value}" for key, value in present.selector.items())
        raise UsageError(
            f"access log {spec.name} already exists, for pods with the labels {labels}",
            hints=[f"to change it: --name {spec.name}; to create another one: --name NAME"],
        )
    versions = [proxy.istio for proxy in snapshot.reached(spec)]
    return AccessLogPlan(spec.understood_by(snapshot.mesh.istio, versions), len(versions))
