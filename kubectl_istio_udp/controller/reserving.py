"""The controller's reservations, beside those of `expose` runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kubectl_istio_udp.apply.reserving import reserved
from kubectl_istio_udp.controller.view import View
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import Unreachable
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.state.reservations import Reservation

# A watch that is later than this has broken, and lists again.
_WATCH_SECONDS = 5.0


def takes_more(spec: ExposureSpec, before: ExposureSpec | None) -> bool:
    """Whether an exposure takes anything of its gateway that it has not had before.

    Otherwise nobody need hear of it first; and no `expose` writes what the controller made.
    """
    if before is None or before.gateway != spec.gateway or spec.sessions > before.sessions:
        return True
    had = {(spec.proxy_name(port), port.listener_port) for port in before.ports}
    return any((spec.proxy_name(port), port.listener_port) not in had for port in spec.ports)


@contextmanager
def reserved_and_seen(
    api: Api, view: View, spec: ExposureSpec, wrote: Callable[[str, str], None]
) -> Iterator[Reservation]:
    """Hold a reservation, and wait until the watch has brought it.

    A watch brings changes in the API server's order: from then on the cache holds everything that
    was there before the reservation, and nothing need be read.

    Args:
        api: where to write.
        view: the caches.
        spec: the exposure as it is to be.
        wrote: called with verb and kind of each request that writes.

    Raises:
        Conflict: a run of `expose` writes this very exposure now.
        Unreachable: the watch did not bring the reservation in time; to be tried again.
    """
    wrote("create", "EnvoyFilter")
    with reserved(api, spec) as mine:
        if not view.wait_reserved(mine, _WATCH_SECONDS):
            raise Unreachable(
                f"the watch of EnvoyFilters in namespace {mine.namespace} is more than "
                f"{_WATCH_SECONDS:g}s late"
            )
        yield mine
        wrote("delete", "EnvoyFilter")
