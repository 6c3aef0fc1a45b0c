from __future__ import annotations

import copy
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.request
from typing import Any

import pytest
import yaml

from kubectl_istio_udp.cli.run.controller import run as run_module
from kubectl_istio_udp.cli.run.controller.run import JsonFormatter
from kubectl_istio_udp.controller.run import Controller
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.events import WRITTEN_AT_ANNOTATION, write_event
from kubectl_istio_udp.model.about import About
from kubectl_istio_udp.model.errors import Unreachable
from kubectl_istio_udp.model.gatewayapi import CONTROLLER_NAME
from kubectl_istio_udp.render.controller import LEASE, NAME, Installation, controller
from tests.support import builders, routes
from tests.support.controlling import annotated, space, until
from tests.support.mesh_builders import mesh_config

IMAGE = "registry.example.com/controller:1"


def manifests(**more: Any) -> dict[tuple[str, str], dict[str, Any]]:
    usual = {
        "namespace": "istio-udp",
        "image": IMAGE,
        "gateway_namespaces": ("istio-system", "edge"),
        "root_namespaces": ("istio-system",),
        "file_limit": 1000,
    }
    found = controller(Installation(**{**usual, **more}))
    return {(m["kind"], m["metadata"].get("namespace", "")): m for m in found}


def rules() -> list[dict[str, Any]]:
    return [rule for m in manifests().values() for rule in m.get("rules", ())]


def test_rights_have_no_wildcard_no_secret_and_no_exec() -> None:
    for rule in rules():
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert not {"secrets", "pods/exec", "pods/portforward"} & set(rule["resources"])
        assert "configmaps" not in rule["resources"] or rule["resourceNames"]
    everywhere = manifests()["ClusterRole", ""]["rules"]
    writing = {"create", "patch", "update", "delete"}
    written = {r for rule in everywhere if writing & set(rule["verbs"]) for r in rule["resources"]}
    assert written == {"serviceentries", "events"}


def test_the_pod_has_no_privileges() -> None:
    spec = manifests()["Deployment", "istio-udp"]["spec"]["template"]["spec"]
    container = spec["containers"][0]
    assert spec["securityContext"]["runAsNonRoot"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"livenessProbe", "readinessProbe", "resources"} <= set(container)
    assert "--file-limit=1000" in container["args"]
    assert "--allow-all" not in container["args"]
    allowed = manifests(allow_all=True)["Deployment", "istio-udp"]
    assert "--allow-all" in allowed["spec"]["template"]["spec"]["containers"][0]["args"]


def test_a_separate_root_namespace_is_only_read() -> None:
    role = manifests(root_namespaces=("mesh",))["Role", "mesh"]
    assert [rule["verbs"] for rule in role["rules"]] == [["list", "watch"]]


def test_it_reads_the_mesh_configuration_by_name() -> None:
    found = manifests(mesh_configs=(("istio-system", "istio"), ("plane", "istio-canary")))
    assert found["Role", "plane"]["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "verbs": ["list", "watch"],
            "resourceNames": ["istio-canary"],
        }
    ]
    container = found["Deployment", "istio-udp"]["spec"]["template"]["spec"]["containers"][0]
    assert "--mesh-config=plane/istio-canary" in container["args"]


def installed_arguments(server: Any) -> list[str]:
    deployment = server.get("Deployment", "istio-udp", NAME)
    return list(deployment["spec"]["template"]["spec"]["containers"][0]["args"])


def test_install_finds_the_meshes_of_the_gateways(run: Any, server: Any) -> None:
    pod = builders.gateway_pod("edge-1", namespace="edge", labels={"app": "e", "istio": "e"})
    address = "istiod-canary.plane.svc:15012"
    pod["spec"]["containers"][0]["env"] = [{"name": "CA_ADDR", "value": address}]
    config = mesh_config("istio-canary", rootNamespace="canary-root")
    config["metadata"]["namespace"] = "plane"
    server.put(builders.namespace("edge"), pod, config)
    words = ["controller", "install", "--no-wait", "--gateway-namespace"]
    assert run(*words, "edge").code == 0
    found = installed_arguments(server)
    assert {"--mesh-config=plane/istio-canary", "--root-namespace=canary-root"} <= set(found)
    assert run(*words, "edge", "--gateway-namespace", "istio-system").code == 0
    assert {
        "--mesh-config=istio-system/istio",
        "--root-namespace=istio-system",
        *found,
    } <= set(installed_arguments(server))
    named = ("--mesh-config", "a/b", "--root-namespace", "c")
    assert run(*words, "edge", *named).code == 0
    found = installed_arguments(server)
    assert [word for word in found if "mesh" in word or "root" in word] == [
        "--root-namespace=c",
        "--mesh-config=a/b",
    ]


