"""Reservations: announce what a run is about to write to a gateway, so that other runs count it.

Two runs that decide at the same time see the same gateway state, and both might use what is only
enough for one. So a run first creates a *reservation*, then reads the gateway again. It only writes
if there is still enough besides everything that existed before its reservation. Afterwards it
deletes the reservation. The API server orders all writes (resourceVersion), so the later of two
runs always sees the earlier one, and Envoy only gets configuration that fits.

A reservation is an EnvoyFilter without patches. Everyone who exposes may write it, and reads it
together with the exposures in one consistent list. Its name is derived from the exposure's, so of
several runs for one exposure only the first can create it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.envoyfilter import Footprint
from kubectl_istio_udp.model.errors import ClusterError
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.resources import RESOURCES
from kubectl_istio_udp.model.times import read_time

ANNOTATION = "kubectl-istio-udp/reservation"
_RUN_ANNOTATION = "kubectl-istio-udp/run"
_PREFIX = "reserved-"
# A killed run leaves its reservation behind. No run writes for so long: a request ends after 30 s
# by default, and the API server itself ends requests after 60 s.
STALE_AFTER = timedelta(minutes=5)


@dataclass(frozen=True)
class Reservation:
    """The reservation of one run.

    Attributes:
        spec: the exposure to be written.
        run: the unique name of the run.
        version: the resourceVersion of its creation; lower ones are earlier.
        created: its creation time, by the API server's clock.
        uid: the object's uid.
    """

    spec: ExposureSpec
    run: str
    version: int
    created: datetime
    uid: str

    @property
    def manifest(self) -> dict[str, Any]:
        """The object's identity, for its deletion."""
        metadata = {"namespace": self.namespace, "name": self.name, "uid": self.uid}
        return {**RESOURCES["EnvoyFilter"].type_meta, "metadata": metadata}

    @property
    def namespace(self) -> str:
        """The gateway's namespace."""
        return self.spec.gateway.namespace

    @property
    def name(self) -> str:
        """The object's name."""
        return reservation_name(self.spec)

    @property
    def footprint(self) -> Footprint:
        """What the exposure's EnvoyFilter will add to the gateway."""
        return Footprint(
            owner=f"{self.namespace}/{self.name}",
            listeners=self.spec.listener_names,
            clusters=self.spec.cluster_names,
            udp_ports=frozenset(port.listener_port for port in self.spec.ports),
            exposure=self.spec.key,
        )

    def stale(self, now: datetime) -> bool:
        """Whether the run that created it must have ended, so that anyone may delete it."""
        return self.lasts(now) < 0

    def lasts(self, now: datetime) -> float:
        """Seconds until it is stale; negative if it is."""
        return (self.created + STALE_AFTER - now).total_seconds()

    def counts_for(self, reservation: Reservation | None, now: datetime) -> bool:
        """Whether another run must leave to it what it reserves.

        Args:
            reservation: that run's reservation; None if it has none yet, so that every one counts.
            now: the current time, used if `reservation` does not provide the API server's.
        """
        if self.stale(reservation.created if reservation else now):
            return False
        return reservation is None or (
            self.version < reservation.version and self.spec.key != reservation.spec.key
        )


def is_reservation(name: str) -> bool:
    """Whether an EnvoyFilter has the name of a reservation."""
    return name.startswith(_PREFIX)


def reservation_name(spec: ExposureSpec) -> str:
    """The name of an exposure's reservation; there is one per exposure."""
    return _PREFIX + spec.object_name


def filter_names(namespace: str, name: str) -> tuple[str, str]:
    """The names of an exposure's EnvoyFilter and of its reservation."""
    found = names.object_name(namespace, name)
    return found, _PREFIX + found


def reservation(spec: ExposureSpec, run: str) -> dict[str, Any]:
    """The manifest of a reservation; istiod generates nothing from it."""
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
    """The reservation in an EnvoyFilter; None if it is not one or cannot be read."""
    metadata = envoy_filter["metadata"]
    notes = metadata.get("annotations") or {}
    if ANNOTATION not in notes or (envoy_filter.get("spec") or {}).get("configPatches"):
        return None
    try:
        found = Reservation(
            spec=ExposureSpec.from_json(notes[ANNOTATION]),
            run=notes.get(_RUN_ANNOTATION, ""),
            version=int(metadata["resourceVersion"]),
            created=read_time(metadata["creationTimestamp"]),
            uid=metadata.get("uid", ""),
        )
    except (ClusterError, ValueError, KeyError):
        return None
    right = (metadata["namespace"], metadata["name"]) == (found.namespace, found.name)
    return found if right else None


def counted(
    reservations: Iterable[Reservation],
    reservation: Reservation | None,
    now: datetime | None = None,
) -> list[Reservation]:
    """The reservations that a run must respect."""
    now = now or datetime.now(timezone.utc)
    return [each for each in reservations if each.counts_for(reservation, now)]
