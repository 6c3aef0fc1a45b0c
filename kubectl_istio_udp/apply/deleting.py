"""`delete`: find the exposures, responses and access logs by name, and delete them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from kubectl_istio_udp.apply.deletion_order import delete_existing
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import ClusterError, Forbidden, Interrupted, Refused
from kubectl_istio_udp.model.kinds import Kind, ObjectRef, Ref
from kubectl_istio_udp.model.names import EXPOSE_ANNOTATION
from kubectl_istio_udp.model.resources import API_GATEWAY, RESOURCES
from kubectl_istio_udp.model.write_options import WriteOptions
from kubectl_istio_udp.state.controllers import declaring_object
from kubectl_istio_udp.state.existing import explain_stray, get_state
from kubectl_istio_udp.state.leftovers import Leftovers, read_leftovers
from kubectl_istio_udp.state.ownership import Existing

if TYPE_CHECKING:
    # Its imports of the checks and of envoy/ take a tenth of the time of `delete`.
    from kubectl_istio_udp.apply.pipeline import Report


def delete(
    api: Api,
    namespace: str,
    names: Sequence[str],
    writing: WriteOptions,
    report: Report,
    *,
    missing_ok: bool = False,
    gateways: Sequence[str] = (),
) -> None:
    """Delete exposures, responses and access logs, unless a controller would recreate them.

    Args:
        api: the cluster.
        namespace: their namespace.
        names: what to delete, each `[TYPE/]NAME`; empty for everything in the namespace.
        writing: how to write; `seconds` to wait for each gateway to drop the listeners.
        report: informed about each deleted object and each warning.
        missing_ok: whether to ignore names that do not exist.
        gateways: namespaces with gateways, for users who may not list all namespaces.

    Raises:
        NotFound: a name does not exist; nothing was deleted.
        Refused: a controller would recreate an exposure. Nothing was deleted if it was named;
            everything else was deleted if not.
        Interrupted, ClusterError: the hints say how to delete the rest.
    """
    found, leftovers = _find(api, namespace, names, report, gateways, missing_ok=missing_ok)
    declared = {each.ref: by for each in found if (by := declaring_object(api, each))}
    if declared and names:
        raise _refusal(declared, "nothing was deleted")
    for existing in found:
        if existing.ref not in declared:
            delete_one(api, existing, leftovers, writing, report)
    if declared:
        raise _refusal(declared, "not deleted")


def delete_one(
    api: Api, existing: Existing, leftovers: Leftovers, writing: WriteOptions, report: Report
) -> None:
    """Delete one exposure, response or access log.

    Args:
        api: the cluster.
        existing: what to delete.
        leftovers: finds what interrupted runs left behind.
        writing, report: as for `delete`.

    Raises:
        Interrupted, ClusterError: the hints say how to delete the rest.
    """
    again = f"to delete the rest: kubectl istio-udp delete -n {existing.namespace} {existing.ref}"
    try:
        warnings = delete_existing(
            api,
            existing,
            leftovers,
            timeout=writing.seconds,
            dry_run=writing.dry_run,
            report=lambda kind, _, name: report.removed(kind, name),
        )
    except KeyboardInterrupt:
        raise Interrupted("interrupted", hints=[again]) from None
    except ClusterError as error:
        error.hints = (*error.hints, again)
        raise
    for text in (*warnings, *_relabelled(api, existing)):
        report.warn(text)


def _relabelled(api: Api, existing: Existing) -> Iterator[str]:
    """A warning for each object that stays because its labels were edited."""
    for ref in existing.missing_refs:
        with suppress(Forbidden):
            if api.find(ref.kind, ref.namespace, ref.name):
                yield (
                    f"{ref} was not deleted: it does not have the labels of "
                    f"{existing.kind.words} {existing.name}. If nobody else needs it: "
                    f"kubectl delete -n {ref.namespace} {RESOURCES[ref.kind].qualified} {ref.name}"
                )


def _find(
    api: Api,
    namespace: str,
    names: Sequence[str],
    report: Report,
    gateways: Sequence[str],
    *,
    missing_ok: bool,
) -> tuple[list[Existing], Leftovers]:
    """The objects with these names, and where to find their leftovers.

    Includes exposures with nothing left but a port on a Service, or a reservation.
    """
    state = get_state(api, namespace, names, missing_ok=True, gateways=gateways)
    found = list(state.existing)
    leftovers = read_leftovers(api, [existing.spec for existing in found])
    known = {existing.ref for existing in found}
    missing = []
    for ref in map(Ref.parse, names):
        if ref in known:
            continue
        if ref.kind is Kind.EXPOSURE and leftovers.any_of((namespace, ref.name)):
            found.append(Existing(ref.kind, namespace, ref.name, None, ()))
        else:
            missing.append(str(ref))
    if missing and not missing_ok:
        get_state(api, namespace, missing, gateways=gateways)  # raises NotFound
    if not names:
        known_keys = {existing.key for existing in found if existing.kind is Kind.EXPOSURE}
        found += [
            Existing(Kind.EXPOSURE, *key, None, ())
            for key in sorted(leftovers.keys(namespace) - known_keys)
        ]
    for stray in state.strays:
        report.warn(explain_stray(stray))
    return found, leftovers


def _refusal(declared: Mapping[Ref, ObjectRef], outcome: str) -> Refused:
    """The error for exposures that other objects request: why they stay, and what to do."""
    one, namespace = len(declared) == 1, next(iter(declared.values())).namespace
    return Refused(
        f"{', '.join(map(_request, declared.values()))} requests "
        f"{'this exposure' if one else 'these exposures'}, so the controller would create "
        f"{'it' if one else 'them'} again; {outcome}",
        hints=[
            *map(_withdrawal, declared.values()),
            "the controller then deletes its objects; if no controller runs any more: kubectl "
            f"istio-udp delete -n {namespace} {' '.join(ref.name for ref in declared)}",
        ],
    )


def _request(by: ObjectRef) -> str:
    """The text for what requests an exposure: an annotation of a Service, or a Gateway."""
    name = f"{by.kind} {by.namespace}/{by.name}"
    return f"annotation {EXPOSE_ANNOTATION} of {name}" if by.kind == "Service" else name


def _withdrawal(by: ObjectRef) -> str:
    """The command that withdraws a request."""
    if by.kind == "Service":
        return f"kubectl annotate service -n {by.namespace} {by.name} {EXPOSE_ANNOTATION}-"
    return f"kubectl delete {RESOURCES[API_GATEWAY].qualified} -n {by.namespace} {by.name}"
