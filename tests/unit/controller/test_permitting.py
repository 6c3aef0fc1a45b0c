"""What namespaces may have."""

from __future__ import annotations

from typing import Any

import pytest

from kubectl_istio_udp.controller import deciding
from kubectl_istio_udp.model.request import ExposeRequest
from kubectl_istio_udp.plan.exposure import Plan, plan
from kubectl_istio_udp.state.trimming import LabelSet
from tests.support.builders import endpoint, endpoint_slice
from tests.support.controlling import (
    Running,
    annotated,
    space,
    until,
)


@pytest.mark.parametrize(
    ("service", "reason", "said"),
    [
        (annotated(ports="5400:53"), "ExposeForbidden", "5400"),
        (annotated(ports="5300:53,9999:53"), "ExposeForbidden", "9999"),
        (annotated(ports="all"), "ExposeForbidden", "53"),
        (annotated(ports="5300:other/53"), "ExposeInvalid", "neither a number nor the name"),
        (annotated(ports="5300:kube-system/dns"), "ExposeInvalid", "neither a number nor the name"),
        (annotated(ports=""), "ExposeInvalid", "not a number"),
        (annotated(ports="x" * 3000), "ExposeInvalid", "longer than 2000"),
        (
            annotated(ports=",".join(f"{p}" for p in range(5300, 5450))),
            "ExposeInvalid",
            "more than",
        ),
        (annotated(options={"idle-timeout": "9" * 300 + "s"}), "ExposeInvalid", "duration"),
        (
            annotated(options={"idle-timeout": "1s\n- applyTo: LISTENER"}),
            "ExposeInvalid",
            "duration",
        ),
        (annotated(options={"max-sessions": "1e9"}), "ExposeInvalid", "whole number"),
        (annotated(options={"max-sessions": "60000"}), "ExposeForbidden", "60000 sessions"),
        (annotated(options={"discovery": "dns"}), "ExposeInvalid", "not one of"),
        (annotated(options={"nonsense": "1"}), "ExposeInvalid", "unknown annotation"),
        (annotated(options={"gateway": "../../kube-system"}), "ExposeInvalid", "neither NAME"),
        (annotated(options={"gateway": "elsewhere/gw"}), "NoGateway", "elsewhere/gw"),
        (
            annotated(type="ExternalName", externalName="dns.kube-system.svc"),
            "ExposeForbidden",
            "ExternalName",
        ),
    ],
)
def test_what_a_tenant_may_not_request(
    running: Running, service: dict[str, Any], reason: str, said: str
) -> None:
    running.start()
    running.server.put(service)
    told = running.tells(reason)
    assert said in told and len(told) < 1100
    running.quiet()
    assert not any(running.server.all(kind) for kind in ("EnvoyFilter", "ServiceEntry"))


def test_nothing_is_allowed_by_default(running: Running) -> None:
    running.server.put(space("default", None))
    controller = running.start()
    running.server.put(annotated())
    running.tells("ExposeForbidden")
    assert controller.states()["refused"] == 1
    running.server.put(space("default", "5300"))
    running.exposed()


def test_a_misspelled_limit_of_a_namespace_is_reported(running: Running) -> None:
    running.server.put(space("default", "5300", **{"kubectl-istio-udp/allow-gateway": "other"}))
    running.start()
    running.server.put(annotated())
    said = running.tells("ExposeInvalid")
    assert "unknown annotation kubectl-istio-udp/allow-gateway on the Namespace" in said
    running.server.put(space("default", "5300"))
    running.exposed()


def test_a_cluster_of_one_tenant(running: Running) -> None:
    running.server.put(space("default", None))
    running.start(allow_all=True)
    running.server.put(annotated(type="ExternalName", externalName="dns.example.com"))
    running.exposed()


