"""The cluster that the flags name, and the exposures, responses and access logs in it."""

from __future__ import annotations

from collections.abc import Sequence

from kubectl_istio_udp.cli.options import Common
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.kubeconfig import ConnectionOptions
from kubectl_istio_udp.kube.retrying import MOST_RETRIES, Retries, ignore
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.names import check_dns_label
from kubectl_istio_udp.model.waits import Waits
from kubectl_istio_udp.output.printing import warn
from kubectl_istio_udp.state.existing import explain_stray, get_state, read_state
from kubectl_istio_udp.state.ownership import Existing, State


def connect(common: Common) -> Api:
    """The cluster that the options select; sends no request yet.

    Raises:
        Unreachable: the kubeconfig cannot be used.
    """
    waits = common.waits or Waits()
    retries = Retries(
        MOST_RETRIES if common.retry else 0,
        warn,
        warn if common.verbose else ignore,
        waits.first_retry,
        waits.longest_retry,
    )
    return Api.connect(
        ConnectionOptions(
            **common.connection,
            request_timeout=common.request_timeout.seconds,
            retries=retries,
            waits=waits,
        )
    )


def namespace_of(common: Common, api: Api) -> str:
    """The namespace that a command works in.

    Raises:
        UsageError: it is not a valid name.
    """
    return check_dns_label(common.namespace or api.namespace, "namespace")


def searched_namespace(common: Common, api: Api, all_namespaces: bool) -> str | None:
    """The namespace to search; None for all namespaces."""
    return None if all_namespaces else namespace_of(common, api)


def find_state(
    common: Common,
    api: Api,
    names: Sequence[str],
    all_namespaces: bool,
    gateways: Sequence[str] = (),
) -> State:
    """The exposures, responses and access logs with these names, or all of them.

    A kind alone (`responses`) selects all of that kind.

    Raises:
        UsageError: names are combined with -A, or a name has an unknown kind.
        NotFound, Forbidden, Unreachable: errors of the API server.
    """
    if all_namespaces and names:
        raise UsageError(
            "names cannot be combined with -A", hints=["name the namespace: -n NAMESPACE"]
        )
    if all_namespaces:
        return read_state(api)
    kind = Kind.of_word(names[0]) if len(names) == 1 else None
    if kind:
        return read_state(api, namespace_of(common, api), (kind,), gateways)
    return get_state(api, namespace_of(common, api), names, gateways=gateways)


def find_existing(
    common: Common,
    api: Api,
    names: Sequence[str],
    all_namespaces: bool,
    gateways: Sequence[str] = (),
) -> tuple[Existing, ...]:
    """The same as `find_state` without the strays; prints a warning about them."""
    state = find_state(common, api, names, all_namespaces, gateways)
    for stray in state.strays:
        warn(explain_stray(stray))
    return state.existing
