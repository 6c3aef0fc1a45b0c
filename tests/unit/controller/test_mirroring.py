"""Gateways and routes that mirror others, with an istiod that reports on the copies."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.gatewayapi import CONTROLLER_NAME, MIRRORED_ROUTES
from kubectl_istio_udp.model.resources import API_GATEWAY
from kubectl_istio_udp.sources.gateways import child_key, clone_key
from tests.support import builders
from tests.support.apiserver import ApiServer
from tests.support.controlling import space, until
from tests.support.routed import Routed, made_by_istiod, read, services
from tests.support.routes import (
    GROUP,
    gateway,
    gateway_class,
    grant,
    listener,
    mirrored_route,
    route,
)

PLACE = "istio-system"
CHILD = child_key((PLACE, "udp"))[1]
CLONE = clone_key((PLACE, "web"))[1]
WEB, DNS = listener("web", 80, "HTTP"), listener("dns", 5300)
HTTP = [{"group": GROUP, "kind": "HTTPRoute"}]
MIRRORED = "kubectl-istio-udp.dev/Mirrored"
ISTIO = "istio.io/gateway-controller"


def said(generation: int, **reasons: str) -> list[dict[str, Any]]:
    """Conditions; those whose reason begins with `!` are false."""
    return [
        {
            "type": kind,
            "status": "False" if reason.startswith("!") else "True",
            "reason": reason.lstrip("!"),
            "message": "",
            "observedGeneration": generation,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        for kind, reason in reasons.items()
    ]


GOOD = {"Accepted": "Accepted", "Programmed": "Programmed", "ResolvedRefs": "ResolvedRefs"}


class Mirrored(Routed):
    """A controller, and an istiod that reports on what the controller creates when asked to."""

    def child(self) -> Any:
        return self.server.get(API_GATEWAY, PLACE, CHILD)

    def clone(self, kind: str = "HTTPRoute") -> Any:
        return self.server.get(kind, PLACE, CLONE)

    def uid(self, kind: str, name: str) -> str:
        return str(self.server.get(kind, PLACE, name)["metadata"]["uid"])

    def created(self) -> Any:
        return until(self.child)

    def report_gateway(self, generation: int = 1, attached: int = 0, **listeners: Any) -> None:
        """Let istiod report these conditions of the child's listeners, and otherwise success.

        Whatever the server of the tests did to it, its generation is this one.
        """
        found = self.child()
        found["metadata"]["generation"] = generation
        found["status"] = {
            "conditions": said(generation, **GOOD),
            "listeners": [
                {
                    "name": each["name"],
                    "supportedKinds": HTTP,
                    "attachedRoutes": attached,
                    "conditions": said(generation, **listeners.get(each["name"], GOOD)),
                }
                for each in found["spec"]["listeners"]
            ],
            "addresses": [{"type": "IPAddress", "value": "203.0.113.9"}],
        }
        self.server.put(found)

    def report_route(self, kind: str = "HTTPRoute", generation: int = 1, **reasons: str) -> None:
        found = self.clone(kind)
        found["metadata"]["generation"] = generation
        conditions = said(generation, **(reasons or {"Accepted": "Accepted"}))
        found["status"] = {
            "parents": [
                {"parentRef": ref, "controllerName": ISTIO, "conditions": conditions}
                for ref in found["spec"]["parentRefs"]
            ]
        }
        self.server.put(found)

    def accepted(self, kind: str = "HTTPRoute") -> Any:
        parents = self.status(kind, "web", PLACE).get("parents") or [{"conditions": ()}]
        return read(parents[0]["conditions"]).get("Accepted")

    def told_of_gateway(self) -> dict[str, tuple[str, str]]:
        return read(self.status(API_GATEWAY, "udp", PLACE).get("conditions", ()))


@pytest.fixture
def running(api: Api, server: ApiServer) -> Iterator[Mirrored]:
    server.put(
        space(PLACE),
        gateway_class(),
        gateway_class("istio", controller=ISTIO),
        *services(PLACE, "coredns"),
    )
    found = Mirrored(api, server)
    found.wait_for(installed=0.05)
    yield found
    found.stop()


def test_the_created_gateway_serves_http_listeners(running: Mirrored) -> None:
    named = listener("web", 80, "HTTP", from_="All")
    requesting = gateway(named, namespace=PLACE, tls={"frontend": {}})
    running.begin(requesting)
    child = running.created()
    assert child["spec"]["listeners"] == [named] and child["spec"]["tls"] == {"frontend": {}}
    assert child["metadata"]["ownerReferences"][0]["uid"] == running.uid(API_GATEWAY, "udp")
    until(lambda: running.told_of_gateway().get("Programmed") == ("False", "Pending"))
    # It is not reported as accepted before istiod has accepted it.
    assert "Accepted" not in running.told_of_gateway()
    running.report_gateway(attached=3)
    until(lambda: running.told_of_gateway().get("Programmed") == ("True", "Programmed"))
    status = running.status(API_GATEWAY, "udp", PLACE)
    assert running.told_of_gateway()["Accepted"] == ("True", "Accepted")
    (seen,) = status["listeners"]
    assert seen["name"] == "web" and seen["attachedRoutes"] == 3 and seen["supportedKinds"] == HTTP
    assert read(seen["conditions"])["Programmed"] == ("True", "Programmed")
    assert status["addresses"] == [{"type": "IPAddress", "value": "203.0.113.9"}]
    (message,) = [c["message"] for c in status["conditions"] if c["type"] == MIRRORED]
    assert f"must target Gateway {CHILD}" in message
    assert not running.server.all("EnvoyFilter")
    before = running.quiet()
    running.report_gateway(attached=3)
    assert running.quiet() == before


def test_reports_of_istiod_about_earlier_generations_are_ignored(running: Mirrored) -> None:
    requesting = gateway(WEB, namespace=PLACE)
    running.begin(requesting)
    running.created()
    running.report_gateway()
    until(lambda: running.told_of_gateway().get("Programmed") == ("True", "Programmed"))
    other = gateway(listener("web", 81, "HTTP"), namespace=PLACE)
    other["metadata"]["generation"] = 2
    other["status"] = running.status(API_GATEWAY, "udp", PLACE)
    running.server.put(other)
    until(lambda: running.child()["spec"]["listeners"][0]["port"] == 81)
    until(lambda: running.told_of_gateway().get("Programmed") == ("False", "Pending"))
    status = running.status(API_GATEWAY, "udp", PLACE)
    generations = {c["type"]: c["observedGeneration"] for c in status["conditions"]}
    assert generations["Accepted"] == 1 and generations["Programmed"] == 2
    assert [c["observedGeneration"] for c in status["listeners"][0]["conditions"]] == [1, 1, 1]
    running.report_gateway(2)
    until(lambda: running.told_of_gateway().get("Programmed") == ("True", "Programmed"))
    status = running.status(API_GATEWAY, "udp", PLACE)
    assert {c["observedGeneration"] for c in status["conditions"]} == {2}


def test_a_certificate_of_another_namespace_needs_a_grant(running: Mirrored) -> None:
    """Others must not learn whether it exists, although istiod checks that first."""
    secret = {"kind": "Secret", "group": "", "name": "absent", "namespace": "apps"}
    secure = {**listener("web", 443, "HTTPS"), "tls": {"certificateRefs": [secret]}}
    running.begin(gateway(secure, namespace=PLACE))
    running.created()
    absent = {"Accepted": "Accepted", "Programmed": "!Invalid", "ResolvedRefs": "!InvalidRef"}
    running.report_gateway(web=absent)

    def resolved() -> Any:
        seen = running.status(API_GATEWAY, "udp", PLACE).get("listeners")
        return read(seen[0]["conditions"])["ResolvedRefs"] if seen else None

    until(lambda: resolved() == ("False", "RefNotPermitted"))
    permitted = grant({"group": "", "kind": "Secret"}, origin=PLACE, kind="Gateway")
    running.server.put(permitted)
    until(lambda: resolved() == ("False", "InvalidRef"))
    running.server.remove("ReferenceGrant", "apps", "grant")
    until(lambda: resolved() == ("False", "RefNotPermitted"))


BAD = {"Accepted": "!PortUnavailable", "Programmed": "!Invalid", "ResolvedRefs": "ResolvedRefs"}


def test_parameters_of_another_controller_change_nothing(running: Mirrored) -> None:
    """A Gateway of class istio may name a ConfigMap; a Gateway of this class is not accepted."""
    running.begin(gateway(WEB, namespace=PLACE))
    running.created()
    running.report_gateway()
    until(lambda: running.told_of_gateway().get("Programmed") == ("True", "Programmed"))
    running.server.put(mirrored_route(namespace=PLACE))
    until(running.clone)
    named = {"parametersRef": {"group": "", "kind": "ConfigMap", "name": "x"}}
    running.server.put(gateway(WEB, namespace=PLACE, infrastructure=named))
    until(lambda: running.told_of_gateway().get("Accepted") == ("False", "InvalidParameters"))
    running.quiet()
    assert running.child() and running.clone()


def test_parameters_of_another_controller_get_no_gateway(running: Mirrored) -> None:
    """As in the official conformance tests."""
    named = {"parametersRef": {"group": "invalid.io", "kind": "InvalidParameters", "name": "x"}}
    running.begin(gateway(WEB, namespace=PLACE, infrastructure=named))
    until(lambda: running.told_of_gateway().get("Accepted") == ("False", "InvalidParameters"))
    running.quiet()
    assert not running.child()


def test_listeners_that_no_gateway_can_serve(running: Mirrored) -> None:
    odd = listener("odd", 1111, "INVALID")
    running.begin(gateway(WEB, odd, namespace=PLACE))
    assert [each["name"] for each in running.created()["spec"]["listeners"]] == ["web"]
    running.report_gateway()
    until(lambda: running.told_of_gateway().get("Accepted") == ("True", "ListenersNotValid"))
    listeners = running.status(API_GATEWAY, "udp", PLACE)["listeners"]
    assert [read(each["conditions"])["Accepted"][1] for each in listeners] == [
        "Accepted",
        "UnsupportedProtocol",
    ]
    assert listeners[1]["supportedKinds"] == []
    running.report_gateway(web=BAD)
    until(lambda: running.told_of_gateway().get("Accepted") == ("False", "ListenersNotValid"))


def test_udp_and_http_have_one_address(running: Mirrored) -> None:
    running.server.put(space(PLACE, allow=None))
    running.begin(gateway(WEB, DNS, namespace=PLACE), route(namespace=PLACE))
    assert [each["name"] for each in running.created()["spec"]["listeners"]] == ["web"]
    running.report_gateway()
    until(lambda: running.told_of_gateway().get("Programmed") == ("False", "NoResources"))
    made_by_istiod(running, CHILD)
    until(lambda: running.told_of_gateway().get("Programmed") == ("True", "Programmed"))
    status = running.status(API_GATEWAY, "udp", PLACE)
    assert [each["name"] for each in status["listeners"]] == ["web", "dns"]
    assert status["addresses"] == [{"type": "IPAddress", "value": "203.0.113.9"}]
    # Without its UDP listener it has no exposure, and serves HTTP as before.
    fewer = gateway(WEB, namespace=PLACE)
    fewer["metadata"]["generation"] = 2
    fewer["status"] = status
    running.server.put(fewer)
    until(lambda: not running.server.all("EnvoyFilter"))
    until(lambda: len(running.status(API_GATEWAY, "udp", PLACE)["listeners"]) == 1)
    assert running.told_of_gateway()["Programmed"] == ("True", "Programmed")


@pytest.mark.parametrize("kind", MIRRORED_ROUTES)
def test_routes_are_copied_and_their_status_comes_back(running: Mirrored, kind: str) -> None:
    parents = [{"name": "udp", "sectionName": "web"}, {"name": "theirs"}]
    original = mirrored_route(kind, namespace=PLACE, parents=parents)
    original["metadata"]["labels"] = {"argocd.argoproj.io/instance": "x"}
    running.begin(gateway(WEB, namespace=PLACE), original)
    clone = until(lambda: running.clone(kind))
    assert clone["spec"] == {
        **original["spec"],
        "parentRefs": [{"name": CHILD, "sectionName": "web"}],
    }
    assert clone["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "kubectl-istio-udp"}
    assert clone["metadata"]["ownerReferences"][0]["uid"] == running.uid(kind, "web")
    until(lambda: running.accepted(kind) == ("Unknown", "Pending"))
    running.report_route(kind, Accepted="Accepted", ResolvedRefs="!BackendNotFound")
    until(lambda: running.accepted(kind) == ("True", "Accepted"))
    (entry,) = running.status(kind, "web", PLACE)["parents"]
    assert entry["parentRef"] == parents[0] and entry["controllerName"] == CONTROLLER_NAME
    assert read(entry["conditions"])["ResolvedRefs"] == ("False", "BackendNotFound")
    before = running.quiet()
    running.report_route(kind, Accepted="Accepted", ResolvedRefs="!BackendNotFound")
    assert running.quiet() == before


def changed(original: Any, running: Mirrored, **spec: Any) -> Any:
    """The route with another spec, in its second generation."""
    found = copy.deepcopy(running.server.get("HTTPRoute", PLACE, "web"))
    found["metadata"]["generation"] = 2
    return {**found, "spec": {**original["spec"], **spec}}


def test_a_renewal_that_is_late_loses_no_copy(running: Mirrored) -> None:
    only = running.begin(gateway(WEB, DNS, namespace=PLACE), elect=True)
    running.created()
    running.quiet()
    with running.late_renewal(only):
        running.server.put(mirrored_route(namespace=PLACE))
        running.quiet()
        assert running.clone() is None
    until(running.clone)


def test_a_copy_follows_its_original(running: Mirrored) -> None:
    original = mirrored_route(namespace=PLACE)
    original["spec"]["hostnames"] = ["a.example"]
    running.begin(gateway(WEB, namespace=PLACE), original)
    until(running.clone)
    running.report_route()
    until(lambda: running.accepted() == ("True", "Accepted"))
    other = changed(original, running)
    del other["spec"]["hostnames"]
    running.server.put(other)
    until(lambda: "hostnames" not in running.clone()["spec"])
    running.quiet()
    (entry,) = running.status("HTTPRoute", "web", PLACE)["parents"]
    assert {c["observedGeneration"] for c in entry["conditions"]} == {1}
    running.report_route(generation=2)
    until(
        lambda: (
            running.status("HTTPRoute", "web", PLACE)["parents"][0]["conditions"][0][
                "observedGeneration"
            ]
            == 2
        )
    )
    # What others change in the copy is undone.
    edited = running.clone()
    edited["spec"]["hostnames"] = ["evil.example"]
    running.server.put(edited)
    until(lambda: "hostnames" not in running.clone()["spec"])
    running.server.remove("HTTPRoute", PLACE, CLONE)
    until(running.clone)


def test_the_revision_of_a_route_is_copied(running: Mirrored) -> None:
    """The label istio.io/rev selects the istiod."""
    original = mirrored_route(namespace=PLACE)
    original["metadata"]["labels"] = {"istio.io/rev": "canary"}
    running.begin(gateway(WEB, namespace=PLACE), original)
    assert until(running.clone)["metadata"]["labels"]["istio.io/rev"] == "canary"
    other = running.server.get("HTTPRoute", PLACE, "web")
    other["metadata"]["labels"] = {}
    running.server.put(other)
    until(lambda: "istio.io/rev" not in running.clone()["metadata"]["labels"])


def test_a_copy_is_deleted_with_its_last_parent(running: Mirrored) -> None:
    theirs = {"parentRef": {"name": "theirs"}, "controllerName": "example.com/c", "conditions": []}
    original = mirrored_route(namespace=PLACE, status={"parents": [theirs]})
    running.begin(gateway(WEB, namespace=PLACE), original)
    until(running.clone)
    until(lambda: len(running.status("HTTPRoute", "web", PLACE)["parents"]) == 2)
    running.server.put(changed(original, running, parentRefs=[{"name": "theirs"}]))
    until(lambda: not running.clone())
    until(lambda: running.status("HTTPRoute", "web", PLACE)["parents"] == [theirs])


def test_copies_and_created_gateways_stay_while_the_class_is_missing(running: Mirrored) -> None:
    """It may be replaced: the address and the pods must not go."""
    running.begin(gateway(WEB, namespace=PLACE), mirrored_route(namespace=PLACE))
    until(running.clone)
    running.server.remove("GatewayClass", "", "istio-udp")
    running.quiet()
    assert running.clone() and running.child()
    running.server.put(gateway_class(controller="example.com/other"))
    until(lambda: not running.clone() and not running.child())


def test_a_gateway_whose_class_is_missing_changes_nothing_about_others(running: Mirrored) -> None:
    """A route is copied for the others; a copy keeps its reference to the one that it was for."""
    second = gateway(WEB, namespace=PLACE, name="second", class_name="second")
    parents = [{"name": name} for name in ("second", "udp")]
    original = mirrored_route(namespace=PLACE, parents=parents)
    running.begin(gateway(WEB, namespace=PLACE), second, original)

    def copied() -> list[str]:
        found = running.clone() or {"spec": {"parentRefs": []}}
        return [ref["name"] for ref in found["spec"]["parentRefs"]]

    until(lambda: copied() == [CHILD])
    running.server.put(gateway_class("second"))
    both = [child_key((PLACE, "second"))[1], CHILD]
    until(lambda: copied() == both)
    running.server.remove("GatewayClass", "", "second")
    running.quiet()
    running.server.put(changed(original, running, hostnames=["a.example"]))
    until(lambda: running.clone()["spec"].get("hostnames") == ["a.example"])
    assert copied() == both
    # Without any that is decided it stays as it is.
    running.server.remove("GatewayClass", "", "istio-udp")
    running.quiet()
    assert copied() == both


def test_the_class_of_created_gateways_cannot_be_the_controller_s(running: Mirrored) -> None:
    """Each created Gateway would get another one."""
    running.server.put(gateway_class("istio"))
    running.begin(gateway(WEB, namespace=PLACE))
    running.created()
    running.quiet()
    assert len(running.server.all(API_GATEWAY)) == 2
    said = running.status("GatewayClass", "istio", "")["conditions"]
    assert read(said)["Accepted"] == ("False", "Unsupported")


def test_another_class_takes_the_gateway_over(running: Mirrored) -> None:
    """Nothing of ours is left: exposure, created Gateway, copies, entries and conditions."""
    running.begin(
        gateway(WEB, DNS, namespace=PLACE), mirrored_route(namespace=PLACE), route(namespace=PLACE)
    )
    running.created()
    running.report_gateway()
    until(lambda: running.told_of_gateway().get(MIRRORED))
    until(lambda: running.status("UDPRoute", "dns", PLACE).get("parents"))
    until(running.clone)
    changed = running.server.get(API_GATEWAY, PLACE, "udp")
    changed["spec"]["gatewayClassName"] = "istio"
    running.server.put(changed)
    until(lambda: not running.child() and not running.clone())
    until(lambda: not running.status("UDPRoute", "dns", PLACE)["parents"])
    until(lambda: MIRRORED not in running.told_of_gateway())
    # And back.
    changed["spec"]["gatewayClassName"] = "istio-udp"
    running.server.put(changed)
    running.created()
    until(lambda: running.status("UDPRoute", "dns", PLACE)["parents"])


def test_a_route_at_a_udp_listener_is_not_allowed(running: Mirrored) -> None:
    parents = [{"name": "udp", "sectionName": "dns"}]
    running.begin(
        gateway(WEB, DNS, namespace=PLACE), mirrored_route(namespace=PLACE, parents=parents)
    )
    until(lambda: running.accepted() == ("False", "NotAllowedByListeners"))
    assert not running.clone()


def test_routes_of_other_gateways_are_not_changed(running: Mirrored) -> None:
    theirs = gateway(WEB, name="theirs", namespace=PLACE, class_name="istio")
    original = mirrored_route(namespace=PLACE, parents=[{"name": "theirs"}])
    running.begin(theirs, original)
    running.quiet()
    assert not running.clone() and not running.status("HTTPRoute", "web", PLACE)


def test_objects_of_other_owners_are_not_changed(running: Mirrored) -> None:
    their_gateway = gateway(WEB, name=CHILD, namespace=PLACE, class_name="istio")
    their_route = mirrored_route(name=CLONE, namespace=PLACE, parents=[{"name": "theirs"}])
    requesting = (gateway(WEB, namespace=PLACE), mirrored_route(namespace=PLACE))
    running.begin(their_gateway, their_route, *requesting)

    def messages() -> str:
        return str(running.status(API_GATEWAY, "udp", PLACE)) + str(
            running.status("HTTPRoute", "web", PLACE)
        )

    until(lambda: f"Gateway {PLACE}/{CHILD} already exists" in messages())
    until(lambda: f"HTTPRoute {PLACE}/{CLONE} already exists" in messages())
    assert running.child() == their_gateway | {"metadata": running.child()["metadata"]}
    assert running.clone()["spec"] == their_route["spec"]
    # It is not deleted either when there is nothing to mirror any more.
    running.server.remove("HTTPRoute", PLACE, "web")
    running.server.put(gateway(listener("x", 1, "INVALID"), namespace=PLACE))
    running.quiet()
    assert running.child() and running.clone()


def test_a_rejected_copy_is_reported(running: Mirrored) -> None:
    for path in (f"/{PLACE}/httproutes", f"/{PLACE}/gateways"):
        running.server.fail("POST", path, 403, body="no copies here", times=3)
    running.begin(gateway(WEB, namespace=PLACE), mirrored_route(namespace=PLACE))
    until(lambda: "no copies here" in str(running.status("HTTPRoute", "web", PLACE)))
    until(lambda: "no copies here" in str(running.status(API_GATEWAY, "udp", PLACE)))
    until(lambda: running.clone() and running.child())


@pytest.mark.parametrize("kind", MIRRORED_ROUTES)
def test_a_kind_that_is_not_installed_does_not_matter(running: Mirrored, kind: str) -> None:
    running.server.installed.discard(kind)
    controller = running.begin(gateway(WEB, namespace=PLACE))
    running.created()
    running.report_gateway()
    until(lambda: running.told_of_gateway().get("Programmed") == ("True", "Programmed"))
    assert controller.ready()
    running.server.installed.add(kind)
    running.server.put(mirrored_route(kind, namespace=PLACE))
    until(lambda: running.clone(kind))


def test_routes_are_copied_in_their_own_namespaces(running: Mirrored) -> None:
    running.server.put(builders.namespace("team"))
    parents = [{"name": "udp", "namespace": PLACE}]
    running.begin(gateway(WEB, namespace=PLACE), mirrored_route(namespace="team", parents=parents))
    name = clone_key(("team", "web"))[1]
    clone = until(lambda: running.server.get("HTTPRoute", "team", name))
    assert clone["spec"]["parentRefs"] == [{"name": CHILD, "namespace": PLACE}]
