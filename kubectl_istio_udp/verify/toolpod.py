"""The network-tool pod: find it, or create it for one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.exec import ExecResult
from kubectl_istio_udp.kube.parallel import for_each
from kubectl_istio_udp.model.errors import (
    ClusterError,
    Forbidden,
    IstioUdpError,
    NotFound,
    WaitTimeout,
)
from kubectl_istio_udp.model.names import MANAGER, namespaced_name
from kubectl_istio_udp.model.podstatus import phase, waiting_containers
from kubectl_istio_udp.render.samples import restricted
from kubectl_istio_udp.verify import grouped_exec

TOOL_NAME = "network-tool"
# Extra seconds for the exec itself.
_EXEC_SECONDS = 10.0


@dataclass(frozen=True)
class ToolPod:
    """A running pod that has dig and nc.

    Attributes:
        namespace, name: the pod.
        container: its container to use.
    """

    namespace: str
    name: str
    container: str

    def run(self, api: Api, command: list[str], timeout: float) -> ExecResult:
        """Run a command in the pod; `timeout` is for the command itself, in seconds."""
        return api.exec(self.namespace, self.name, self.container, command, timeout + _EXEC_SECONDS)

    def run_all(
        self, api: Api, commands: Sequence[Sequence[str]], timeout: float
    ) -> list[ExecResult]:
        """Run commands with as few execs as possible.

        Args:
            api: the cluster.
            commands: executables with their arguments.
            timeout: the most seconds that one of them takes.

        Returns:
            Their results, in order.
        """
        found: list[ExecResult] = []
        for group in grouped_exec.grouped(commands):
            results = self._run_group(api, group, timeout) if len(group) > 1 else None
            found += results or for_each(lambda words: self.run(api, [*words], timeout), group)
        return found

    def _run_group(
        self, api: Api, group: Sequence[Sequence[str]], timeout: float
    ) -> list[ExecResult] | None:
        """Run commands with one exec; None if the pod has no shell."""
        return grouped_exec.results(self.run(api, grouped_exec.joined(group), timeout), len(group))

    def __str__(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


@contextmanager
def created_tool(
    api: Api,
    namespace: str,
    manifest: Mapping[str, Any],
    progress: Callable[[str], None],
) -> Iterator[ToolPod]:
    """Create a network-tool pod for one run, and delete it afterwards.

    Args:
        api: the cluster.
        namespace: the namespace for the pod.
        manifest: the Pod's manifest.
        progress: called with a text while waiting.

    Raises:
        WaitTimeout: it did not start.
    """
    made, pod = manifest["metadata"]["name"], manifest
    try:
        pod = apply_for_one_run(api, manifest)
        progress(f"starting pod {made}")
        yield _tool(wait_running(api, namespace, f"app={TOOL_NAME}", api.waits.pod_start, made)[0])
    except BaseException:
        # An earlier error is more important to the user.
        with suppress(IstioUdpError):
            api.delete(pod)
        raise
    api.delete(pod)


def apply_for_one_run(api: Api, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """Create an object for one run; a pod as its namespace's Pod Security level demands it.

    Raises:
        Forbidden: no permission, or a policy or quota of the cluster does not admit it.
    """
    try:
        return api.apply(manifest, before=None, manager=MANAGER).manifest
    except Forbidden as error:
        if "violates PodSecurity" not in error.message:
            raise
    return api.apply(restricted(manifest), before=None, manager=MANAGER).manifest


def find_tool(api: Api, namespace: str, name: str | None) -> ToolPod:
    """Find the pod to send probes from.

    Args:
        api: the cluster.
        namespace: the namespace to search.
        name: `--tool-pod`: `NAME` or `NAMESPACE/NAME`; None for a pod named network-tool or with
            that `app` label.

    Raises:
        NotFound: there is none.
        ClusterError: it is not running.
    """
    if name:
        where, _, plain = name.rpartition("/")
        pods = [api.get("Pod", where or namespace, plain)]
    else:
        pods = api.list("Pod", namespace, f"app={TOOL_NAME}")
        plain_one = api.find("Pod", namespace, TOOL_NAME) if not pods else None
        pods = [plain_one] if plain_one else pods
    running = [pod for pod in pods if phase(pod) == "Running"]
    if running:
        return _tool(running[0])
    if pods:
        where, which = namespaced_name(pods[0])
        raise ClusterError(
            f"pod {where}/{which} is {phase(pods[0])}, not Running",
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
    """Wait until there are pods with a label selector and all of them are ready.

    Args:
        api: the cluster.
        namespace, selector: the pods.
        timeout: in seconds.
        name: only wait for the pod with this name.

    Returns:
        The pods' manifests.

    Raises:
        WaitTimeout: not all were ready in time; the message says why one is not.
    """
    deadline = time.monotonic() + timeout
    while True:
        pods = [
            pod
            for pod in api.list("Pod", namespace, selector)
            if name in (None, pod["metadata"]["name"]) and phase(pod) != "Terminating"
        ]
        waiting = [pod for pod in pods if not (phase(pod) == "Running" and _all_ready(pod))]
        if pods and not waiting:
            return pods
        if time.monotonic() >= deadline:
            late = waiting[0] if waiting else None
            raise WaitTimeout(
                _late_text(late, namespace, timeout)
                if late
                else f"no pod with label {selector} was created in namespace {namespace} within "
                f"{timeout:g}s",
                hints=[f"see why: kubectl describe pods -n {namespace} -l {selector}"],
            )
        time.sleep(api.waits.poll)


def _late_text(pod: Mapping[str, Any], namespace: str, timeout: float) -> str:
    name = pod["metadata"]["name"]
    return f"pod {namespace}/{name} did not start within {timeout:g}s: {_why(pod)}"


def _all_ready(pod: Mapping[str, Any]) -> bool:
    statuses = pod["status"].get("containerStatuses") or ()
    return bool(statuses) and all(status["ready"] for status in statuses)


def _why(pod: Mapping[str, Any]) -> str:
    for waiting in waiting_containers(pod):
        return f"{waiting['reason']} {waiting.get('message', '')}".strip()
    return phase(pod)


def _tool(pod: Mapping[str, Any]) -> ToolPod:
    names = [container["name"] for container in pod["spec"]["containers"]]
    containers = [name for name in names if name != "istio-proxy"]
    container = TOOL_NAME if TOOL_NAME in names else (containers or names)[0]
    return ToolPod(*namespaced_name(pod), container)
