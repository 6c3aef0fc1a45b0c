"""What `expose` does when several runs write to one gateway at the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from kubectl_istio_udp.model.errors import Overtaken

if TYPE_CHECKING:
    from kubectl_istio_udp.kube.client import Api
    from kubectl_istio_udp.model.exposure import Exposure
    from kubectl_istio_udp.model.snapshot import Snapshot
    from kubectl_istio_udp.model.write import Write

# Each time another run has written what it came for, so that this one gets its turn.
_ATTEMPTS = 5


def decide_until_it_fits(decide_and_write: Callable[[], None]) -> None:
    """Decide again where another run took what the decision rested on.

    Raises:
        Overtaken: that happened every time.
        Whatever else `decide_and_write` raises.
    """
    from kubectl_istio_udp.output.printing import note

    for _ in range(_ATTEMPTS - 1):
        try:
            decide_and_write()
        except Overtaken as error:
            note(f"{error.message}, because another run was faster; deciding again")
        else:
            return
    decide_and_write()


def reserve_if_changed(
    api: Api, exposure: Exposure, snapshot: Snapshot, todo: Sequence[Write]
) -> AbstractContextManager[object]:
    """What to hold while an exposure is written: a reservation, if the gateway gets anything new.

    Args:
        api: the cluster.
        exposure: as it is to be.
        snapshot: what the decision rests on.
        todo: what is to be written.
    """
    from kubectl_istio_udp.apply.reserving import changes_gateway, fitting
    from kubectl_istio_udp.output.printing import warn

    wanted = next(write.manifest for write in todo if write.kind == "EnvoyFilter")
    there = next((m for m in snapshot.objects if m["kind"] == "EnvoyFilter"), None)
    if not changes_gateway(wanted, there):
        return nullcontext()
    return fitting(api, exposure, snapshot, warn)
