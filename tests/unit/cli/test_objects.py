"""`get`, `delete` and `samples`."""

from __future__ import annotations

import copy
import json

import pytest
import yaml

from tests.support.apiserver import ApiServer, Exec
from tests.support.builders import endpoint, endpoint_slice, pod, service, udp
from tests.support.fakes import Fakes
from tests.unit.conftest import Run

NAME = "udp-default-coredns"
EXPOSE = ("expose", "coredns", "-p", "5300:53")
SAMPLES = ["service/coredns", "configmap/coredns", "deployment.apps/coredns", "pod/network-tool"]


def table(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def unreadable(server: ApiServer) -> None:
    for key in [k for k in server.there() if k[2] == NAME]:
        found = server.get(*key)
        found["metadata"]["annotations"] = {}
        server.put(found)


# -- get ----------------------------------------------------------------------------------------


def test_lists_exposures(run: Run) -> None:
    run(*EXPOSE)
    done = run("get")
    assert done.code == 0
    headers, row = table(done.out)
    assert headers == [
        "NAME", "SERVICE", "PORTS", "GATEWAY", "ADDRESS", "DISCOVERY", "READY", "OWNER",
        "STATUS", "AGE",
    ]  # fmt: skip
    assert row[:-1] == [
        "coredns", "coredns", "5300:53/UDP", "istio-system/istio-ingressgateway", "203.0.113.5",
        "selector", "2/2", "command-line", "ok",
    ]  # fmt: skip
    assert done.err == ""


@pytest.mark.parametrize(
    ("kind", "namespace", "name", "status", "address"),
    [
        ("EnvoyFilter", "istio-system", NAME, "MissingEnvoyFilter", "203.0.113.5"),
        ("ServiceEntry", "default", NAME, "MissingServiceEntry", "203.0.113.5"),
        ("Service", "istio-system", NAME, "MissingService,NoAddress", "<none>"),
        ("Service", "default", "coredns", "NoService", "203.0.113.5"),
    ],
)
def test_lists_missing_objects(
    run: Run, server: ApiServer, kind: str, namespace: str, name: str, status: str, address: str
) -> None:
    run(*EXPOSE)
    server.remove(kind, namespace, name)
    _, row = table(run("get").out)
    assert " ".join(row).endswith(f" {status} {row[-1]}")
    assert row[4] == address


def test_only_the_first_of_many_ports_is_listed(run: Run, server: ApiServer) -> None:
    server.put(service(ports=[udp(53 + 2 * n, f"p{n}") for n in range(5)]))
    run("expose", "coredns")
    assert "53:53/UDP +4 more" in run("get").out
    assert "53:53/UDP,55:55/UDP" in run("get", "-o", "wide").out


def test_lists_wide(run: Run) -> None:
    run(*EXPOSE, "--max-sessions", "77")
    headers, row = table(run("get", "coredns", "-o", "wide").out)
    assert headers[-5:] == ["SESSIONS", "IDLE", "AFFINITY", "VIA", "RESERVED"]
    assert " ".join(row).endswith("77 10s none companion 77 of 1046576")


def test_reserved_sessions_count_all_exposures_of_the_gateway(run: Run, fakes: Fakes) -> None:
    fakes.file_limit = "20000\n"
    run(*EXPOSE, "--max-sessions", "77")
    run("expose", "coredns", "--name", "more", "-p", "5400:53", "--max-sessions", "100")
    assert run("get", "coredns", "-o", "wide").out.splitlines()[1].endswith("177 of 18000")
    assert "Gateway:     177 of 18000 sessions reserved" in run("describe", "coredns").out
    fakes.deaf["istio-ingressgateway-1"] = Exec(error="gone")
    assert run("get", "coredns", "-o", "wide").out.splitlines()[1].endswith("177 of ?")


def test_lists_all_namespaces(run: Run) -> None:
    run(*EXPOSE)
    headers, row = table(run("get", "-A", "-n", "lab").out)
    assert (headers[0], row[0]) == ("NAMESPACE", "default")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["get"], "No exposures, responses or access logs found in namespace default.\n"),
        (["get", "-A"], "No exposures, responses or access logs found.\n"),
    ],
)
def test_nothing_to_list(run: Run, words: list[str], text: str) -> None:
    done = run(*words)
    assert (done.code, done.out, done.err) == (0, "", text)


