"""Reserve ports and sessions of a gateway for an exposure, and check that they are available.

The command line and the controller both use this. Each passes how to read the gateway again (by
requests, or by waiting for a watch), and what to do if other runs were faster.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime, timezone
from typing import Any

from kubectl_istio_udp.checks.expose import expose_errors
from kubectl_istio_udp.checks.findings import Finding
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import ClusterError, Conflict, IstioUdpError
from kubectl_istio_udp.model.exposure import Exposure, ExposureSpec
from kubectl_istio_udp.model.names import MANAGER, SPEC_ANNOTATION
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.state.reservations import (
    STALE_AFTER,
    Reservation,
    read_reservation,
    reservation,
    reservation_name,
)
from kubectl_istio_udp.state.snapshot import read_again

Manifest = Mapping[str, Any]

_TRIES = 3


def changes_gateway(envoy_filter: Manifest, existing: Manifest | None) -> bool:
    """Whether a rendered EnvoyFilter changes a gateway's configuration.

    Args:
        envoy_filter: the EnvoyFilter to be written.
        existing: the existing one; None if there is none.
    """
    if existing is None or existing["spec"] != envoy_filter["spec"]:
        return True
    before, now = (m["metadata"].get("annotations") or {} for m in (existing, envoy_filter))
    return bool(before.get(SPEC_ANNOTATION) != now.get(SPEC_ANNOTATION))


def takes_more(spec: ExposureSpec, before: ExposureSpec | None) -> bool:
    """Whether an exposure uses more of its gateway than before.

    If only one process writes the exposure, as the controller does, nothing else needs a
    reservation. Runs of `expose` reserve all changes (`changes_gateway`): two of them may change
    the same exposure.
    """
    if before is None or before.gateway != spec.gateway or spec.sessions > before.sessions:
        return True
    had = {port.listener_port for port in before.ports}
    more_ports = any(port.listener_port not in had for port in spec.ports)
    names = (spec.listener_names - before.listener_names, spec.cluster_names - before.cluster_names)
    return more_ports or any(names)


class Overtaken(ClusterError):
    """Others wrote to the gateway while this run decided. Nothing was written; decide again.

    Attributes:
        findings: the new errors of the checks.
    """

    def __init__(self, findings: Sequence[Finding]) -> None:
        """Use the first finding as the message."""
        first = findings[0]
        hints = [first.remedy()] if first.remedy() else []
        super().__init__(f"{first}; nothing was written", hints=hints)
        self.findings = tuple(findings)


# Each attempt fails because another run has finished, so a few attempts suffice.
_ATTEMPTS = 5


def decide_until_it_fits(
    decide_and_write: Callable[[], None], notify: Callable[[str], None]
) -> None:
    """Decide again each time another run invalidated the decision.

    Args:
        decide_and_write: reads the cluster, decides and writes.
        notify: called with a text each time another run was faster.

    Raises:
        Overtaken: every attempt failed.
        Any other error that `decide_and_write` raises.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            decide_and_write()
        except Overtaken as error:
            notify(f"{error.message}, because another run was faster; deciding again")
        else:
            return
    decide_and_write()


def reserved_if_changed(
    api: Api,
    exposure: Exposure,
    snapshot: Snapshot,
    todo: Sequence[Write],
    notify: Callable[[str], None],
) -> AbstractContextManager[object]:
    """What a run of `expose` holds during its writes: a reservation, if the gateway changes.

    Args:
        api: the cluster.
        exposure: the planned exposure.
        snapshot: the state that it was decided from.
        todo: the planned writes.
        notify: called with a text if the reservation could not be deleted afterwards.
    """
    wanted = next(write.manifest for write in todo if write.kind == "EnvoyFilter")
    existing = _own_filter(snapshot)
    if not changes_gateway(wanted, existing):
        return nullcontext()

    def look_again(reservation: Reservation) -> Snapshot:
        return read_again(api, snapshot, exposure.spec.key, reservation)

    return fitting(api, exposure, existing, look_again, notify)


