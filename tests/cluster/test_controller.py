"""The controller in the cluster: it exposes, updates and deletes what is requested."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import yaml
from conftest import (
    Space,
    companion,
    dns_server,
    eventually,
    finish,
    get,
    kubectl,
    own_objects,
    run,
    service,
)
from controlled import (
    EXPOSE,
    NAMESPACE,
    Switch,
    allow,
    controller,
    entries,
    events,
    replicas,
    request_exposure,
    switch,
    tenant,
    withdraw,
)
from meshes import mesh_config
from test_entries import version_1

from kubectl_istio_udp.controller.objects import MANAGER

__all__ = ["controller", "switch", "tenant"]
pytestmark = pytest.mark.xdist_group("controller")

Load = Callable[..., "subprocess.Popen[str]"]


def exposed(space: Space, name: str) -> tuple[str, int]:
    """Wait until a request is met; return the address for clients."""
    eventually(
        f"{name} is exposed", lambda: f"/udp-{space.name}-{name} " in str(own_objects(space))
    )
    eventually("it has a Service", lambda: "services" in str(own_objects(space)))
    return companion(space, name)


def all_answered(load_pod: Load, target: tuple[str, int], why: str) -> None:
    """Fresh ports, each with a new session, only reach running pods."""

    def answered() -> bool:
        load = load_pod(*target, "--queries", "100", "--rate", "200", "--timeout", "1")
        return bool(finish(load)["lost"] == 0)

    eventually(why, answered)


def settled(space: Space, name: str, replicas: int) -> None:
    """Wait until a Deployment has exactly this many pods, and the old ones are gone."""
    kubectl("rollout", "status", "-n", space.name, f"deploy/{name}", "--timeout=90s")
    eventually(
        f"{replicas} pods of {name}",
        lambda: len(get("pods", "-n", space.name, "-l", f"app={name}")["items"]) == replicas,
        60,
    )


def test_the_gateway_follows_the_annotated_service(
    tenant: Space, port: int, load_pod: Load
) -> None:
    """Scale, restart and move the server with listed endpoints; check by its answers."""
    tenant.apply(*dns_server(replicas=2))
    request_exposure(tenant, "dns", f"{port}:53", discovery="endpoints")
    target = exposed(tenant, "dns")
    all_answered(load_pod, target, "declared")
    kubectl("scale", "-n", tenant.name, "deploy/dns", "--replicas=4")
    settled(tenant, "dns", 4)
    all_answered(load_pod, target, "scaled up")
    kubectl("scale", "-n", tenant.name, "deploy/dns", "--replicas=1")
    settled(tenant, "dns", 1)
    all_answered(load_pod, target, "scaled down")
    kubectl("delete", "pods", "-n", tenant.name, "-l", "app=dns", "--wait=true")
    settled(tenant, "dns", 1)
    all_answered(load_pod, target, "moved")
    assert "Exposed" in events(tenant, "dns")


def test_named_ports_that_differ_between_pods(tenant: Space, port: int, load_pod: Load) -> None:
    """Two versions of a server, each with its own number for port `dns`."""
    for name, number in (("old", 53), ("new", 5353)):
        manifests = dns_server(name, ports=(number,))[:2]
        template = manifests[1]["spec"]["template"]
        template["metadata"]["labels"]["service"] = "dns"
        template["spec"]["containers"][0]["ports"][0]["name"] = "dns"
        tenant.apply(*manifests)
    named = service("dns", selector={"service": "dns"})
    named["spec"]["ports"][0]["targetPort"] = "dns"
    tenant.apply(named)
    request_exposure(tenant, "dns", f"{port}:53")
    target = exposed(tenant, "dns")
    all_answered(load_pod, target, "both versions")
    (entry,) = entries(tenant, "dns")
    numbers = {e.get("ports", {}).get("port-53", 53) for e in entry["spec"]["endpoints"]}
    assert numbers == {53, 5353}
    kubectl("delete", "deploy", "-n", tenant.name, "old", "--wait=true")
    eventually("one pod", lambda: len(get("pods", "-n", tenant.name)["items"]) == 1, 60)
    all_answered(load_pod, target, "the new version alone")


def test_endpoints_by_hand_and_drift(switch: Switch) -> None:
    """An exposure follows EndpointSlices; edited or deleted objects are restored."""
    switch.point("b")
    switch.wait("b")
    space = switch.space
    (listing,) = entries(space, "dns")
    entry = ("-n", space.gateway, f"serviceentry/{listing['metadata']['name']}")
    other = switch.addresses["a"]
    broken = f'[{{"op":"replace","path":"/spec/endpoints/0/address","value":"{other}"}}]'
    kubectl("patch", *entry, "--type=json", "-p", broken)
    switch.wait("b")
    filters = ("envoyfilter", "-n", space.gateway, f"udp-{space.name}-dns")
    kubectl("delete", *filters)
    eventually("the EnvoyFilter is back", lambda: run("kubectl", "get", *filters).code == 0)
    switch.wait("b")
    kubectl("delete", "-n", space.gateway, f"service/udp-{space.name}-dns")
    kubectl("delete", *entry)
    eventually("all are back", lambda: len(own_objects(space)) == 3)
    switch.wait("b")


@pytest.mark.alone
@pytest.mark.quiet
def test_rolling_restart_with_listed_endpoints(tenant: Space, port: int, load_pod: Load) -> None:
    """Three backends restarted under 500 queries/s: at most 5 lost of 12,500, twice."""
    tenant.apply(*dns_server(replicas=3))
    allow(tenant.name, f"{port}-{port + 9}")
    kubectl("annotate", "namespace", tenant.name, "kubectl-istio-udp/allow-sessions=28000")
    request_exposure(tenant, "dns", f"{port}:53", discovery="endpoints", max_sessions="8000")
    target = exposed(tenant, "dns")
    all_answered(load_pod, target, "declared")
    fresh = load_pod(*target, "--queries", "12500", "--rate", "500")
    sticky = load_pod(*target, "--queries", "12500", "--rate", "500", "--clients", "50")
    kubectl("rollout", "restart", "-n", tenant.name, "deploy/dns")
    kubectl("rollout", "status", "-n", tenant.name, "deploy/dns", "--timeout=60s")
    assert fresh.poll() is None, "the load must outlast the restart"
    counts = {"fresh ports": finish(fresh), "sticky clients": finish(sticky)}
    print(f"\nrolling restart, listed endpoints: {counts}")
    assert all(count["lost"] <= 5 for count in counts.values()), counts


def test_two_requests_for_one_port(tenant: Space, port: int, load_pod: Load) -> None:
    """The older Service gets the port; the newer one an Event, and the port when it is free."""
    tenant.apply(*dns_server("first"))
    request_exposure(tenant, "first", f"{port}:53")
    exposed(tenant, "first")
    tenant.apply(*dns_server("second"))
    request_exposure(tenant, "second", f"{port}:53")
    eventually("the loser is told", lambda: "PortTaken" in events(tenant, "second"))
    status = run("kubectl", "istio-udp", "controller", "status")
    assert status.code == 1 and "second" in status.out, status.both
    kubectl("delete", "service", "-n", tenant.name, "first")
    target = exposed(tenant, "second")
    all_answered(load_pod, target, "taken over")


def test_a_tenant_gets_only_what_is_allowed(tenant: Space, port: int) -> None:
    """Others' ports and hostile requests get an Event and no object; a permission may end."""
    tenant.apply(*dns_server())
    beyond = [f"{port + 20}:53", f"{port}:53,80:53", "all"]
    hostile = [
        f"{port}:kube-system/dns",
        f"{port}:53\n- applyTo: LISTENER",
        "x" * 200_000,
        '{"a":1}',
        "0:53",
        "",
    ]
    for ports, reason in [(p, "ExposeForbidden") for p in beyond] + [
        (p, "ExposeInvalid") for p in hostile
    ]:
        kubectl("delete", "events", "--all", "-n", tenant.name)
        patch = tenant.name, {"metadata": {"annotations": {EXPOSE: ports}}}
        _patch("service", "dns", *patch)
        eventually(
            f"{ports[:30]!r}: {reason}", partial(lambda r: r in events(tenant, "dns"), reason)
        )
        assert own_objects(tenant) == [], ports[:30]
        withdraw(tenant, "dns")
    request_exposure(tenant, "dns", f"{port}:53")
    exposed(tenant, "dns")
    kubectl("annotate", "namespace", tenant.name, "kubectl-istio-udp/allow-")
    eventually("what is not allowed any more goes", lambda: not own_objects(tenant))
    eventually("and is told", lambda: "ExposeForbidden" in events(tenant, "dns"))


