"""Rules about sessions: can the gateway hold them, in open files and in memory?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from kubectl_istio_udp.checks.findings import Finding
from kubectl_istio_udp.checks.wording import exposure_ref
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


def too_many_sessions(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U108: clients could make the gateway's Envoy run out of files, and crash."""
    if snapshot.file_limit is None:
        return
    options, ports = exposure.spec.options, len(exposure.spec.ports)
    free = room(snapshot.file_limit, snapshot.others.sessions)
    if exposure.spec.sessions > free:
        yield Finding(
            "U108",
            f"gateway {snapshot.gateway.ref}",
            f"{options.max_sessions} sessions on {ports} port(s) exceed what gateway "
            f"{snapshot.gateway.ref} has left: {_reserved(snapshot, snapshot.file_limit)} (its "
            f"Envoy may open {snapshot.file_limit} files, and crashes when it needs more)",
            f"use at most --max-sessions {free // ports}"
            if free >= ports
            else "raise the file limit of the gateway's nodes, or lower another exposure's "
            "--max-sessions",
        )


def _reserved(snapshot: Snapshot, file_limit: int) -> str:
    """`9000 of 18000 sessions are reserved, the most by a/b 5000, c/d 4000`."""
    others = snapshot.others
    text = f"{others.sessions} of {budget(file_limit)} sessions are reserved"
    largest = ", ".join(map(str, others.largest(_HOLDERS_SHOWN)))
    return f"{text}, the most by {largest}" if largest else text


def too_much_memory(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U109: the UDP ports could use so much memory that the gateway's Envoy is killed."""
    limit, size = snapshot.gateway.memory_limit, snapshot.size
    own = [spec for spec in snapshot.exposures if spec.key == exposure.spec.key]
    new = len(exposure.spec.ports) - sum(len(spec.ports) for spec in own)
    clusters = len(exposure.spec.backends) - sum(len(spec.backends) for spec in own)
    if limit is None or size is None or max(new, clusters) <= 0:
        return
    ports = snapshot.others.ports + len(exposure.spec.ports)
    needed = replace(size, clusters=size.clusters + max(0, clusters)).udp_bytes(ports)
    if needed > udp_budget(limit):
        yield Finding(
            "U109",
            f"gateway {snapshot.gateway.ref}",
            f"{ports} UDP port(s) may use {_mebibytes(needed)} of gateway {snapshot.gateway.ref}, "
            f"more than half of the memory limit of its pods ({_mebibytes(limit)}): Envoy keeps a "
            f"record of each of its {size.clusters} clusters for each port in each of its "
            f"{size.workers} workers",
            "raise the memory limit of the gateway's pods, or use another gateway",
        )


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"


def unknown_limit(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U204: the open-file limit of the gateway's Envoy is unknown."""
    if snapshot.file_limit is None and snapshot.gateway.ready_pods:
        yield Finding(
            "U204",
            f"gateway {snapshot.gateway.ref}",
            f"could not read the open-file limit of gateway {snapshot.gateway.ref} (no permission "
            f"to exec, no shell in its image, or no answer); each port gets "
            f"{exposure.spec.options.max_sessions} sessions",
            "if its nodes allow more open files, set the number: --max-sessions",
        )


def few_sessions(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U205: the exposure gets so few sessions that clients may lose datagrams."""
    options = exposure.spec.options
    if options.max_sessions < FEW_SESSIONS:
        idle = options.idle_timeout
        rate = rate_for_sessions(options.max_sessions, idle.seconds)
        limit = CAREFUL_FILE_LIMIT if snapshot.file_limit is None else snapshot.file_limit
        yield Finding(
            "U205",
            exposure_ref(exposure),
            f"each port has only {options.max_sessions} client sessions: with --idle-timeout "
            f"{idle}, datagrams are lost above {rate:.3g} new clients a second. At gateway "
            f"{snapshot.gateway.ref} {_reserved(snapshot, limit)}",
            "if you expect more: --expect-rate N",
        )


def session_rate(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U303: for how many clients the number of sessions is enough."""
    options = exposure.spec.options
    there = any(spec.options == options for spec in snapshot.exposures)
    if options.max_sessions >= FEW_SESSIONS and not there:
        rate = rate_for_sessions(options.max_sessions, options.idle_timeout.seconds)
        yield Finding(
            "U303",
            exposure_ref(exposure),
            f"each port has {options.max_sessions} client sessions, enough for {rate:.3g} new "
            f"clients a second (--idle-timeout {options.idle_timeout})",
            "if you expect more: --expect-rate N",
        )
