"""What a command line does not name stays; what changes is shown before it is written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.exposure import Affinity, LoadBalancing
from kubectl_istio_udp.model.ports import PortRequest
from kubectl_istio_udp.sources.settings import NamedSettings, differences
from tests.support.apiserver import ApiServer
from tests.support.builders import gateway_pod, gateway_service, plan_of, service, udp
from tests.unit.conftest import Run

NAME = "udp-default-coredns"
FILTER = ("EnvoyFilter", "istio-system", NAME)
OWN = ("Service", "istio-system", "istio-ingressgateway")
EXPOSE = ("expose", "coredns", "-p", "5300:53")
SPECIAL = (
    "--idle-timeout", "1m", "--affinity", "source-ip", "--load-balancing", "ring-hash",
    "--max-datagram-size", "1400", "--session-log", "--gateway-service", "none",
    "--discovery", "static", "--max-sessions", "70",
)  # fmt: skip


def spec(server: ApiServer) -> dict[str, Any]:
    notes = server.get(*FILTER)["metadata"]["annotations"]
    found: dict[str, Any] = json.loads(notes["kubectl-istio-udp/spec"])
    return found


def shown(done: Run) -> list[str]:
    """The lines about changes."""
    return [line.strip() for line in done.err.splitlines() if " -> " in line]


# -- the command line ----------------------------------------------------------------------------


def test_settings_not_named_stay(run: Run, server: ApiServer) -> None:
    assert run(*EXPOSE, *SPECIAL).code == 0
    before = server.state()
    done = run("expose", "coredns")
    assert (done.code, shown(done)) == (0, [])
    assert server.state() == before


@pytest.mark.parametrize(
    ("words", "change"),
    [
        (["--max-sessions", "80"], "max-sessions: 70 -> 80"),
        (["--idle-timeout", "10s"], "idle-timeout: 60s -> 10s"),
        (["--max-datagram-size", "9000"], "max-datagram-size: 1400 -> 9000"),
        (["--load-balancing", "maglev"], "load-balancing: ring-hash -> maglev"),
        (["--no-session-log"], "session-log: on -> off"),
        (["--gateway-service", "companion"], "gateway-service: none -> companion"),
        (["--discovery", "auto"], "discovery: static -> selector"),
        (["-p", "5400:53"], "ports: 5300:53/UDP -> 5300:53/UDP,5400:53/UDP"),
    ],
)
def test_only_named_settings_change_and_changes_are_shown(
    run: Run, server: ApiServer, words: list[str], change: str
) -> None:
    run(*EXPOSE, *SPECIAL)
    before = spec(server)
    done = run("expose", "coredns", *words)
    assert done.code == 0
    assert shown(done) == [change]
    changed = {
        key for key, value in spec(server)["options"].items() if value != before["options"][key]
    }
    assert len(changed) == (1 if change.split(":")[0] not in ("ports", "discovery") else 0)


def test_the_policy_follows_a_named_affinity(run: Run, server: ApiServer) -> None:
    run(*EXPOSE, *SPECIAL)
    done = run("expose", "coredns", "--affinity", "none")
    assert shown(done) == [
        "affinity: source-ip -> none",
        "load-balancing: ring-hash -> round-robin",
    ]
    refused = run("expose", "coredns", "--load-balancing", "maglev")
    assert refused.code == 2 and "cannot be combined with" in refused.err


def test_changes_are_shown_before_anything_is_written(run: Run, server: ApiServer) -> None:
    run(*EXPOSE)
    done = run("expose", "coredns", "--idle-timeout", "1m", "--dry-run", "client")
    assert shown(done) == ["idle-timeout: 10s -> 60s"]
    assert spec(server)["options"]["idle_timeout"] == "10s"


def test_a_port_is_only_removed_by_the_option(run: Run, server: ApiServer) -> None:
    run("expose", "coredns", "-p", "5300:53", "-p", "5400:53")
    done = run("expose", "coredns", "-p", "5400:53")
    assert (done.code, shown(done)) == (0, [])
    done = run("expose", "coredns", "--remove-port", "5300")
    assert shown(done) == ["ports: 5300:53/UDP,5400:53/UDP -> 5400:53/UDP"]
    assert "[U206]" in done.err
    assert "has no gateway port" not in done.err
    again = run("expose", "coredns", "--remove-port", "5300-5301")
    assert (again.code, shown(again)) == (0, [])
    assert "Warning: exposure coredns has no gateway port 5300, 5301; it has 5400\n" in again.err


def test_the_last_port_cannot_be_removed(run: Run, server: ApiServer) -> None:
    run(*EXPOSE)
    done = run("expose", "coredns", "--remove-port", "5300")
    assert done.code == 2
    assert "exposure coredns would have no ports left" in done.err
    assert "kubectl istio-udp delete -n default coredns" in done.err


def test_a_port_can_be_moved_in_one_step(run: Run, server: ApiServer) -> None:
    run(*EXPOSE)
    done = run("expose", "coredns", "-p", "5400:53", "--remove-port", "5300")
    assert shown(done) == ["ports: 5300:53/UDP -> 5400:53/UDP"]


def test_a_new_port_of_the_service_is_not_exposed_by_itself(run: Run, server: ApiServer) -> None:
    run("expose", "coredns")
    server.put(service(ports=[udp(53), udp(54, "more")]))
    run("expose", "coredns", "--idle-timeout", "1m")
    assert [port["gateway_port"] for port in spec(server)["ports"]] == [53]


def test_an_exposure_keeps_its_gateway_when_another_appears(run: Run, server: ApiServer) -> None:
    run(*EXPOSE)
    labels = {"app": "second", "istio": "ingressgateway"}
    server.put(
        gateway_pod("second-1", labels=labels, ips=("10.244.0.9",)),
        gateway_service("second", selector=labels),
    )
    done = run("expose", "coredns", "--idle-timeout", "1m")
    assert done.code == 0
    assert shown(done) == ["idle-timeout: 10s -> 60s"]
    other = run("expose", "coredns", "--name", "new", "-p", "5500:53")
    assert other.code == 2 and "several gateways" in other.err
    away = run("expose", "coredns", "--gateway", "istio-system/second")
    assert away.code == 3 and "[U106]" in away.err


def test_names_a_gateway_that_no_longer_exists(run: Run, server: ApiServer) -> None:
    run(*EXPOSE)
    server.remove("Pod", "istio-system", "istio-ingressgateway-1")
    done = run("expose", "coredns")
    assert done.code == 3
    assert "of this exposure has no running pod" in done.err
    assert "kubectl get pods -n istio-system -l app=istio-ingressgateway" in done.err


def test_another_service_under_the_same_name_is_refused(run: Run, server: ApiServer) -> None:
    run(*EXPOSE)
    server.put(service("other", ports=[udp(54)]))
    done = run("expose", "other", "--name", "coredns", "-p", "5301:54")
    assert done.code == 3 and "[U106]" in done.err and shown(done) == []


# -- the rules themselves ------------------------------------------------------------------------


def test_a_request_for_a_new_exposure_has_the_defaults() -> None:
    named = NamedSettings(ports=(PortRequest(5300, 53),), idle_timeout=None)
    request = named.request("default", "coredns", None, None)
    assert request.options == type(request.options)()
    assert (request.ports, request.discovery) == ((PortRequest(5300, 53),), None)


def test_a_named_port_gets_another_service_port() -> None:
    before = plan_of(ports=[PortRequest(5300, 53)]).exposure.spec
    named = NamedSettings(ports=(PortRequest(5300, "dns"),))
    assert named.request("default", "coredns", None, before).ports == (PortRequest(5300, "dns"),)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_sessions": 0}, "max-sessions 0"),
        ({"max_sessions": 5, "expect_rate": 2.0}, "expect-rate"),
        (
            {"affinity": Affinity.NONE, "load_balancing": LoadBalancing.MAGLEV},
            "cannot be combined with",
        ),
        ({"ports": (PortRequest(53),), "remove_ports": (53,)}, "in -p and in --remove-port"),
    ],
)
def test_settings_that_are_always_invalid_are_refused_at_once(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        NamedSettings(**settings)


def test_differences_name_what_changes() -> None:
    assert differences({"a": "1", "b": "", "c": "3"}, {"a": "1", "b": "2"}) == (
        "b: none -> 2",
        "c: 3 -> none",
    )


# -- the gateway's own Service -------------------------------------------------------------------

PATCH = (*EXPOSE, "--gateway-service", "patch")


@pytest.mark.parametrize("dry_run", ["none", "client", "server"])
@pytest.mark.parametrize("form", ["yaml", "json", "name"])
def test_the_gateways_own_service_is_not_printed(
    run: Run, server: ApiServer, dry_run: str, form: str
) -> None:
    done = run(*PATCH, "--dry-run", dry_run, "-o", form)
    assert done.code == 0
    assert "istio-ingressgateway" not in [
        word for line in done.out.splitlines() for word in line.split() if "name:" in line
    ]
    assert "kind: Service\n" not in done.out and '"kind": "Service"\n' not in done.out
    assert "service/istio-ingressgateway" not in done.out
    assert "Service istio-system/istio-ingressgateway" in done.err
    assert ("without --dry-run and -o" in done.err) == (dry_run != "none")


def test_the_port_to_add_is_the_one_that_expose_would_write(run: Run, server: ApiServer) -> None:
    done = run(*PATCH, "--dry-run", "client", "-o", "yaml")
    (line,) = [line for line in done.err.splitlines() if "to the manifest of this Service" in line]
    run(*PATCH)
    there = server.get(*OWN)["spec"]["ports"]
    assert json.loads(line.partition("Service: ")[2]) == [
        port for port in there if port["protocol"] == "UDP"
    ]


# -- whose exposure it is ------------------------------------------------------------------------


@pytest.fixture
def declared(run: Run, server: ApiServer) -> ApiServer:
    """An exposure as the controller makes it, and the annotation that declares it."""
    run(*EXPOSE)
    for key in [key for key in server.there() if key[2] == NAME]:
        made = server.get(*key)
        made["metadata"]["labels"]["kubectl-istio-udp/source"] = "service"
        server.put(made)
    dns = server.get("Service", "default", "coredns")
    dns["metadata"].setdefault("annotations", {})["kubectl-istio-udp/expose"] = "5300:53"
    server.put(dns)
    return server


ANNOTATE = "kubectl annotate service -n default coredns"


def test_an_exposure_requested_by_annotation_is_not_deleted(run: Run, declared: ApiServer) -> None:
    before = declared.state()
    done = run("delete", "coredns")
    assert done.code == 3
    assert "Service default/coredns requests this exposure" in done.err
    assert f"{ANNOTATE} kubectl-istio-udp/expose-" in done.err
    assert declared.state() == before


def test_all_deletes_the_others_and_names_those_that_stay(run: Run, declared: ApiServer) -> None:
    run("expose", "coredns", "--name", "mine", "-p", "5400:53")
    done = run("delete", "--all")
    assert done.code == 3
    assert "requests this exposure" in done.err
    assert run("get", "-o", "name").out == "coredns\n"


def test_an_exposure_that_is_no_longer_requested_can_be_deleted(
    run: Run, declared: ApiServer
) -> None:
    """The controller was uninstalled, and the annotation taken away afterwards."""
    dns = declared.get("Service", "default", "coredns")
    del dns["metadata"]["annotations"]["kubectl-istio-udp/expose"]
    declared.put(dns)
    assert run("delete", "coredns").code == 0
    assert run("get", "-o", "name").out == ""


def test_an_exposure_requested_by_annotation_is_not_changed(run: Run, declared: ApiServer) -> None:
    before = declared.state()
    done = run("expose", "coredns", "--idle-timeout", "1m", "--force-conflicts")
    assert done.code == 3
    assert f"{ANNOTATE} --overwrite kubectl-istio-udp/expose=PORTS" in done.err
    assert "--force-conflicts" not in done.err
    assert declared.state() == before


def test_get_shows_who_manages_an_exposure(run: Run, declared: ApiServer) -> None:
    run("expose", "coredns", "--name", "mine", "-p", "5400:53")
    headers, first, second = (line.split() for line in run("get").out.splitlines())
    column = headers.index("OWNER")
    assert (first[column], second[column]) == ("annotation", "command-line")