def write_as_version_1(space: Space, name: str) -> None:
    """Replace a declared exposure by what the previous version would have written.

    It listed endpoints beside the Service, under a host that can be guessed.
    """
    (entry,) = entries(space, name)
    labels = f"kubectl-istio-udp/exposure={name},kubectl-istio-udp/namespace={space.name}"
    (listener,) = get("envoyfilters", "-n", space.gateway, "-l", labels)["items"]
    host = entry["spec"]["hosts"][0]
    old_entry, old_listener = (version_1(found, host) for found in (entry, listener))
    old_entry["metadata"]["namespace"] = space.name
    old_entry["spec"]["exportTo"] = [space.gateway]
    kubectl("delete", "serviceentry", "-n", space.gateway, entry["metadata"]["name"])
    kubectl(
        "apply", "--server-side", "--force-conflicts", "--field-manager", MANAGER,
        "-f", "-", stdin=yaml.safe_dump_all([old_entry, old_listener]),
    )  # fmt: skip


def test_an_annotated_exposure_of_version_1_is_migrated(
    tenant: Space, port: int, load_pod: Load
) -> None:
    """It is shown and answers before; afterwards its list is where tenants cannot write."""
    tenant.apply(*dns_server(replicas=2))
    request_exposure(tenant, "dns", f"{port}:53")
    target = exposed(tenant, "dns")
    deployment = ("-n", NAMESPACE, "deploy/kubectl-istio-udp-controller")
    kubectl("scale", *deployment, "--replicas=0")
    eventually("no controller runs", lambda: not replicas(), 60)
    try:
        write_as_version_1(tenant, "dns")
        all_answered(load_pod, target, "the version before")
        shown = tenant.plugin("get")
        assert "annotation" in shown.out and "LEFTOVER" not in shown.out, shown.both
        assert tenant.verify("dns").code == 0
    finally:
        kubectl("scale", *deployment, "--replicas=2")
    (entry,) = eventually("its ServiceEntry is mended", lambda: entries(tenant, "dns"), 60)
    assert entry["spec"]["addresses"] and len(entry["spec"]["hosts"][0].split(".")) == 5
    eventually(
        "the old one is gone",
        lambda: not get("serviceentries", "-n", tenant.name)["items"],
    )
    all_answered(load_pod, target, "mended")
    withdraw(tenant, "dns")
    eventually("it goes", lambda: not own_objects(tenant))