def test_an_empty_list_prints_no_names(run: Run) -> None:
    done = run("get", "-o", "name")
    assert (done.code, done.out) == (0, "")


@pytest.mark.parametrize("form", ["yaml", "json"])
@pytest.mark.parametrize("names", [(), ("exposures",)])
def test_a_list_has_kind_list_for_any_number_of_items(
    run: Run, names: tuple[str, ...], form: str
) -> None:
    empty = yaml.safe_load(run("get", *names, "-o", form).out)
    assert empty == {"apiVersion": "v1", "kind": "List", "items": []}
    run(*EXPOSE)
    one = yaml.safe_load(run("get", *names, "-o", form).out)
    assert (one["kind"], [i["metadata"]["name"] for i in one["items"]]) == ("List", ["coredns"])


def test_prints_only_names(run: Run) -> None:
    run(*EXPOSE)
    run("expose", "coredns", "--name", "b", "-p", "5400:53")
    assert run("get", "-o", "name").out == "b\ncoredns\n"


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_prints_the_objects_in_the_cluster(run: Run, form: str) -> None:
    run(*EXPOSE)
    done = run("get", "coredns", "-o", form)
    found = json.loads(done.out) if form == "json" else yaml.safe_load(done.out)
    assert (found["kind"], found["metadata"]["name"]) == ("Exposure", "coredns")
    assert [o["kind"] for o in found["objects"]] == ["ServiceEntry", "EnvoyFilter", "Service"]
    assert found["spec"]["ports"][0]["gateway_port"] == 5300
    status = found["status"]
    assert (status["owner"], status["address"]) == ("command-line", "203.0.113.5")
    assert {c["type"]: c["status"] for c in status["conditions"]} == {
        "Ready": "True", "Accepted": "True", "ResolvedRefs": "True", "Programmed": "True",
        "Addressed": "True",
    }  # fmt: skip


def test_a_missing_exposure(run: Run) -> None:
    done = run("get", "x")
    assert done.code == 3
    assert "exposure x not found in namespace default" in done.err


def test_a_kind_and_a_name_without_a_slash_are_not_found(run: Run) -> None:
    done = run("get", "response", "hello")
    assert done.code == 3
    assert "exposure response not found" in done.err
    assert "\n  write TYPE/NAME: response/hello\n" in done.err


def test_an_exposure_that_cannot_be_read_is_listed(run: Run, server: ApiServer) -> None:
    run(*EXPOSE)
    unreadable(server)
    _, row = table(run("get").out)
    assert row[:4] == ["coredns", "?", "?", "?"]
    wide = run("get", "-o", "wide")
    assert wide.code == 0
    assert table(wide.out)[1][:4] == ["coredns", "?", "?", "?"]


# -- delete -------------------------------------------------------------------------------------


DELETED = [
    f'service "{NAME}" deleted',
    f'envoyfilter.networking.istio.io "{NAME}" deleted',
    f'serviceentry.networking.istio.io "{NAME}" deleted',
]


@pytest.mark.parametrize("words", [["coredns"], ["--all"], ["coredns", "--no-wait"]])
def test_deletes_its_objects_and_nothing_else(
    run: Run, server: ApiServer, words: list[str]
) -> None:
    before = server.state()
    run(*EXPOSE)
    done = run("delete", *words)
    assert (done.code, done.out.splitlines(), done.err) == (0, DELETED, "")
    assert server.state() == before


def test_leaves_other_exposures(run: Run, server: ApiServer) -> None:
    run(*EXPOSE)
    run("expose", "coredns", "--name", "other", "-p", "5400:53")
    before = server.state()
    run("expose", "coredns", "--name", "third", "-p", "5500:53")
    assert run("delete", "third").code == 0
    assert server.state() == before


