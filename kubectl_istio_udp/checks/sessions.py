"""Rules about sessions: whether the gateway has enough open files and memory for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from kubectl_istio_udp.checks.findings import Finding, Value
from kubectl_istio_udp.checks.refs import PROXY_MEMORY, gateway_ref, spec_ref
from kubectl_istio_udp.checks.rules import rule
from kubectl_istio_udp.model.exposure import (
    Exposure,
)
from kubectl_istio_udp.model.memory import udp_budget
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.plan.sessions import (
    CAREFUL_FILE_LIMIT,
    FEW_SESSIONS,
    budget,
    rate_for_sessions,
    room,
)

# How many of the exposures with the most sessions a message names.
_HOLDERS_SHOWN = 3
_SESSIONS = "spec.options.max_sessions"


@rule("U108", reads=("file_limit", "gateway", "others"))
def too_many_sessions(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """Clients could make the gateway's Envoy run out of files, and crash."""
    if snapshot.file_limit is None:
        return
    options, ports = exposure.spec.options, len(exposure.spec.ports)
    free = room(snapshot.file_limit, snapshot.others.sessions)
    if exposure.spec.sessions > free:
        cases = ["none left"] if free < ports else []
        cases += ["no others"] if not snapshot.others.holders else []
        yield Finding(
            "U108",
            spec_ref(exposure.spec),
            _SESSIONS,
            {
                "sessions": options.max_sessions,
                "ports": ports,
                "at_most": max(0, free // ports),
                "file_limit": snapshot.file_limit,
                **_reserved(snapshot, snapshot.file_limit),
            },
            ", ".join(cases),
        )


def _reserved(snapshot: Snapshot, file_limit: int) -> dict[str, Value]:
    """What others have reserved of the gateway's sessions."""
    others = snapshot.others
    return {
        "gateway": str(snapshot.gateway.ref),
        "reserved": others.sessions,
        "budget": budget(file_limit),
        "largest": tuple(map(str, others.largest(_HOLDERS_SHOWN))),
    }


@rule("U109", reads=("exposures", "gateway", "others", "size"))
def too_much_memory(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """The UDP ports could use so much memory that the gateway's Envoy is killed."""
    limit, size = snapshot.gateway.memory_limit, snapshot.size
    before = [spec for spec in snapshot.exposures if spec.key == exposure.spec.key]
    new = len(exposure.spec.ports) - sum(len(spec.ports) for spec in before)
    clusters = len(exposure.spec.backends) - sum(len(spec.backends) for spec in before)
    if limit is None or size is None or max(new, clusters) <= 0:
        return
    ports = snapshot.others.ports + len(exposure.spec.ports)
    needed = replace(size, clusters=size.clusters + max(0, clusters)).udp_bytes(ports)
    if needed > udp_budget(limit):
        yield Finding(
            "U109",
            gateway_ref(snapshot.gateway.ref),
            PROXY_MEMORY,
            {
                "ports": ports,
                "needed_mib": needed / 2**20,
                "limit_mib": limit / 2**20,
                "clusters": size.clusters,
                "workers": size.workers,
            },
        )


@rule("U204", reads=("file_limit", "gateway"))
def unknown_limit(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """The open-file limit of the gateway's Envoy is unknown."""
    if snapshot.file_limit is None and snapshot.gateway.ready_pods:
        yield Finding(
            "U204",
            gateway_ref(snapshot.gateway.ref),
            values={"sessions": exposure.spec.options.max_sessions},
        )


@rule("U205", reads=("file_limit", "gateway", "others"))
def few_sessions(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """The exposure gets so few sessions that clients may lose datagrams."""
    options = exposure.spec.options
    if options.max_sessions < FEW_SESSIONS:
        idle = options.idle_timeout
        rate = rate_for_sessions(options.max_sessions, idle.seconds)
        limit = CAREFUL_FILE_LIMIT if snapshot.file_limit is None else snapshot.file_limit
        yield Finding(
            "U205",
            spec_ref(exposure.spec),
            _SESSIONS,
            {
                "sessions": options.max_sessions,
                "idle_timeout": str(idle),
                "rate": rate,
                **_reserved(snapshot, limit),
            },
            "" if snapshot.others.holders else "no others",
        )


@rule("U303", reads=("exposures",))
def session_rate(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """How many new clients a second the number of sessions serves."""
    options = exposure.spec.options
    unchanged = any(spec.options == options for spec in snapshot.exposures)
    if options.max_sessions >= FEW_SESSIONS and not unchanged:
        rate = rate_for_sessions(options.max_sessions, options.idle_timeout.seconds)
        yield Finding(
            "U303",
            spec_ref(exposure.spec),
            _SESSIONS,
            {
                "sessions": options.max_sessions,
                "idle_timeout": str(options.idle_timeout),
                "rate": rate,
            },
        )