def test_install_reports_a_mesh_that_cannot_be_read(run: Any, server: Any) -> None:
    server.remove("ConfigMap", "istio-system", "istio")
    done = run("controller", "install", "--no-wait")
    assert "could not read the mesh configuration of istiod.istio-system" in done.err
    assert "--mesh-config=istio-system/istio" in installed_arguments(server)


@pytest.mark.parametrize("text", ["istio", "a/", "/b", "a/b/c"])
def test_a_mesh_config_has_a_namespace(run: Any, text: str) -> None:
    done = run("controller", "install", "-o", "yaml", "--mesh-config", text)
    assert done.code == 2 and "expected NAMESPACE/NAME" in done.err


def test_install_prints_without_a_cluster(run: Any) -> None:
    done = run("controller", "install", "-o", "yaml", "--image", IMAGE, "--kubeconfig", "/nowhere")
    kinds = [m["kind"] for m in yaml.safe_load_all(done.out)]
    assert done.code == 0 and kinds[-1] == "Deployment" and "ClusterRole" in kinds


def test_install_measures_waits_and_is_repeatable(run: Any, server: Any, fakes: Any) -> None:
    fakes.file_limit = "4096\n"

    def ready(request: Any) -> None:
        deployment = server.get("Deployment", "istio-udp", NAME)
        if request.method == "GET" and deployment and "status" not in deployment:
            counts = dict.fromkeys(("updatedReplicas", "readyReplicas", "replicas"), 2)
            server.put({**deployment, "status": {"observedGeneration": None, **counts}})

    server.seen = ready
    done = run("controller", "install", "--image", IMAGE, "--timeout", "5s")
    assert done.code == 0, done.err
    container = server.get("Deployment", "istio-udp", NAME)["spec"]["template"]["spec"]
    assert "--file-limit=4096" in container["containers"][0]["args"]
    assert server.get("Namespace", "", "istio-udp")
    again = run("controller", "install", "--image", IMAGE, "--no-wait")
    assert again.code == 0 and "serverside-applied" not in again.out


def test_install_reports_a_missing_file_limit_and_pods_that_do_not_start(
    run: Any, fakes: Any
) -> None:
    fakes.file_limit = "\n"
    done = run("controller", "install", "--timeout", "0s")
    assert done.code == 3
    assert "assuming 20000" in done.err and "0 of 2 replicas" in done.err


def test_install_reports_no_object_that_it_took_back(run: Any, server: Any) -> None:
    server.put(builders.namespace("istio-udp"))
    before = server.state()
    server.fail("PATCH", "deployments", 500)
    done = run("controller", "install", "--no-wait")
    assert done.code == 3 and "everything that this run wrote was undone" in done.err
    assert server.state() == before
    assert done.out == ""


def test_install_again_removes_rights_that_are_not_needed(run: Any, server: Any) -> None:
    words = ("controller", "install", "--no-wait", "--gateway-namespace")
    assert run(*words, "lab").code == 0
    roles = {key for key in server.there() if key[0] in ("Role", "RoleBinding")}
    assert {namespace for _, namespace, _ in roles} == {"istio-system", "istio-udp", "lab"}
    before = server.state()
    done = run(*words, "istio-system", "--dry-run", "server")
    assert done.out.count(" deleted (server dry run)") == 4 and server.state() == before
    done = run(*words, "istio-system")
    assert done.code == 0
    assert f'role.rbac.authorization.k8s.io "{NAME}-gateway" deleted' in done.out
    assert not {key for key in server.there() if key[1] == "lab"}


def test_install_in_another_namespace_is_refused(run: Any, server: Any) -> None:
    """The ClusterRole would then belong to the second controller."""
    assert run("controller", "install", "--no-wait", "-n", "default").code == 0
    before = server.state()
    done = run("controller", "install", "--no-wait", "-n", "lab")
    assert done.code == 2
    assert "the controller is in namespace default, not in lab" in done.err
    assert "kubectl istio-udp controller uninstall -n default" in done.err
    assert server.state() == before


def test_install_dry_runs_write_nothing(run: Any, server: Any) -> None:
    server.put(builders.namespace("istio-udp"))
    for how in ("client", "server"):
        assert run("controller", "install", "--dry-run", how).code == 0
        assert server.writes() == []


