"""Wait until every ready gateway pod's Envoy has, or no longer has, the configuration."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from kubectl_istio_udp.kube.client import Api, selector_of
from kubectl_istio_udp.kube.parallel import for_each
from kubectl_istio_udp.model.errors import ClusterError, Forbidden, Rejected, WaitTimeout
from kubectl_istio_udp.state import proxies
from kubectl_istio_udp.state.pods import ready_pods


@dataclass(frozen=True)
class Expected:
    """The configuration that a gateway's Envoy must have.

    Attributes:
        prefix: the name prefix of its listeners and clusters.
        listeners, clusters: the revision by name.
        hosts: returns the required hosts (`10.0.0.1:53`) by cluster; called for every poll,
            because pods may change meanwhile.
    """

    prefix: str
    listeners: Mapping[str, str]
    clusters: Mapping[str, str]
    hosts: Callable[[], Mapping[str, frozenset[str]]]


def wait_until_live(
    api: Api,
    namespace: str,
    selector: Mapping[str, str],
    expected: Expected,
    timeout: float,
    progress: Callable[[str], None],
    *,
    had_pods: bool = True,
) -> tuple[str, ...]:
    """Wait until every ready gateway pod has the expected configuration.

    Args:
        api: the cluster.
        namespace, selector: the gateway's pods.
        expected: the listeners, clusters and hosts.
        timeout: in seconds.
        progress: called with a line of text whenever it changes.
        had_pods: whether the gateway had a ready pod when the command began. If so, at least one
            must confirm: this also waits for the replacement of a pod that ends meanwhile.

    Returns:
        The names of the pods that have it; empty if the gateway had no ready pod.

    Raises:
        Rejected: an Envoy rejected it; the message is Envoy's error.
        WaitTimeout: not all pods had it in time; the message says what is missing in which.
        Forbidden: no permission to query Envoy.
    """

    def look(pods: Sequence[str]) -> list[str]:
        hosts = expected.hosts() if pods else {}
        return for_each(partial(_lack, api, namespace, expected, hosts), pods)

    def refusal(pod: str, since: int) -> str | None:
        found = proxies.refusals_in_log(api, namespace, pod, since)
        rejected = [
            found[name] for name in (*expected.listeners, *expected.clusters) if name in found
        ]
        return rejected[0] if rejected else None

    return _wait(api, namespace, selector, look, refusal, timeout, progress, had_pods)


def wait_until_routed(
    api: Api,
    namespace: str,
    selector: Mapping[str, str],
    route: str,
    timeout: float,
    progress: Callable[[str], None],
    *,
    had_pods: bool = True,
) -> tuple[str, ...]:
    """Wait until every ready gateway pod has the HTTP route with this name.

    For the other arguments, the result and the errors see wait_until_live.
    """

    def lack(pod: str) -> str:
        try:
            found = proxies.routes(api, namespace, pod, route.rpartition("-")[0])
        except Forbidden:
            raise
        except ClusterError as error:
            return f"could not be queried ({error.message})"
        return "" if route in found else f"does not yet have route {route}"

    def look(pods: Sequence[str]) -> list[str]:
        return for_each(lack, pods)

    refusal = partial(proxies.route_refusal_in_log, api, namespace)
    return _wait(api, namespace, selector, look, refusal, timeout, progress, had_pods)


def _wait(
    api: Api,
    namespace: str,
    selector: Mapping[str, str],
    look: Callable[[Sequence[str]], list[str]],
    refusal: Callable[[str, int], str | None],
    timeout: float,
    progress: Callable[[str], None],
    had_pods: bool,
) -> tuple[str, ...]:
    """Poll until no pod lacks anything; `refusal` reads a rejection's error from a pod's log."""
    begun = time.monotonic()
    while True:
        pods = [pod.name for pod in ready_pods(api, namespace, selector)]
        missing = {pod: lack for pod, lack in zip(pods, look(pods), strict=True) if lack}
        if not missing and (pods or not had_pods):
            return tuple(pods)
        elapsed = time.monotonic() - begun
        for pod in missing:
            since = max(1, math.ceil(elapsed))
            reason = refusal(pod, since)
            if reason:
                raise _rejected(namespace, pod, reason)
        if elapsed >= timeout:
            raise _timed_out(api, namespace, selector, missing, timeout)
        lacks = "; ".join(f"{pod} {lack}" for pod, lack in missing.items())
        progress(lacks or "the gateway no longer has a ready pod")
        time.sleep(api.waits.poll)


def _timed_out(
    api: Api,
    namespace: str,
    selector: Mapping[str, str],
    missing: Mapping[str, str],
    timeout: float,
) -> WaitTimeout:
    """The error after the timeout; `missing` says what each pod lacks."""
    if not missing:
        return WaitTimeout(
            f"the gateway in namespace {namespace} no longer has a ready pod after {timeout:g}s, "
            "so nothing confirmed the configuration; the objects stay applied",
            hints=[
                f"see its pods: kubectl get pods -n {namespace} -l {selector_of(selector)}",
                "to wait longer: --timeout 2m",
            ],
        )
    pod, lack = next(iter(missing.items()))
    others = proxies.refusals_in_log(api, namespace, pod, max(1, math.ceil(timeout)))
    return WaitTimeout(
        f"gateway pod {namespace}/{pod} {lack} after {timeout:g}s; the objects stay applied",
        hints=[
            *(
                f"its Envoy rejects {name}, which may block other configuration: {why}"
                for name, why in others.items()
            ),
            "to wait longer: --timeout 2m",
            "check its connection to istiod: kubectl logs "
            f"-n {namespace} {pod} -c istio-proxy --tail 20",
        ],
    )


def _lack(
    api: Api,
    namespace: str,
    expected: Expected,
    hosts: Mapping[str, frozenset[str]],
    pod: str,
) -> str:
    """What a pod's Envoy lacks, as text; "" if it has everything."""
    try:
        state = proxies.proxy_state(api, namespace, pod, expected.prefix)
    except Forbidden:
        raise
    except ClusterError as error:
        return f"could not be queried ({error.message})"
    lack = state.first_lack(expected.listeners, expected.clusters)
    if lack is not None and lack.refusal:
        raise _rejected(namespace, pod, lack.refusal)
    if lack is not None:
        return str(lack)
    for name, wanted in hosts.items():
        lacking = wanted - state.hosts.get(name, frozenset())
        if lacking:
            return f"does not yet have host {min(lacking)} in cluster {name}"
    return ""


def _rejected(namespace: str, pod: str, reason: str) -> Rejected:
    return Rejected(f"the Envoy of gateway pod {namespace}/{pod} rejected it: {reason}")


def wait_until_gone(
    api: Api,
    namespace: str,
    selector: Mapping[str, str],
    listeners: Iterable[str],
    timeout: float,
) -> str | None:
    """Wait until no ready gateway pod has any of these listeners.

    Args:
        api: the cluster.
        namespace, selector: the gateway's pods.
        listeners: the names of the listeners.
        timeout: in seconds.

    Returns:
        None if no pod has them; the text of a warning after `timeout` seconds, or if a pod cannot
        be queried.
    """
    begun = time.monotonic()
    names = tuple(listeners)
    while True:
        pods = [pod.name for pod in ready_pods(api, namespace, selector)]
        try:
            states = for_each(lambda pod: proxies.listeners(api, namespace, pod), pods)
        except ClusterError as error:
            return f"not confirmed by the gateway: {error.message}"
        having = [bound.pod for state in states for bound in state if bound.name in names]
        if not having:
            return None
        if time.monotonic() - begun >= timeout:
            return f"gateway pod {namespace}/{having[0]} still listens after {timeout:g}s"
        time.sleep(api.waits.poll)
