"""The exposures there are, rebuilt from their own objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.cluster.client import Api, for_each
from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.errors import ClusterError, Forbidden, NotFound
from kubectl_istio_udp.model.exposure import ExposureSpec, GatewayServiceMode

KINDS = ("ServiceEntry", "EnvoyFilter", "Service")
# Where exposures without a ServiceEntry can be looked for by a user who may not look everywhere.
USUAL_GATEWAY_NAMESPACE = "istio-system"


@dataclass(frozen=True)
class Existing:
    """An exposure found in the cluster.

    Attributes:
        namespace, name: its own name.
        spec: what it is; None where no object's annotation can be read.
        objects: its manifests, in the order of KINDS.
        problem: why spec is None.
    """

    namespace: str
    name: str
    spec: ExposureSpec | None
    objects: tuple[Mapping[str, Any], ...]
    problem: str = ""

    @property
    def missing(self) -> tuple[str, ...]:
        """The objects it should have and has not, as `EnvoyFilter istio-system/udp-a-b`."""
        spec = self.spec
        if spec is None:
            return ()
        places = {"EnvoyFilter": spec.gateway.namespace}
        if spec.entry_ports:
            places["ServiceEntry"] = spec.namespace
        if spec.options.gateway_service is GatewayServiceMode.COMPANION:
            places["Service"] = spec.gateway.namespace
        return tuple(
            f"{kind} {places[kind]}/{spec.object_name}"
            for kind in KINDS
            if kind in places and self.object(kind) is None
        )

    def object(self, kind: str) -> Mapping[str, Any] | None:
        """Its object of a kind, None where there is none."""
        return next((o for o in self.objects if o["kind"] == kind), None)


def spec_of(manifest: Mapping[str, Any]) -> ExposureSpec:
    """The spec that an object's annotation keeps.

    Raises:
        ClusterError: there is none, or it cannot be read.
    """
    notes = manifest["metadata"].get("annotations") or {}
    if names.SPEC_ANNOTATION not in notes:
        raise ClusterError(
            f"{manifest['kind']} {manifest['metadata']['namespace']}/"
            f"{manifest['metadata']['name']} has no annotation {names.SPEC_ANNOTATION}"
        )
    return ExposureSpec.from_json(notes[names.SPEC_ANNOTATION])


def list_exposures(
    api: Api, namespace: str | None = None, name: str | None = None
) -> tuple[Existing, ...]:
    """The exposures of a namespace (None: of all), or the one of a name; sorted.

    An object left over from a half-done deletion counts too, so that it can be seen and deleted.
    """
    selector = names.label_selector(namespace, name)
    try:
        found = for_each(lambda kind: api.list(kind, None, selector), KINDS)
    except Forbidden:
        if namespace is None:
            raise
        found = _list_near(api, namespace, selector)
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for manifest in (m for each in found for m in each):
        labels = manifest["metadata"]["labels"]
        key = (labels[names.NAMESPACE_LABEL], labels[names.NAME_LABEL])
        groups.setdefault(key, []).append(manifest)
    return tuple(_existing(key, objects) for key, objects in sorted(groups.items()))


def _list_near(api: Api, namespace: str, selector: str) -> list[list[dict[str, Any]]]:
    """The objects that a user finds who may not look into all namespaces.

    Those in the exposures' own namespace, and in those of the gateways that they name.

    Raises:
        Forbidden: not even there.
    """
    entries = api.list("ServiceEntry", namespace, selector)
    gateways = {USUAL_GATEWAY_NAMESPACE}
    for entry in entries:
        with suppress(ClusterError):
            gateways.add(spec_of(entry).gateway.namespace)
    found = [entries]
    places = [(kind, gateway) for gateway in sorted(gateways) for kind in KINDS[1:]]
    return found + for_each(lambda place: api.list(*place, selector), places)


def get_exposures(
    api: Api, namespace: str, wanted: Iterable[str], *, missing_ok: bool = False
) -> tuple[Existing, ...]:
    """The exposures of these names, in the order given; all of the namespace's where none is.

    Args:
        api: the cluster.
        namespace: where.
        wanted: names.
        missing_ok: pass over those that do not exist.

    Raises:
        NotFound: one does not exist; the message lists those that do.
    """
    there = {existing.name: existing for existing in list_exposures(api, namespace)}
    wanted = list(wanted)
    missing = [name for name in wanted if name not in there]
    if missing and not missing_ok:
        raise NotFound(
            f"there is no exposure {missing[0]} in namespace {namespace}",
            hints=[
                f"those there are: {', '.join(there)}"
                if there
                else "there is none in this namespace; see all: kubectl istio-udp get -A"
            ],
        )
    return (
        tuple(there[name] for name in wanted if name in there) if wanted else tuple(there.values())
    )


def _existing(key: tuple[str, str], objects: list[Mapping[str, Any]]) -> Existing:
    # The EnvoyFilter is written after the ServiceEntry and is what the gateway runs by.
    by_trust = sorted(
        objects, key=lambda o: ("EnvoyFilter", "ServiceEntry", "Service").index(o["kind"])
    )
    problem = ""
    for manifest in by_trust:
        try:
            return Existing(*key, spec_of(manifest), tuple(objects))
        except ClusterError as error:
            problem = problem or error.message
    return Existing(*key, None, tuple(objects), problem)