@pytest.mark.parametrize(("mode", "mark"), [("client", "dry run"), ("server", "server dry run")])
def test_a_dry_run_deletes_nothing(run: Run, server: ApiServer, mode: str, mark: str) -> None:
    run(*EXPOSE)
    before = server.state()
    done = run("delete", "coredns", "--dry-run", mode)
    assert done.out.splitlines() == [f"{line} ({mark})" for line in DELETED]
    assert server.state() == before


def test_restores_the_gateways_service(run: Run, server: ApiServer) -> None:
    before = server.state()
    run(*EXPOSE, "--gateway-service", "patch")
    assert run("delete", "coredns").code == 0
    assert server.state() == before


def test_a_gateway_that_still_listens_is_a_warning(
    run: Run, server: ApiServer, fakes: Fakes
) -> None:
    run(*EXPOSE)
    fakes.stuck = True
    done = run("delete", "coredns", "--timeout", "50ms")
    assert done.code == 0
    assert done.err.startswith("Warning: gateway pod istio-system/istio-ingressgateway-1 still")


@pytest.mark.parametrize("words", [[], ["coredns", "--all"]])
def test_names_and_all_cannot_be_combined(run: Run, words: list[str]) -> None:
    done = run("delete", *words)
    assert done.code == 2
    assert "name what to delete, or use --all" in done.err


def test_deleting_a_missing_exposure(run: Run) -> None:
    assert run("delete", "x").code == 3
    assert run("delete", "x", "--ignore-not-found").code == 0
    assert run("delete", "--all").code == 0


def test_an_exposure_that_cannot_be_read_can_be_deleted(run: Run, server: ApiServer) -> None:
    before = server.state()
    run(*EXPOSE)
    unreadable(server)
    assert run("delete", "coredns").code == 0
    assert server.state() == before


def test_a_rejected_deletion_can_be_repeated(run: Run, server: ApiServer) -> None:
    before = server.state()
    run(*EXPOSE)
    server.fail("DELETE", "/envoyfilters/", 403, times=1)
    done = run("delete", "coredns")
    assert done.code == 3
    assert "kubectl auth can-i delete envoyfilters.networking.istio.io" in done.err
    assert run("delete", "coredns").code == 0
    assert server.state() == before


# -- objects that only claim to be ours ---------------------------------------------------------


def forge(
    server: ApiServer, namespace: str = "lab", name: str = "evil", *, of: str = "coredns"
) -> None:
    """A ServiceEntry with labels of an exposure of its own namespace, and another one's spec."""
    found = copy.deepcopy(server.get("ServiceEntry", "default", f"udp-default-{of}"))
    found["metadata"] |= {"namespace": namespace, "name": f"udp-{namespace}-{name}"}
    found["metadata"]["labels"] |= {
        "kubectl-istio-udp/namespace": namespace,
        "kubectl-istio-udp/exposure": name,
    }
    server.put(found)


STRAY = "ServiceEntry lab/udp-lab-evil is labelled as part of exposure lab/evil but is not"


def test_get_lists_a_stray(run: Run, server: ApiServer) -> None:
    run(*EXPOSE)
    forge(server)
    done = run("get", "-A")
    assert done.code == 0
    exposures, strays = done.out.split("\n\n")
    assert [line.split()[:2] for line in exposures.splitlines()[1:]] == [["default", "coredns"]]
    assert strays.splitlines()[0].split() == [
        "STRAY", "NAMESPACE", "NAME", "CLAIMS", "TO", "BELONG", "TO", "IGNORED", "BECAUSE",
    ]  # fmt: skip
    assert strays.splitlines()[1].split() == [
        "ServiceEntry", "lab", "udp-lab-evil", "exposure", "lab/evil",
        *["its", "annotation", "belongs", "to", "exposure", "default/coredns"],
    ]  # fmt: skip
    assert "udp-lab-evil" not in run("get", "-A", "-o", "yaml").out
    assert run("get", "-A", "-o", "name").out == "coredns\n"


