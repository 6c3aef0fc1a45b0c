from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import ClusterError, Forbidden, NotFound, WaitTimeout
from kubectl_istio_udp.render.samples import one_run_tool
from kubectl_istio_udp.verify.toolpod import ToolPod, created_tool, find_tool, wait_running
from tests.support.apiserver import ApiServer, Request
from tests.support.builders import pod
from tests.support.connection import connected
from tests.support.fakes import Fakes
from tests.support.waits import QUICK


def found(api: Api, name: str | None = None, namespace: str = "default") -> ToolPod:
    return find_tool(api, namespace, name)


def made(api: Api, manifest: dict[str, Any], progress: Callable[..., Any] = lambda _: None) -> Any:
    with created_tool(api, "default", manifest, progress) as tool:
        return tool


def pods(server: ApiServer) -> set[str]:
    return {name for kind, _, name in server.there() if kind == "Pod"}


def test_finds_the_pod_by_its_label(api: Api, server: ApiServer) -> None:
    server.put(pod("tools-xyz", namespace="lab", app="network-tool"))
    assert found(api, namespace="lab") == ToolPod("lab", "tools-xyz", "network-tool")


def test_finds_the_pod_by_its_name(api: Api, server: ApiServer) -> None:
    server.put(pod("network-tool", namespace="lab", app="anything"))
    assert found(api, namespace="lab") == ToolPod("lab", "network-tool", "anything")


@pytest.mark.parametrize(("name", "expected"), [("dig", "default/dig"), ("lab/dig", "lab/dig")])
def test_uses_the_named_pod(api: Api, server: ApiServer, name: str, expected: str) -> None:
    server.put(pod("dig"), pod("dig", namespace="lab"))
    assert str(found(api, name)) == expected


@pytest.mark.parametrize(
    ("containers", "expected"),
    [
        (["istio-proxy", "network-tool"], "network-tool"),
        (["main", "network-tool"], "network-tool"),
        (["istio-proxy", "main", "other"], "main"),
        (["istio-proxy"], "istio-proxy"),
    ],
)
def test_runs_in_the_container_that_has_the_tools(
    api: Api, server: ApiServer, containers: list[str], expected: str
) -> None:
    server.put(pod("dig", containers=[{"name": name} for name in containers]))
    assert found(api, "dig").container == expected


def test_no_tool_pod_exists(api: Api) -> None:
    with pytest.raises(NotFound, match="no network-tool pod found in namespace lab") as caught:
        found(api, namespace="lab")
    hints = "\n".join(caught.value.hints)
    for way in ("--create-tool", "kubectl istio-udp samples apply -n lab", "--tool-pod"):
        assert way in hints


def test_the_named_pod_is_missing(api: Api) -> None:
    with pytest.raises(NotFound, match="pod nothing not found in namespace default"):
        found(api, "nothing")


