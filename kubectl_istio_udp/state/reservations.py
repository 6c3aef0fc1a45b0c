"""Reservations: what a run is about to write to a gateway, for others to count meanwhile.

Two runs that decide at the same time see the same gateway, and each may grant what only one of
them can have. So a run first creates a *reservation*, then reads the gateway again, and writes only
if it still has what it needs beside everything that was there before its own reservation. It
deletes the reservation afterwards. The API server puts all writes in one order (resourceVersion),
so of two runs the later one always sees the earlier one, and Envoy hears only of the one that may.

A reservation is an EnvoyFilter without patches: whoever exposes may write it and reads it anyway,
with the exposures themselves in one list of one moment. Its name follows from the exposure's, so
that of several runs for one exposure only the first can create it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.envoyfilter import Claims
from kubectl_istio_udp.model.errors import ClusterError
from kubectl_istio_udp.model.exposure import ExposureSpec

ANNOTATION = "kubectl-istio-udp/reservation"
_RUN_ANNOTATION = "kubectl-istio-udp/run"
_PREFIX = "reserved-"
# A run that was killed leaves its reservation. No write of a run takes so long: a request ends
# after 30 s unless told otherwise, and the API server itself gives one up after 60 s.
STALE_AFTER = timedelta(minutes=5)


@dataclass(frozen=True)
class Reservation:
    """What one run is about to write.

    Attributes:
        spec: the exposure as it is to be.
        run: the run's own name, which no other has.
        version: the resourceVersion that its creation got: a lower one was earlier.
        created: when, by the API server's clock.
        uid: of this very object.
    """

    spec: ExposureSpec
    run: str
    version: int
    created: datetime
    uid: str

    @property
    def namespace(self) -> str:
        """The gateway's namespace."""
        return self.spec.gateway.namespace

    @property
    def name(self) -> str:
        """The object's name."""
        return reservation_name(self.spec)

    @property
    def claims(self) -> Claims:
        """What the exposure's EnvoyFilter will add to the gateway."""
        return Claims(
            owner=f"{self.namespace}/{self.name}",
            listeners=self.spec.listener_names,
            clusters=self.spec.cluster_names,
            udp_ports=frozenset(port.listener_port for port in self.spec.ports),
            exposure=self.spec.key,
        )

    def stale(self, now: datetime) -> bool:
        """Whether the run that made it must have ended."""
        return now - self.created > STALE_AFTER

    def counts_for(self, mine: Reservation | None, now: datetime) -> bool:
        """Whether a run must leave to it what it reserves.

        Args:
            mine: the run's own reservation; None before it has one, when every one counts.
            now: the time, where mine does not tell the API server's own.
        """
        if self.stale(mine.created if mine else now):
            return False
        return mine is None or (self.version < mine.version and self.spec.key != mine.spec.key)


def reservation_name(spec: ExposureSpec) -> str:
    """The name of an exposure's reservation: one for each exposure."""
    return _PREFIX + spec.object_name


def reservation(spec: ExposureSpec, run: str) -> dict[str, Any]:
    """The manifest of a reservation; istiod makes nothing of it."""
    return {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {
            "name": reservation_name(spec),
            "namespace": spec.gateway.namespace,
            "labels": {names.MANAGED_BY_LABEL: names.MANAGER},
            "annotations": {ANNOTATION: spec.to_json(), _RUN_ANNOTATION: run},
        },
        "spec": {"workloadSelector": {"labels": dict(spec.gateway.selector)}},
    }


def read_reservation(envoy_filter: Mapping[str, Any]) -> Reservation | None:
    """The reservation that an EnvoyFilter is; None where it is none, or none that can be read."""
    metadata = envoy_filter["metadata"]
    notes = metadata.get("annotations") or {}
    if ANNOTATION not in notes:
        return None
    try:
        found = Reservation(
            spec=ExposureSpec.from_json(notes[ANNOTATION]),
            run=notes.get(_RUN_ANNOTATION, ""),
            version=int(metadata["resourceVersion"]),
            created=_time(metadata["creationTimestamp"]),
            uid=metadata.get("uid", ""),
        )
    except (ClusterError, ValueError, KeyError):
        return None
    right = (metadata["namespace"], metadata["name"]) == (found.namespace, found.name)
    return found if right else None


def counted(
    reservations: Iterable[Reservation], mine: Reservation | None, now: datetime | None = None
) -> list[Reservation]:
    """Those among some reservations to which a run must leave what they reserve."""
    now = now or datetime.now(timezone.utc)
    return [each for each in reservations if each.counts_for(mine, now)]


def _time(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