@contextmanager
def fitting(
    api: Api,
    exposure: Exposure,
    existing: Manifest | None,
    look_again: Callable[[Reservation], Snapshot],
    notify: Callable[[str], None] = lambda _: None,
) -> Iterator[None]:
    """Hold a reservation after checking that the gateway still has what the exposure needs.

    Args:
        api: the cluster.
        exposure: the planned exposure.
        existing: its EnvoyFilter in the state that was decided from; None if there was none.
        look_again: reads the state again, given the reservation.
        notify: called with a text if the reservation could not be deleted afterwards.

    Raises:
        Overtaken: others used what the exposure needs; nothing was written.
        Conflict: another run writes, or has written, the same exposure; nothing was written.
    """
    spec = exposure.spec
    with reserved(api, spec, notify) as reservation:
        again = look_again(reservation)
        if not _same_filter(existing, _own_filter(again)):
            raise Conflict(
                f"exposure {spec.namespace}/{spec.name} was modified concurrently by another run; "
                "nothing was written",
                hints=[f"see its state: kubectl istio-udp get -n {spec.namespace} {spec.name}"],
            )
        if found := expose_errors(exposure, again):
            raise Overtaken(found)
        yield


def _own_filter(snapshot: Snapshot) -> Manifest | None:
    return next((m for m in snapshot.objects if m["kind"] == "EnvoyFilter"), None)


def _same_filter(before: Manifest | None, now: Manifest | None) -> bool:
    """Whether the exposure's own EnvoyFilter is unchanged."""
    if before is None or now is None:
        return before is now
    return not changes_gateway(now, before)


@contextmanager
def reserved(
    api: Api, spec: ExposureSpec, notify: Callable[[str], None] = lambda _: None
) -> Iterator[Reservation]:
    """Hold a reservation for an exposure.

    Args:
        api: the cluster.
        spec: the planned exposure.
        notify: called with a text if the reservation could not be deleted afterwards.

    Raises:
        Conflict: another run is writing the same exposure; nothing was reserved.
        Forbidden, Unreachable: errors of the API server.
    """
    run = secrets.token_hex(8)
    made: Reservation | None = None
    try:
        # An interruption waits for this response, so that the reservation is found and deleted.
        with ThreadPoolExecutor(1) as pool:
            made = pool.submit(_create, api, spec, run).result()
        yield made
    finally:
        _release(api, spec, run, made, notify)


def _create(api: Api, spec: ExposureSpec, run: str) -> Reservation:
    """Create the reservation, replacing a stale one of a killed run.

    Raises:
        Conflict: another run holds one.
    """
    manifest = reservation(spec, run)
    for _ in range(_TRIES):
        try:
            return _read(api.create(manifest, manager=MANAGER))
        except Conflict as error:
            found = api.find("EnvoyFilter", spec.gateway.namespace, reservation_name(spec))
            if found is None:
                continue  # that run has just ended
            existing = _read(found)
            if existing.run == run:
                return existing  # this run created it, but the response was lost
            if not existing.stale(datetime.now(timezone.utc)):
                raise _busy(spec, existing) from error
            api.delete(found)
    raise _busy(spec, None)


def _read(manifest: Mapping[str, Any]) -> Reservation:
    found = read_reservation(manifest)
    if found is None:
        metadata = manifest["metadata"]
        raise ClusterError(
            f"EnvoyFilter {metadata['namespace']}/{metadata['name']} has the name of a reservation "
            "but cannot be read as one",
            hints=[
                "delete it: kubectl delete envoyfilter "
                f"-n {metadata['namespace']} {metadata['name']}"
            ],
        )
    return found


def _busy(spec: ExposureSpec, existing: Reservation | None) -> Conflict:
    since = f" (since {existing.created:%H:%M:%S} UTC)" if existing else ""
    minutes = STALE_AFTER.total_seconds() / 60
    return Conflict(
        f"another run is writing exposure {spec.namespace}/{spec.name}{since}; nothing was written",
        hints=[
            f"see its state: kubectl istio-udp get -n {spec.namespace} {spec.name}",
            f"if that run was killed, wait {minutes:.0f} minutes, or delete its reservation: "
            f"kubectl delete envoyfilter -n {spec.gateway.namespace} {reservation_name(spec)}",
        ],
    )


def _release(
    api: Api,
    spec: ExposureSpec,
    run: str,
    made: Reservation | None,
    notify: Callable[[str], None],
) -> None:
    """Delete this run's reservation, but not another run's."""
    namespace, name = spec.gateway.namespace, reservation_name(spec)
    try:
        if made is None:
            found = api.find("EnvoyFilter", namespace, name)
            made = read_reservation(found) if found else None
        if made is not None and made.run == run:
            api.delete(made.manifest)
    except Conflict:
        return  # it belongs to another run now
    except IstioUdpError as error:
        notify(
            f"could not delete the reservation, EnvoyFilter {namespace}/{name} ({error.message}); "
            f"it expires in {STALE_AFTER.total_seconds() / 60:.0f} minutes"
        )