@pytest.mark.parametrize("state", ["Pending", "Terminating", "Unknown"])
def test_the_named_pod_does_not_run(api: Api, server: ApiServer, state: str) -> None:
    manifest = pod("network-tool", app="network-tool", phase=state)
    if state == "Terminating":
        manifest["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    if state == "Unknown":
        del manifest["status"]
    server.put(manifest)
    message = f"pod default/network-tool is {state}, not Running"
    with pytest.raises(ClusterError, match=message) as caught:
        found(api)
    assert "kubectl describe pod -n default network-tool" in caught.value.hints[0]


def test_a_running_pod_is_preferred(api: Api, server: ApiServer) -> None:
    server.put(pod("a-pending", app="network-tool", phase="Pending"))
    assert found(api).name == "network-tool"


def test_runs_a_command(api: Api, fakes: Fakes) -> None:
    tool = found(api)
    result = tool.run(api, ["dig", "@10.0.0.1", "-p", "53"], 1)
    assert result.exit_code == 0
    assert "status: NOERROR" in result.stdout


# -- made for one run ---------------------------------------------------------------------------


def test_creates_and_deletes_a_tool_pod(api: Api, server: ApiServer) -> None:
    before = pods(server)
    lines: list[str] = []
    manifest = one_run_tool("default", "tool:1")
    with created_tool(api, "default", manifest, lines.append) as tool:
        assert pods(server) == {*before, tool.name}
        assert tool.container == "network-tool"
    assert pods(server) == before
    assert lines == [f"starting pod {manifest['metadata']['name']}"]


def test_a_tool_pod_is_restricted_if_the_namespace_demands_it(api: Api, server: ApiServer) -> None:
    why = 'pods "tool" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true'
    server.fail("PATCH", "pods", 403, json.dumps({"kind": "Status", "message": why}), times=1)
    manifest = one_run_tool("default", None)
    with created_tool(api, "default", manifest, print) as tool:
        (container,) = server.get("Pod", "default", tool.name)["spec"]["containers"]
    context = container["securityContext"]
    assert context["runAsNonRoot"] and context["runAsUser"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert context["allowPrivilegeEscalation"] is False


def test_deletes_the_tool_pod_after_an_error(api: Api, server: ApiServer) -> None:
    before = pods(server)
    manifest = one_run_tool("default", None)
    with pytest.raises(KeyboardInterrupt), created_tool(api, "default", manifest, print):
        raise KeyboardInterrupt
    assert pods(server) == before


def test_a_tool_pod_that_does_not_start_is_reported_and_deleted(
    kubeconfig: Path, server: ApiServer
) -> None:
    api = connected(kubeconfig, replace(QUICK, pod_start=0.05))
    server.pods_start = False
    before = pods(server)
    with pytest.raises(
        WaitTimeout, match=r"did not start within 0\.05s: ErrImagePull no such image"
    ):
        made(api, one_run_tool("default", None))
    assert pods(server) == before


def test_reports_a_tool_pod_that_cannot_be_created(api: Api, server: ApiServer) -> None:
    server.fail("PATCH", "/pods/", 403)
    with pytest.raises(Forbidden, match="no permission to patch pods"):
        made(api, one_run_tool("default", None))


# -- waiting ------------------------------------------------------------------------------------


def test_waits_for_all_pods_of_a_label(api: Api, server: ApiServer) -> None:
    assert {p["metadata"]["name"] for p in wait_running(api, "default", "app=coredns", 0)} == {
        "coredns-1", "coredns-2"
    }  # fmt: skip


def test_waits_until_the_last_is_ready(api: Api, server: ApiServer) -> None:
    late = pod("coredns-3")
    late["status"]["containerStatuses"][0]["ready"] = False
    server.put(late)
    asked = []

    def seen(request: Request) -> None:
        asked.append(request)
        if len(asked) == 3:
            ready = copy.deepcopy(late)
            ready["status"]["containerStatuses"][0]["ready"] = True
            server.put(ready)

    server.seen = seen
    assert len(wait_running(api, "default", "app=coredns", 30)) == 3
    assert len(asked) >= 3


def changed(name: str, **status: Any) -> dict[str, Any]:
    manifest = pod(name)
    manifest["status"] |= status
    return manifest


WAITING = {"waiting": {"reason": "CrashLoopBackOff"}}


@pytest.mark.parametrize(
    ("manifest", "why"),
    [
        (changed("coredns-1", phase="Pending", containerStatuses=None), "Pending"),
        (changed("coredns-1", containerStatuses=[]), "Running"),
        (
            changed("coredns-1", containerStatuses=[{"ready": False, "state": WAITING}]),
            "CrashLoopBackOff",
        ),
    ],
)
def test_reports_why_a_pod_is_not_ready(
    api: Api, server: ApiServer, manifest: dict[str, Any], why: str
) -> None:
    server.put(manifest)
    with pytest.raises(WaitTimeout) as caught:
        wait_running(api, "default", "app=coredns", 0)
    assert caught.value.message == f"pod default/coredns-1 did not start within 0s: {why}"
    assert caught.value.hints == ("see why: kubectl describe pods -n default -l app=coredns",)


def test_reports_that_there_is_no_pod(api: Api, server: ApiServer) -> None:
    with pytest.raises(
        WaitTimeout, match=r"^no pod with label app=x was created in namespace default within 0s$"
    ):
        wait_running(api, "default", "app=x", 0)


def test_the_pod_to_describe_is_in_its_own_namespace(api: Api, server: ApiServer) -> None:
    server.put(pod("dig", namespace="lab", phase="Pending"))
    with pytest.raises(ClusterError) as caught:
        found(api, "lab/dig")
    assert "kubectl describe pod -n lab dig" in caught.value.hints[0]


def test_reports_why_a_tool_pod_cannot_be_created(api: Api, server: ApiServer) -> None:
    server.fail("PATCH", "/pods/", 403)
    server.fail("DELETE", "/pods/", 403)
    with (
        pytest.raises(Forbidden, match="no permission to patch pods"),
        created_tool(api, "default", one_run_tool("default", None), print),
    ):
        pass