def _patch(kind: str, name: str, namespace: str, patch: dict[str, Any]) -> None:
    done = run(
        "kubectl", "patch", kind, "-n", namespace, name, "--type=merge",
        "--patch-file=/dev/stdin", stdin=json.dumps(patch),
    )  # fmt: skip
    assert done.code == 0, done.both


@pytest.mark.alone
def test_it_follows_the_meshs_configuration(tenant: Space, port: int, load_pod: Load) -> None:
    """Endpoints that istiod no longer reads are listed in the gateway's namespace."""
    kubectl(
        "annotate", "namespace", tenant.name, "kubectl-istio-udp/allow-discovery=selector,endpoints"
    )
    tenant.apply(*dns_server())
    request_exposure(tenant, "dns", f"{port}:53")
    target = exposed(tenant, "dns")
    assert get("serviceentries", "-n", tenant.name)["items"], "istiod finds the pods"
    read = {"matchLabels": {"kubernetes.io/metadata.name": tenant.gateway}}
    with mesh_config(discoverySelectors=[read]):
        eventually("the controller lists them", lambda: entries(tenant, "dns"))
        eventually("in one place", lambda: not get("serviceentries", "-n", tenant.name)["items"])
        all_answered(load_pod, target, "listed")
    withdraw(tenant, "dns")


def test_another_envoy_filter_with_the_name_is_not_changed(tenant: Space, port: int) -> None:
    name = f"udp-{tenant.name}-dns"
    theirs = {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": name, "namespace": tenant.gateway},
        "spec": {"workloadSelector": {"labels": {"nobody": "here"}}, "configPatches": []},
    }
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(theirs))
    try:
        before = get("envoyfilter", "-n", tenant.gateway, name)["metadata"]["resourceVersion"]
        tenant.apply(*dns_server())
        request_exposure(tenant, "dns", f"{port}:53")
        eventually("it is told", lambda: "ExposeRefused" in events(tenant, "dns"))
        after = get("envoyfilter", "-n", tenant.gateway, name)["metadata"]["resourceVersion"]
        assert after == before and own_objects(tenant) == []
    finally:
        kubectl("delete", "envoyfilter", "-n", tenant.gateway, name)
    exposed(tenant, "dns")


def test_the_exposures_of_a_deleted_namespace_are_deleted(tenant: Space, port: int) -> None:
    tenant.apply(*dns_server())
    request_exposure(tenant, "dns", f"{port}:53")
    exposed(tenant, "dns")
    kubectl("delete", "namespace", tenant.name, "--wait=true", "--timeout=60s")
    eventually("nothing is left", lambda: not own_objects(tenant))
    kubectl("create", "namespace", tenant.name)