def test_status(run: Any, server: Any, api: Api) -> None:
    assert run("controller", "status").code == 1
    run("controller", "install", "--image", IMAGE, "--no-wait")
    deployment = server.get("Deployment", "istio-udp", NAME)
    server.put({**deployment, "status": {"readyReplicas": 2}})
    lease = {"kind": "Lease", "metadata": {"name": LEASE, "namespace": "istio-udp"}}
    server.put({**lease, "apiVersion": "coordination.k8s.io/v1", "spec": {"holderIdentity": "me"}})
    assert run("controller", "status").code == 0
    server.put(annotated())
    about = About.of(server.get("Service", "default", "coredns"))
    no: dict[str, Any] = {"reason": "ExposeForbidden", "warning": True, "by": "me"}
    secret = server.get("Lease", "istio-udp", LEASE)["metadata"]["uid"]
    write_event(api, about, message="call me", secret="guessed", **no)
    assert "call me" not in run("controller", "status").out
    server.remove("Event", "default", server.all("Event")[0]["metadata"]["name"])
    write_event(api, about, message="may not expose", secret=secret, **no)
    (event,) = server.all("Event")
    done = run("controller", "status")
    assert "may not expose" in done.out and "2/2" in done.out and IMAGE in done.out
    for number, forged in enumerate(
        [{"message": "call me"}, {"type": "Normal"}, {"reason": "Exposed"}]
    ):
        time = f"203{number}-01-01T00:00:00"
        notes = {**event["metadata"]["annotations"], WRITTEN_AT_ANNOTATION: f"{time}.000000Z"}
        metadata = {"name": f"f{number}", "namespace": "default", "annotations": notes}
        server.put({**event, **forged, "metadata": metadata, "lastTimestamp": f"{time}Z"})
        done = run("controller", "status")
        assert done.code == 1 and "may not expose" in done.out, forged


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_status_as_data(run: Any, server: Any, form: str) -> None:
    run("controller", "install", "--image", IMAGE, "--no-wait")
    deployment = server.get("Deployment", "istio-udp", NAME)
    server.put({**deployment, "status": {"readyReplicas": 1}})
    server.put(annotated(ports="nonsense"))
    done = run("controller", "status", "-o", form)
    assert done.code == 1
    found = yaml.safe_load(done.out)
    assert found["good"] is False and found["conditions"] == [] and found["exposures"] == 0
    assert found["controller"] == {
        **{"namespace": "istio-udp", "name": NAME, "image": IMAGE},
        **{"replicas": 2, "ready": 1, "leader": ""},
    }
    (unmet,) = found["unmet"]
    assert (unmet["namespace"], unmet["service"]) == ("default", "coredns")
    assert (unmet["exposed"], unmet["reason"]) == (False, "ExposeInvalid")
    assert "is not a number" in unmet["message"]


def test_status_of_gateways_and_routes(run: Any, server: Any) -> None:
    run("controller", "install", "--image", IMAGE, "--no-wait", "--gateway-api")
    deployment = server.get("Deployment", "istio-udp", NAME)
    server.put({**deployment, "status": {"readyReplicas": 2}})
    lease = {"kind": "Lease", "metadata": {"name": LEASE, "namespace": "istio-udp"}}
    server.put({**lease, "apiVersion": "coordination.k8s.io/v1", "spec": {"holderIdentity": "me"}})
    assert run("controller", "status").code == 0
    refused: dict[str, Any] = {"type": "ResolvedRefs", "status": "False"}
    refused |= {
        "reason": "RefNotPermitted",
        "message": "no ReferenceGrant",
        "observedGeneration": 1,
    }
    parent = {"parentRef": {"name": "udp"}, "controllerName": CONTROLLER_NAME}
    good = {"type": "Accepted", "status": "True", "reason": "Accepted", "observedGeneration": 1}
    routed = routes.route(status={"parents": [{**parent, "conditions": [refused]}]})
    server.put({**routes.gateway(), "status": {"conditions": [good]}}, routed)
    done = run("controller", "status")
    assert done.code == 1
    words = ["team", "UDPRoute/dns", "team/udp", "ResolvedRefs", "RefNotPermitted"]
    assert done.out.splitlines()[-1].split() == [*words, "no", "ReferenceGrant"]
    # The header's column for what is not met.
    assert done.out.splitlines()[1].split()[4] == "1"
    (condition,) = json.loads(run("controller", "status", "-o", "json").out)["conditions"]
    assert [condition[key] for key in ("at", "type", "message")] == [
        *words[2:4],
        "no ReferenceGrant",
    ]


def process(server: Any, tmp_path: Any, *words: str) -> subprocess.Popen[bytes]:
    path = server.kubeconfig(tmp_path / "its-kubeconfig")
    program = "from kubectl_istio_udp.cli.main import main; main()"
    arguments = ["controller", "run", "--kubeconfig", str(path), *words]
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE, env=dict(os.environ)
    )


