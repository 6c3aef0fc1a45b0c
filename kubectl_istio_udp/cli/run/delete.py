"""`delete`: find what the names stand for, and delete it."""

from __future__ import annotations

from collections.abc import Sequence

import click

from kubectl_istio_udp.apply.deletion import delete_existing
from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.run.cluster import connect, namespace_of
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import ClusterError, Interrupted, Refused, UsageError
from kubectl_istio_udp.model.kinds import Kind, Ref
from kubectl_istio_udp.output import printing
from kubectl_istio_udp.output.printing import warn
from kubectl_istio_udp.sources.annotations import EXPOSE_ANNOTATION
from kubectl_istio_udp.state.controllers import is_still_declared
from kubectl_istio_udp.state.existing import explain_stray, get_state
from kubectl_istio_udp.state.leftovers import Leftovers, read_leftovers
from kubectl_istio_udp.state.ownership import Existing


def run(
    *,
    names: tuple[str, ...],
    all_names: bool,
    ignore_not_found: bool,
    wait: bool,
    timeout: Duration,
    dry_run: str,
    common: options.Common,
) -> None:
    """Run `delete`, with the values of its options."""
    if bool(names) == all_names:
        raise UsageError(
            "name what to delete, or use --all",
            hints=["list them: kubectl istio-udp get"],
        )
    api = connect(common)
    namespace = namespace_of(common, api)
    found, leftovers = _find(api, namespace, names, missing_ok=ignore_not_found)
    declared = [existing for existing in found if is_still_declared(api, existing)]
    if declared and not all_names:
        raise _refusal(declared, "nothing was deleted")
    for existing in found:
        if existing in declared:
            continue
        again = f"to delete the rest: kubectl istio-udp delete -n {namespace} {existing.ref}"
        try:
            warnings = delete_existing(
                api,
                existing,
                leftovers,
                timeout=timeout.seconds if wait else 0,
                dry_run=dry_run,
                report=lambda kind, _, name: click.echo(printing.deleted_line(kind, name, dry_run)),
            )
        except KeyboardInterrupt:
            raise Interrupted("interrupted", hints=[again]) from None
        except ClusterError as error:
            error.hints = (*error.hints, again)
            raise
        for text in warnings:
            printing.warn(text)
    if declared:
        raise _refusal(declared, "not deleted")


def _find(
    api: Api, namespace: str, names: tuple[str, ...], *, missing_ok: bool
) -> tuple[list[Existing], Leftovers]:
    """The objects with these names, and where to find their leftovers.

    Includes exposures with nothing left but a port on a Service, or a reservation.
    """
    state = get_state(api, namespace, names, missing_ok=True)
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
        get_state(api, namespace, missing)  # raises NotFound
    if not names:
        known_keys = {existing.key for existing in found if existing.kind is Kind.EXPOSURE}
        found += [
            Existing(Kind.EXPOSURE, *key, None, ())
            for key in sorted(leftovers.keys(namespace) - known_keys)
        ]
    for stray in state.strays:
        warn(explain_stray(stray))
    return found, leftovers


def _refusal(declared: Sequence[Existing], outcome: str) -> Refused:
    """The error for exposures that Services' annotations request: why they stay, and what to do."""
    names = ", ".join(f"Service {existing.namespace}/{existing.name}" for existing in declared)
    one = len(declared) == 1
    first = declared[0]
    annotate = "kubectl annotate service -n"
    return Refused(
        f"annotation {EXPOSE_ANNOTATION} of {names} requests "
        f"{'this exposure' if one else 'these exposures'}, so the controller would create "
        f"{'it' if one else 'them'} again; {outcome}",
        hints=[
            *(f"{annotate} {e.namespace} {e.name} {EXPOSE_ANNOTATION}-" for e in declared),
            "the controller then deletes its objects; if no controller runs any more: kubectl "
            f"istio-udp delete -n {first.namespace} "
            f"{' '.join(existing.name for existing in declared)}",
        ],
    )
