"""`direct response`: read the cluster, decide, and write."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kubectl_istio_udp.apply.changes import change_set
from kubectl_istio_udp.apply.pipeline import Decision, Report, apply_decision
from kubectl_istio_udp.apply.waiting import wait_until_routed
from kubectl_istio_udp.checks.response import check_response
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.gatewaychoice import GatewayChoice
from kubectl_istio_udp.model.kinds import ObjectRef
from kubectl_istio_udp.model.response import Response, ResponseApi, ResponseSpec
from kubectl_istio_udp.model.write_options import WriteOptions
from kubectl_istio_udp.plan.response import plan_response
from kubectl_istio_udp.render.response import read_content, response_writes, route_name
from kubectl_istio_udp.sources.response import NamedResponse
from kubectl_istio_udp.state.existing import get_existing
from kubectl_istio_udp.state.mesh import read_mesh
from kubectl_istio_udp.state.ownership import Existing, readable, remaining
from kubectl_istio_udp.state.responses import read_response_snapshot


def respond(
    api: Api,
    namespace: str,
    named: NamedResponse,
    gateway: GatewayChoice,
    writing: WriteOptions,
    report: Report,
    flags: Mapping[str, str],
) -> ResponseSpec:
    """Create or change a response as requested on a command line.

    Args:
        api: the cluster.
        namespace: the response's namespace.
        named: the named settings.
        gateway: how the gateway is chosen.
        writing: how to write.
        report: informed about each step.
        flags: as for `apply_decision`.

    Returns:
        The response as written.

    Raises:
        UsageError: it is not possible as requested.
        Refused, Rejected or an error of the cluster; everything was rolled back then.
    """
    before, kept = _read_existing(api, namespace, named)
    # An existing response keeps its place unless the command line names another one.
    mesh = named.mesh or bool(before and before.mesh and not named.at_gateway)
    if before and before.gateway and not mesh:
        gateway = gateway.or_known(before.gateway)
    request = named.request(namespace, before, kept, mesh=mesh)
    snapshot = read_response_snapshot(api, request, gateway)
    planned = plan_response(request, snapshot)
    response, spec = planned.response, planned.response.spec
    becomes_filter = spec.api is ResponseApi.ENVOY_FILTER
    if becomes_filter and before and before.api is ResponseApi.VIRTUAL_SERVICE:
        raise _undecided(before, before.objects[-1])
    todo = response_writes(response, writing.manager)
    had_pods = bool(snapshot.gateway and snapshot.gateway.ready_pods)
    decision = Decision(
        spec=spec,
        before=before,
        summary=f"Istio API: {spec.api.value} ({planned.reason})",
        findings=check_response(response, snapshot),
        changes=change_set(spec.kind, spec.key, snapshot.objects, writes=todo),
        wait=_waiter(api, response, had_pods=had_pods),
    )
    apply_decision(api, decision, writing, report, flags)
    return spec


def _read_existing(
    api: Api, namespace: str, named: NamedResponse
) -> tuple[ResponseSpec | None, bytes]:
    """The current response of this name, and its body if the command line names none.

    Raises:
        UsageError: the body cannot be read back, or the settings may be somebody else's.
    """
    name = named.response_name
    listed = get_existing(api, namespace, [f"response/{name}"], missing_ok=True)
    found = [remaining(each) for each in listed]
    if not found or not isinstance(found[0].spec, ResponseSpec):
        return None, b""
    spec = _trusted(api, found[0], found[0].spec, named)
    if spec is None:
        raise _undecided(found[0].spec, ObjectRef.of(found[0].objects[0]))
    kept = read_content(found[0].objects, spec) if named.content is None else b""
    if kept is None:
        raise UsageError(
            f"the body of response {name} cannot be read from its objects",
            hints=["name the body again: --body or --body-file; for no body: --body ''"],
        )
    return spec, kept


def _trusted(
    api: Api, existing: Existing, spec: ResponseSpec, named: NamedResponse
) -> ResponseSpec | None:
    """The spec of an existing response that decides about settings that the command line omits.

    Whoever may write VirtualServices in the response's namespace can write any spec in one. It may
    only decide about a VirtualService, which they can write too; about an EnvoyFilter only an
    object decides that is in the gateway's namespace, or for sidecars in the mesh's root namespace.
    After an interruption this may have an earlier spec. With `--api auto` the plan shows which it
    is.

    Args:
        api: the cluster.
        existing: the response.
        spec: its spec, which a VirtualService may have decided.
        named: the named settings.

    Returns:
        None if there is no such object.
    """
    if spec.api is ResponseApi.VIRTUAL_SERVICE and named.api != ResponseApi.ENVOY_FILTER.value:
        return spec
    specs = [
        found
        for each in existing.gateway_objects
        if (found := readable(each, ResponseSpec))
        and each["metadata"]["namespace"] in _places_of_filter(api, found)
    ]
    return spec if spec in specs else next(iter(specs), None)


def _places_of_filter(api: Api, spec: ResponseSpec) -> set[str]:
    """The namespace where the EnvoyFilter of a response belongs; empty if it has none."""
    places = {ref.namespace for ref in spec.objects if ref.kind == "EnvoyFilter"}
    return places & {read_mesh(api).root_namespace} if spec.mesh and places else places


def _undecided(spec: ResponseSpec, by: ObjectRef) -> UsageError:
    """The error if only an object that may not decide about an EnvoyFilter has the settings."""
    return UsageError(
        f"only {by} has the settings of response {spec.name}, and it may not decide about an "
        "EnvoyFilter",
        hints=[
            f"delete it, then create it again: kubectl istio-udp delete -n {spec.namespace} "
            f"response/{spec.name}"
        ],
    )


def _waiter(
    api: Api, response: Response, *, had_pods: bool
) -> Callable[[float, Callable[[str], None]], object] | None:
    """Return a function that waits for the gateway; None for the mesh, which has many sidecars."""
    gateway = response.spec.gateway
    if gateway is None:
        return None
    place, route = (gateway.namespace, gateway.selector), route_name(response)
    return lambda seconds, progress: wait_until_routed(
        api, *place, route, seconds, progress, had_pods=had_pods
    )
