"""The network-tool pod: found, or made for one run and removed again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.exec import ExecResult
from kubectl_istio_udp.model.errors import ClusterError, IstioUdpError, NotFound, WaitTimeout
from kubectl_istio_udp.model.names import MANAGER, check_dns_label, check_dns_subdomain

TOOL_NAME = "network-tool"
# What exec itself may add to a command's own time.
_EXEC_SECONDS = 10.0


@dataclass(frozen=True)
class ToolPod:
    """A running pod with dig and nc.

    Attributes:
        namespace, name: where.
        container: which of its containers.
    """

    namespace: str
    name: str
    container: str

    def run(self, api: Api, command: list[str], timeout: float) -> ExecResult:
        """Run a command in it; `timeout` is what the command itself may take, in seconds."""
        return api.exec(self.namespace, self.name, self.container, command, timeout + _EXEC_SECONDS)

    def __str__(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


@contextmanager
def made_tool(
    api: Api,
    namespace: str,
    manifest: Mapping[str, Any],
    progress: Callable[[str], None],
) -> Iterator[ToolPod]:
    """A pod to probe from that is made for one run, and deleted afterwards, whatever happens.

    Args:
        api: the cluster.
        namespace: where to make it.
        manifest: the Pod.
        progress: called with what is waited for.

    Raises:
        WaitTimeout: it did not start.
    """
    made = manifest["metadata"]["name"]
    try:
        api.apply(manifest, before=None, manager=MANAGER)
        progress(f"starting pod {made}")
        yield _tool(wait_running(api, namespace, f"app={TOOL_NAME}", api.waits.pod_start, made)[0])
    except BaseException:
        # What went wrong first is what the user must hear of.
        with suppress(IstioUdpError):
            api.delete("Pod", namespace, made)
        raise
    api.delete("Pod", namespace, made)


def find_tool(api: Api, namespace: str, name: str | None) -> ToolPod:
    """The pod to probe from.

    Args:
        api: the cluster.
        namespace: where to look for it.
        name: `--tool-pod`, `NAME` or `NAMESPACE/NAME`; None takes the one called or labelled
            (`app`) network-tool.

    Raises:
        NotFound: there is none.
        ClusterError: it is not running.
    """
    if name:
        space, _, plain = name.rpartition("/")
        where = check_dns_label(space or namespace, "namespace of --tool-pod")
        pods = [api.get("Pod", where, check_dns_subdomain(plain, "pod"))]
    else:
        pods = api.list("Pod", namespace, f"app={TOOL_NAME}")
        plain_one = api.find("Pod", namespace, TOOL_NAME) if not pods else None
        pods = [plain_one] if plain_one else pods
    running = [pod for pod in pods if _phase(pod) == "Running"]
    if running:
        return _tool(running[0])
    if pods:
        where, which = pods[0]["metadata"]["namespace"], pods[0]["metadata"]["name"]
        raise ClusterError(
            f"pod {where}/{which} is {_phase(pods[0])}, not Running",
            hints=[f"see why: kubectl describe pod -n {where} {which}"],
        )
    raise NotFound(
        f"no network-tool pod found in namespace {namespace}",
        hints=[
            "create one for this run: --create-tool",
            f"or a permanent one: kubectl istio-udp samples apply -n {namespace}",
            "or name any running pod that has dig: --tool-pod [NAMESPACE/]NAME",
        ],
    )


def wait_running(
    api: Api, namespace: str, selector: str, timeout: float, name: str | None = None
) -> list[dict[str, Any]]:
    """Wait until there are pods of a label selector and all of them are ready.

    Args:
        api: the cluster.
        namespace, selector: which pods.
        timeout: seconds.
        name: look at this one of them only.

    Returns:
        Their manifests.

    Raises:
        WaitTimeout: not all were ready in time; the message says what keeps one.
    """
    deadline = time.monotonic() + timeout
    while True:
        pods = [
            pod
            for pod in api.list("Pod", namespace, selector)
            if name in (None, pod["metadata"]["name"]) and _phase(pod) != "Terminating"
        ]
        waiting = [pod for pod in pods if not (_phase(pod) == "Running" and _all_ready(pod))]
        if pods and not waiting:
            return pods
        if time.monotonic() >= deadline:
            late = waiting[0] if waiting else None
            what = late["metadata"]["name"] if late else f"any pod of {selector}"
            why = _why(late) if late else "there is none"
            raise WaitTimeout(
                f"pod {namespace}/{what} did not start within {timeout:g}s: {why}",
                hints=[f"look at it: kubectl describe pods -n {namespace} -l {selector}"],
            )
        time.sleep(api.waits.poll)


def _phase(pod: Mapping[str, Any]) -> str:
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    return str((pod.get("status") or {}).get("phase", "Unknown"))


def _all_ready(pod: Mapping[str, Any]) -> bool:
    statuses = pod["status"].get("containerStatuses") or ()
    return bool(statuses) and all(status["ready"] for status in statuses)


def _why(pod: Mapping[str, Any]) -> str:
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        waiting = (status.get("state") or {}).get("waiting") or {}
        if waiting.get("reason"):
            return f"{waiting['reason']} {waiting.get('message', '')}".strip()
    return _phase(pod)


def _tool(pod: Mapping[str, Any]) -> ToolPod:
    names = [container["name"] for container in pod["spec"]["containers"]]
    own = [name for name in names if name != "istio-proxy"]
    container = TOOL_NAME if TOOL_NAME in names else (own or names)[0]
    return ToolPod(pod["metadata"]["namespace"], pod["metadata"]["name"], container)