@pytest.mark.parametrize("names", [["evil"], ["--all"]])
def test_delete_changes_neither_a_stray_nor_what_it_names(
    run: Run, server: ApiServer, names: list[str]
) -> None:
    """Its annotation names the ports of another exposure on the gateway's own Service."""
    run(*EXPOSE, "--gateway-service", "patch")
    forge(server)
    before = server.state()
    done = run("delete", "-n", "lab", *names)
    assert done.code == (3 if names == ["evil"] else 0)
    assert STRAY in done.err
    assert server.state() == before


def test_delete_deletes_the_exposure_and_not_a_stray_with_its_name(
    run: Run, server: ApiServer
) -> None:
    run(*EXPOSE)
    double = copy.deepcopy(server.get("ServiceEntry", "default", NAME))
    double["metadata"]["namespace"] = "lab"
    server.put(double)
    done = run("delete", "coredns")
    assert done.code == 0
    assert "exposure default/coredns has no ServiceEntry in namespace lab" in done.err
    left = [key for key in server.there() if key[2] == NAME]
    assert left == [("ServiceEntry", "lab", NAME)]


@pytest.mark.parametrize("verb", ["describe", "verify"])
def test_a_stray_is_not_described_nor_verified(run: Run, server: ApiServer, verb: str) -> None:
    run(*EXPOSE)
    forge(server)
    run("delete", "coredns")
    done = run(verb, "-A")
    assert done.code == 0
    assert STRAY in done.err
    assert done.out == ""


# -- samples ------------------------------------------------------------------------------------


def test_applies_and_deletes_the_samples(run: Run, server: ApiServer) -> None:
    server.put(endpoint_slice(endpoint("10.1.2.3"), namespace="lab"))
    before = server.state()
    done = run("samples", "apply", "-n", "lab")
    assert done.code == 0
    assert done.out.splitlines() == [f"{name} serverside-applied" for name in SAMPLES]
    assert done.err == "next: kubectl istio-udp expose -n lab coredns -p 5300:53\n"
    again = run("samples", "apply", "-n", "lab")
    assert again.out.splitlines() == [f"{name} unchanged" for name in SAMPLES]
    gone = run("samples", "delete", "-n", "lab")
    assert gone.code == 0
    assert len(gone.out.splitlines()) == 4 and all("deleted" in x for x in gone.out.splitlines())
    server.remove("Pod", "lab", "coredns-1")
    assert server.state() == before


@pytest.mark.parametrize(("mode", "mark"), [("client", "dry run"), ("server", "server dry run")])
def test_dry_runs_of_the_samples_write_nothing(
    run: Run, server: ApiServer, mode: str, mark: str
) -> None:
    done = run("samples", "apply", "-n", "lab", "--dry-run", mode)
    assert done.out.splitlines() == [f"{name} serverside-applied ({mark})" for name in SAMPLES]
    assert server.writes() == []
    run("samples", "apply", "-n", "lab", "--no-wait")
    before = server.state()
    done = run("samples", "delete", "-n", "lab", "--dry-run", mode)
    assert done.code == 0 and mark in done.out
    assert server.state() == before


def test_reports_samples_that_do_not_start(run: Run, server: ApiServer) -> None:
    server.pods_start = False
    done = run("samples", "apply", "-n", "lab", "--timeout", "50ms")
    assert done.code == 3
    assert "did not start within 0.05s: ErrImagePull" in done.err
    assert ("Deployment", "lab", "coredns") in server.there()
    assert run("samples", "apply", "-n", "lab", "--no-wait").code == 0


def test_samples_without_a_ready_endpoint_are_reported(run: Run, server: ApiServer) -> None:
    server.put(endpoint_slice(endpoint("10.1.2.3", ready=False), namespace="lab"))
    done = run("samples", "apply", "-n", "lab", "--timeout", "50ms")
    assert done.code == 3
    assert "Service lab/coredns has no ready endpoint after 0.05s" in done.err
    assert "kubectl get endpointslices -n lab" in done.err


def test_objects_that_are_not_samples_stay(run: Run, server: ApiServer) -> None:
    server.put(pod("network-tool", namespace="lab", app="network-tool"))
    done = run("samples", "delete", "-n", "lab")
    assert done.code == 0
    assert "pod/network-tool does not belong to the samples; not deleted" in done.err
    assert ("Pod", "lab", "network-tool") in server.there()