def test_a_forbidden_change_keeps_the_exposure(running: Running) -> None:
    """An accepted exposure stays and its endpoints are updated; an Event reports the refusal."""
    controller = running.start()
    running.server.put(annotated(options={"max-sessions": "500"}))
    running.exposed()
    running.quiet()
    before = running.filter()
    for asked in (
        annotated(options={"max-sessions": "60000"}),
        annotated(ports="5300:53,9999:53"),
        annotated(options={"gateway-service": "patch"}),
        annotated(options={"session-log": "true"}),
    ):
        running.server.put(asked)
        until(lambda: controller.states()["refused"])
        running.server.put(annotated(options={"max-sessions": "500"}))
        until(lambda: controller.states()["ok"])
    running.server.put(annotated(ports="9999:53"), endpoint_slice(endpoint("10.244.0.30")))
    until(lambda: running.addresses() == ["10.244.0.30"])
    running.tells("ExposeForbidden")
    running.quiet()
    assert running.filter() == before and running.companion()
    # An exposure is deleted when it is no longer allowed, whatever is requested now.
    running.server.put(space("default", "5400"))
    until(lambda: not running.filter() and not running.companion() and not running.entry())


def test_a_namespace_has_limits_on_ports_and_sessions(running: Running) -> None:
    notes = {"allow-total-ports": "3", "allow-total-sessions": "2000"}
    named = {f"kubectl-istio-udp/{key}": value for key, value in notes.items()}
    running.server.put(space("default", "5300-5399", **named))
    running.start()
    running.server.put(annotated("a", ports="5300:53", options={"max-sessions": "500"}))
    running.exposed("udp-default-a")
    running.server.put(
        annotated("b", ports="5301:53,5302:53,5303:53", options={"max-sessions": "1"})
    )
    assert "would have 4 ports in total; 3 are allowed" in running.tells("ExposeRefused", "b")
    running.server.put(annotated("c", ports="5304:53", options={"max-sessions": "1501"}))
    assert "would have 2001 sessions" in running.tells("ExposeRefused", "c")
    running.server.remove("Service", "default", "c")
    running.server.remove("Service", "default", "a")
    running.exposed("udp-default-b")


def test_of_more_services_than_ports_only_the_oldest_are_read(running: Running) -> None:
    running.server.put(
        space("default", "5300-5399", **{"kubectl-istio-udp/allow-total-ports": "2"})
    )
    years = {name: f"202{number}-01-01T00:00:00Z" for number, name in enumerate("abcd")}
    ports = {"a": "5300:99", "b": "5301:53", "c": "5302:53", "d": "5303:53"}
    running.server.put(*[annotated(n, ports=ports[n], created=years[n]) for n in "abcd"])
    running.start()
    running.exposed("udp-default-b")
    for name in "cd":
        assert "2 older Services of the namespace" in running.tells("ExposeRefused", name)
    # There may be thousands, so changes of a gateway do not reconcile them.
    assert not running.controllers[0]._waiting_for_capacity
    running.server.remove("Service", "default", "a")
    running.exposed("udp-default-c")
    running.quiet()
    assert running.filter("udp-default-d") is None


def test_nothing_is_planned_for_what_is_not_allowed(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[str] = []

    def noted(request: ExposeRequest, *given: Any) -> Plan:
        planned.append(request.namespace)
        return plan(request, *given)

    monkeypatch.setattr(deciding, "plan", noted)
    running.server.put(space("attack", None), space("victim", "5300"))
    running.server.put(
        *[
            annotated(f"s{n}", namespace="attack", ports="5300:53", created="2020")
            for n in range(20)
        ]
    )
    running.server.put(annotated("dns", namespace="victim"))
    controller = running.start()
    until(lambda: controller.states() == {"refused": 20, "ok": 1})
    assert set(planned) == {"victim"}


def test_changing_pods_only_queue_the_permitted_number_of_intents(
    running: Running,
) -> None:
    """Only the oldest ones of a namespace, as many as it may have ports."""
    running.server.put(space("default", **{"kubectl-istio-udp/allow-total-ports": "3"}))
    controller = running.start()
    for number in range(9):
        created = f"2026-01-01T00:00:0{number}Z"
        ports, selector = f"53{number:02}:53", {"app": "one"}
        running.server.put(annotated(f"s{number}", ports, created=created, selector=selector))
    until(lambda: len(list(controller.outcomes())) == 9)
    running.quiet()
    caches, labels = controller.caches, LabelSet.of({"app": "one"})
    found = caches._selecting("default", labels)
    assert found == {("default", f"s{number}") for number in range(3)}
    running.server.put(space("default", **{"kubectl-istio-udp/allow-total-ports": "20"}))
    until(lambda: len(caches._selecting("default", labels)) == 9)