def test_a_process_runs_and_releases_the_lease_on_sigterm(
    server: Any, run: Any, tmp_path: Any
) -> None:
    """`uninstall` deletes its exposures, or keeps them."""
    server.put(space("default"), annotated())
    running = process(server, tmp_path, "--port", "18099", "-n", "default")
    try:
        until(lambda: server.get("Service", "istio-system", "udp-default-coredns"))
        url = "http://127.0.0.1:18099/healthz"
        assert urllib.request.urlopen(url, timeout=5).read() == b"ok"
        until(lambda: server.all("Event"))
    finally:
        running.send_signal(signal.SIGTERM)
    assert running.wait(15) == 0
    assert running.stderr is not None
    err = running.stderr.read()
    lines = [json.loads(line) for line in err.splitlines()]
    assert "leading" in {line["message"] for line in lines}
    assert server.get("Lease", "default", LEASE)["spec"]["holderIdentity"] == ""
    run("controller", "install", "--no-wait", "-n", "default")
    assert run("controller", "uninstall", "--dry-run", "server", "-n", "default").code == 0
    assert server.get("Deployment", "default", NAME)
    for pod in server.all("Pod"):
        if pod["metadata"]["labels"].get("app.kubernetes.io/name") == NAME:
            server.remove("Pod", "default", pod["metadata"]["name"])
    kept = run("controller", "uninstall", "--keep-exposures", "-n", "default")
    assert kept.code == 0, kept.err
    assert server.get("EnvoyFilter", "istio-system", "udp-default-coredns")
    done = run("controller", "uninstall", "-n", "default")
    assert done.code == 0, done.err
    for kind in ("EnvoyFilter", "ServiceEntry", "ClusterRole", "Role", "Deployment", "Lease"):
        assert server.all(kind) == []


def test_status_names_the_namespace_of_the_controller(run: Any, server: Any) -> None:
    """The hint to install it would lead to a refusal."""
    assert run("controller", "install", "-n", "ops", "--image", IMAGE, "--no-wait").code == 0
    done = run("controller", "status")
    assert done.code == 1
    assert done.err == (
        "No controller found in namespace istio-udp.\n"
        "  it is in another one: kubectl istio-udp controller status -n ops\n"
    )


def test_uninstall_in_another_namespace_deletes_nothing(run: Any, server: Any) -> None:
    """The controller's ClusterRole would be deleted."""
    assert run("controller", "install", "--no-wait", "-n", "default").code == 0
    before = server.state()
    done = run("controller", "uninstall", "-n", "lab")
    assert done.code == 2
    assert "the controller is in namespace default, not in lab" in done.err
    assert server.state() == before


def test_objects_of_others_with_the_labels_stay(run: Any, server: Any) -> None:
    assert run("controller", "install", "--no-wait").code == 0
    other = copy.deepcopy(server.get("Role", "istio-system", f"{NAME}-gateway"))
    other["metadata"] = {**other["metadata"], "name": "other", "namespace": "lab"}
    server.put(other)
    assert run("controller", "install", "--no-wait").code == 0
    assert server.get("Role", "lab", "other")
    done = run("controller", "uninstall", "--dry-run", "server")
    assert f'"{NAME}-gateway" deleted' in done.out and '"other"' not in done.out


def test_run_collects_garbage(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other commands do not: they are short."""
    collecting = []

    def start(_: Any) -> None:
        collecting.append(gc.isenabled())
        raise Unreachable("not started")

    monkeypatch.setattr(Controller, "start", start)
    # Otherwise later tests would log to this test's stderr.
    monkeypatch.setattr(run_module, "_log_json", lambda _: None)
    assert run("controller", "run").code == 3
    assert collecting == [True]


def test_uninstall_waits_for_pods_that_still_write(run: Any) -> None:
    run("controller", "install", "--no-wait", "-n", "default")
    done = run("controller", "uninstall", "--timeout", "0s", "-n", "default")
    assert done.code == 3 and "still runs" in done.err


def test_run_without_its_packages_names_what_to_install(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = ("kubectl_istio_udp.controller", "kubectl_istio_udp.cli.run.controller")
    for name in [n for n in sys.modules if n.startswith(rooms)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    done = run("controller", "run")
    assert done.code == 2 and "kubectl-istio-udp[controller]" in done.err


def test_a_line_of_the_log_is_one_line() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, 'a\n{"level": "forged"}', (), None)
    record.key = ("default", "coredns")
    record.created = time.time()
    line = JsonFormatter().format(record)
    assert "\n" not in line and json.loads(line)["key"] == "default/coredns"