def test_rejected_samples_leave_nothing_behind(run: Run, server: ApiServer) -> None:
    before = server.state()
    server.fail("PATCH", "/deployments/", 403)
    assert run("samples", "apply", "-n", "lab").code == 3
    assert server.state() == before


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_prints_the_samples_without_a_cluster(run: Run, server: ApiServer, form: str) -> None:
    done = run("samples", "print", "-n", "x", "-o", form, "--coredns-image", "own/dns:1")
    found = json.loads(done.out)["items"] if form == "json" else list(yaml.safe_load_all(done.out))
    assert [o["kind"] for o in found] == ["Service", "ConfigMap", "Deployment", "Pod"]
    assert {o["metadata"]["namespace"] for o in found} == {"x"}
    assert "own/dns:1" in done.out
    assert server.requests == []


def test_undone_samples_are_not_printed_as_applied(run: Run, server: ApiServer) -> None:
    server.fail("PATCH", "/deployments/", 403)
    assert run("samples", "apply", "-n", "lab").out == ""


def test_samples_has_no_options_without_effect(run: Run, server: ApiServer) -> None:
    server.put(pod("network-tool", namespace="lab", app="network-tool"))
    done = run("samples", "apply", "-n", "lab")
    assert done.code == 3
    assert "--force-conflicts" not in done.err


def test_a_name_in_all_namespaces_is_refused(run: Run) -> None:
    """kubectl: a resource cannot be retrieved by name across all namespaces."""
    assert run("get", "-A", "coredns").code == 2


def test_a_failed_deletion_prints_how_to_continue(run: Run, server: ApiServer) -> None:
    run(*EXPOSE)
    server.fail("DELETE", "/envoyfilters/", 500)
    done = run("delete", "coredns")
    assert done.code == 3
    assert "delete the rest: kubectl istio-udp delete -n default coredns" in done.err
    server.heal()
    assert run("delete", "coredns").code == 0


@pytest.mark.parametrize("verb", ["get", "describe"])
def test_reports_why_a_load_balancer_has_no_address(run: Run, server: ApiServer, verb: str) -> None:
    server.load_balancer = None
    assert run("expose", "coredns", "-p", "5300:53").code == 0
    about = {"kind": "Service", "name": "udp-default-coredns", "namespace": "istio-system"}
    server.put(
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": "e", "namespace": "istio-system"},
            "involvedObject": about,
            "type": "Warning",
            "reason": "SyncLoadBalancerFailed",
            "message": "no UDP here",
        }
    )
    done = run(verb, "coredns")
    assert done.code == 0
    assert "NoAddress" in done.out
    text = "has no address yet (SyncLoadBalancerFailed: no UDP here): kubectl describe service -n"
    assert text in (done.err if verb == "get" else done.out)


@pytest.mark.parametrize("source", [None, "service"])
def test_an_exposure_of_a_deleted_namespace_is_listed_and_deleted(
    run: Run, server: ApiServer, source: str | None
) -> None:
    """Only its objects at the gateway are left, whoever created them."""
    run(*EXPOSE)
    for key in [key for key in server.there() if key[1] == "default"]:
        server.remove(*key)
    server.remove("Namespace", "", "default")
    for key in [key for key in server.there() if key[2] == NAME]:
        found = server.get(*key)
        if source:
            found["metadata"]["labels"]["kubectl-istio-udp/source"] = source
        server.put(found)
    listed = run("get", "-A")
    row = table(listed.out)[1]
    assert listed.code == 0 and row[:3] == ["default", "coredns", "coredns"]
    assert "MissingServiceEntry,NoService" in row
    described = run("describe", "-n", "default", "coredns")
    assert described.code == 0 and "Service default/coredns does not exist" in described.out
    assert run("delete", "-n", "default", "coredns").code == 0
    assert not [key for key in server.there() if key[2] == NAME]
    again = run("delete", "-n", "default", "coredns")
    assert again.code == 3 and "exposure coredns not found" in again.err
