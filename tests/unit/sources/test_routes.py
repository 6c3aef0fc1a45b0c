"""The listeners that a UDPRoute attaches to, its Services, and its conditions."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from typing import Any

import pytest

from kubectl_istio_udp.controller import conditions
from kubectl_istio_udp.controller.conditions import ApiCondition, ParentReport, Progress
from kubectl_istio_udp.controller.outcome import Unavailable
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.exposure import Affinity, LoadBalancing, Options
from kubectl_istio_udp.model.gatewayapi import (
    CONTROLLER_NAME,
    MIRRORED_ROUTES,
    ApiGateway,
    GatewayClass,
    ParentRef,
    ReferenceGrant,
    UdpRoute,
)
from kubectl_istio_udp.model.resources import API_GATEWAY
from kubectl_istio_udp.model.service import Service
from kubectl_istio_udp.sources.permission import Permission
from kubectl_istio_udp.sources.routes import (
    Attachment,
    Backends,
    RouteOptions,
    attach,
    attached,
    resolve,
    route_options,
)
from tests.support import builders
from tests.support.routes import (
    GROUP,
    backend,
    gateway,
    gateway_class,
    grant,
    listener,
    route,
)

NOW, LATER = "2026-02-03T04:05:06Z", "2026-02-03T04:06:07Z"
LABELS = {"team": {"tier": "a"}, "other": {"tier": "b"}}
UDP_ROUTE = {"group": GROUP, "kind": "UDPRoute"}
HTTP_ROUTE = {"group": GROUP, "kind": "HTTPRoute"}


def parent(**more: Any) -> dict[str, Any]:
    return {"group": GROUP, "kind": "Gateway", "name": "udp", **more}


# -- attachment -------------------------------------------------------------------------------

TWO = [listener("a", 5300), listener("b", 5301)]


def selecting(**selector: Any) -> list[Any]:
    """A listener for the namespaces that a selector selects; None for no selector."""
    return [listener(namespaces={"from": "Selector", **selector})]


def expression(operator: str, *values: str, key: str = "absent") -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


ATTACHMENTS: dict[str, Any] = {
    # Traps 4 to 6 of the Gateway API: allowedRoutes and parentRefs.
    "no section and no port: every listener": (TWO, {}, "team", ("a", "b"), "Accepted"),
    "a section": (TWO, {"sectionName": "b"}, "team", ("b",), "Accepted"),
    "a port": (TWO, {"port": 5300}, "team", ("a",), "Accepted"),
    "both": (TWO, {"sectionName": "b", "port": 5301}, "team", ("b",), "Accepted"),
    "both must fit": (TWO, {"sectionName": "b", "port": 5300}, "team", (), "NoMatchingParent"),
    "no such section": (TWO, {"sectionName": "c"}, "team", (), "NoMatchingParent"),
    "no such port": (TWO, {"port": 1}, "team", (), "NoMatchingParent"),
    "Same is the default": ([listener()], {}, "other", (), "NotAllowedByListeners"),
    "Same": ([listener(from_="Same")], {}, "team", ("dns",), "Accepted"),
    "All": ([listener(from_="All")], {}, "other", ("dns",), "Accepted"),
    "None": ([listener(from_="None")], {}, "team", (), "NotAllowedByListeners"),
    "a value that a later version may have": (
        [listener(from_="Some")],
        {},
        "team",
        (),
        "NotAllowedByListeners",
    ),
    "Selector": (
        [
            listener(
                namespaces={"from": "Selector", "selector": {"matchLabels": {"tier": "b"}}},
            )
        ],
        {},
        "other",
        ("dns",),
        "Accepted",
    ),
    "Selector, other labels": (
        [
            listener(
                namespaces={
                    "from": "Selector",
                    "selector": {
                        "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["b"]}]
                    },
                },
            )
        ],
        {},
        "other",
        (),
        "NotAllowedByListeners",
    ),
    "Selector, a namespace that is not known": (
        [listener(namespaces={"from": "Selector", "selector": {}})],
        {},
        "gone",
        (),
        "NotAllowedByListeners",
    ),
    # As in Kubernetes (LabelSelectorAsSelector): no selector selects nothing, {} everything.
    "Selector without a selector": (selecting(), {}, "other", (), "NotAllowedByListeners"),
    "Selector with null": (selecting(selector=None), {}, "team", (), "NotAllowedByListeners"),
    "Selector with a list": (selecting(selector=[]), {}, "other", (), "NotAllowedByListeners"),
    "Selector for all": (selecting(selector={}), {}, "other", ("dns",), "Accepted"),
    "Selector, label is absent": (
        selecting(selector=expression("DoesNotExist")),
        {},
        "other",
        ("dns",),
        "Accepted",
    ),
    "Selector, unknown operator": (
        selecting(selector=expression("Absent")),
        {},
        "other",
        (),
        "NotAllowedByListeners",
    ),
    "Selector, NotIn without values": (
        selecting(selector=expression("NotIn")),
        {},
        "other",
        (),
        "NotAllowedByListeners",
    ),
    "kinds": ([listener(kinds=[UDP_ROUTE])], {}, "team", ("dns",), "Accepted"),
    "another kind": ([listener(kinds=[HTTP_ROUTE])], {}, "team", (), "NotAllowedByListeners"),
    "a TLS listener": (
        [listener("tls", 443, "TLS")],
        {"sectionName": "tls"},
        "team",
        (),
        "NotAllowedByListeners",
    ),
    "one of two that takes it": (
        [listener("a", 5300, from_="None"), listener("b", 5301)],
        {},
        "team",
        ("b",),
        "Accepted",
    ),
}


@pytest.mark.parametrize("row", ATTACHMENTS)
def test_attachment(row: str) -> None:
    listeners, ref, namespace, names, reason = ATTACHMENTS[row]
    found = ApiGateway.from_object(gateway(*listeners))
    wanted = UdpRoute.from_object(
        route(namespace=namespace, parents=[parent(namespace="team", **ref)])
    )
    decided = attach(wanted, wanted.parents[0], found, LABELS.get)
    assert (decided.listeners, decided.reason) == (names, reason)
    assert decided.accepted == bool(names) and bool(decided.message) == (not names)


def test_a_parent_without_a_namespace_is_in_the_route_s() -> None:
    there, other = parent(), parent(namespace="other")
    refs = UdpRoute.from_object(route(parents=[there, other])).parents
    assert [ref.is_gateway(("team", "udp")) for ref in refs] == [True, False]
    service = {"group": "", "kind": "Service", "name": "udp"}
    assert not UdpRoute.from_object(route(parents=[service])).parents[0].is_gateway(("team", "udp"))


def test_the_oldest_route_is_first_and_all_are_attached() -> None:
    """Trap 9: those that get nothing count too. Of the same age the name decides."""
    old = route(name="z", created="2026-01-01T00:00:00Z")
    young, younger = route(name="b"), route(name="a", created="2026-03-01T00:00:00Z")
    two = route(
        name="both", created="2026-05-01T00:00:00Z", parents=[parent(), parent(sectionName="dns")]
    )
    elsewhere = route(name="c", parents=[parent(name="other")])
    for order in itertools.permutations([old, young, younger, two, elsewhere]):
        routes = [UdpRoute.from_object(each) for each in order]
        found = attached(ApiGateway.from_object(gateway()), routes, LABELS.get)
        assert [each.about.name for each in found["dns"]] == ["z", "b", "a", "both"]


def test_routes_of_the_same_age_are_ordered_by_namespace_and_name_as_one_text() -> None:
    """The API says: in alphabetical order by `{namespace}/{name}`."""
    routes = [UdpRoute.from_object(route(namespace=space)) for space in ("a", "a-b", "a0")]
    to_team = ParentRef.from_object(parent(), "team")
    wide = ApiGateway.from_object(gateway(listener(from_="All"), namespace="team"))
    routes = [replace(each, parents=(to_team,)) for each in routes]
    found = attached(wide, routes, LABELS.get)["dns"]
    assert [each.about.namespace for each in found] == ["a-b", "a", "a0"]


# -- backends ---------------------------------------------------------------------------------

SERVICES = [
    builders.service(namespace="team", ports=[builders.udp(53), builders.tcp(80)]),
    builders.service("foreign", namespace="apps"),
    builders.service("name", namespace="team", type="ExternalName", externalName="example.com"),
]
TO_FOREIGN = {"group": "", "kind": "Service", "name": "foreign"}
FOREIGN = backend("foreign", namespace="apps")
BACKENDS = {
    # Traps 1 to 3: grants, reasons, weights.
    "one": ([backend()], [], [("coredns", 1)], 0, "ResolvedRefs"),
    "its group and kind said": (
        [backend(group="", kind="Service")],
        [],
        [("coredns", 1)],
        0,
        "ResolvedRefs",
    ),
    "weight 0": ([backend(weight=0)], [], [], 0, "ResolvedRefs"),
    "weights": ([backend(weight=70)], [], [("coredns", 70)], 0, "ResolvedRefs"),
    "twice the same": (
        [backend(weight=1), backend(weight=2)],
        [],
        [("coredns", 3)],
        0,
        "ResolvedRefs",
    ),
    "no such Service": ([backend("gone", weight=3)], [], [], 3, "BackendNotFound"),
    "no such Service, weight 0": ([backend("gone", weight=0)], [], [], 0, "BackendNotFound"),
    "no such port": ([backend(port=54)], [], [], 1, "BackendNotFound"),
    "no port": ([backend(port=None)], [], [], 1, "BackendNotFound"),
    "a TCP port": ([backend(port=80)], [], [], 1, "UnsupportedProtocol"),
    "an ExternalName": ([backend("name")], [], [], 1, "UnsupportedProtocol"),
    "another kind": ([backend(kind="Pod")], [], [], 1, "InvalidKind"),
    "another group": ([backend(group="example.com")], [], [], 1, "InvalidKind"),
    "the first problem is told, the rest goes on": (
        [backend(weight=70), backend("gone", weight=10), backend(kind="Pod", weight=20)],
        [],
        [("coredns", 70)],
        30,
        "BackendNotFound",
    ),
    "no grant": ([FOREIGN], [], [], 1, "RefNotPermitted"),
    "no grant and no such Service: no hint whether it exists": (
        [backend("gone", namespace="apps")],
        [],
        [],
        1,
        "RefNotPermitted",
    ),
    "a grant": ([FOREIGN], [grant()], [("foreign", 1)], 0, "ResolvedRefs"),
    "a grant for this Service": (
        [FOREIGN],
        [grant(TO_FOREIGN)],
        [("foreign", 1)],
        0,
        "ResolvedRefs",
    ),
    "a grant for another Service": (
        [FOREIGN],
        [grant({**TO_FOREIGN, "name": "x"})],
        [],
        1,
        "RefNotPermitted",
    ),
    "a grant for Secrets": (
        [FOREIGN],
        [grant({"group": "", "kind": "Secret"})],
        [],
        1,
        "RefNotPermitted",
    ),
    "a grant to another namespace": (
        [FOREIGN],
        [grant(origin="other")],
        [],
        1,
        "RefNotPermitted",
    ),
    "a grant to TCPRoutes": ([FOREIGN], [grant(kind="TCPRoute")], [], 1, "RefNotPermitted"),
    "a grant of another namespace": (
        [FOREIGN],
        [grant(namespace="team")],
        [],
        1,
        "RefNotPermitted",
    ),
}


@pytest.mark.parametrize("row", BACKENDS)
def test_backends(row: str) -> None:
    refs, grants, backends, dropped, reason = BACKENDS[row]
    services = {(s.namespace, s.name): s for s in map(Service.from_object, SERVICES)}
    found = resolve(
        UdpRoute.from_object(route(*refs)),
        lambda namespace, name: services.get((namespace, name)),
        [ReferenceGrant.from_object(each) for each in grants],
    )
    assert [(each.service[1], each.weight) for each in found.backends] == backends
    assert (found.dropped, found.reason) == (dropped, reason)
    assert found.resolved == (not found.message)


def test_a_reference_without_a_port_says_so() -> None:
    """CRDs without CEL rules allow it."""
    find = {("team", "dns"): Service.from_object(builders.service("dns", namespace="team"))}
    found = resolve(
        UdpRoute.from_object(route(backend("dns", port=None))),
        lambda namespace, name: find.get((namespace, name)),
        [],
    )
    assert found.reason == "BackendNotFound"
    assert found.message == "the reference to Service team/dns does not name a port"


# -- conditions -------------------------------------------------------------------------------


def of(there: list[Any], *said: ApiCondition, generation: int = 1, now: str = NOW) -> list[Any]:
    return conditions.merged_conditions(there, said, generation, now)


def test_a_condition_s_time_changes_with_its_status_only() -> None:
    """Trap 8."""
    first = of([], ApiCondition("Accepted", True, "Accepted"))
    assert first[0]["lastTransitionTime"] == NOW
    again = of(first, ApiCondition("Accepted", True, "Other", "words"), now=LATER)
    assert again[0]["lastTransitionTime"] == NOW and again[0]["reason"] == "Other"
    changed = of(again, ApiCondition("Accepted", False, "Other", "words"), now=LATER)
    assert changed[0]["lastTransitionTime"] == LATER


def test_conditions_of_the_crd_are_replaced_and_foreign_ones_stay() -> None:
    """Traps 7 and 15: Unknown/Pending without observedGeneration is what the CRD puts there."""
    usual = {"type": "Accepted", "status": "Unknown", "reason": "Pending", "message": "wait"}
    foreign = {"type": "example.com/Ready", "status": "True", "reason": "x", "message": ""}
    found = of([usual, foreign], ApiCondition("Accepted", True, "Accepted"), generation=7)
    assert [each["type"] for each in found] == ["Accepted", "example.com/Ready"]
    assert found[0]["observedGeneration"] == 7 and found[1] == foreign


def test_a_new_generation_is_reported_even_if_nothing_else_changes() -> None:
    found = of(
        of([], ApiCondition("Accepted", True, "Accepted")),
        ApiCondition("Accepted", True, "Accepted"),
    )
    bumped = of(found, ApiCondition("Accepted", True, "Accepted"), generation=2, now=LATER)
    assert bumped[0]["observedGeneration"] == 2 and bumped[0]["lastTransitionTime"] == NOW


def test_no_more_conditions_are_written_than_the_api_allows() -> None:
    """Eight; those of others stay, and the last ones are left out, also if they were there."""
    foreign = [
        {"type": f"example.com/{n}", "status": "True", "reason": "x", "message": ""}
        for n in range(6)
    ]
    said = [ApiCondition(kind, True, "x") for kind in ("Accepted", "Programmed", "Mirrored")]
    found = of([*foreign[:5], *of([], said[2]), foreign[5]], *said)
    assert [each["type"] for each in found] == [
        *(each["type"] for each in foreign),
        *("Accepted", "Programmed"),
    ]
    assert of(foreign, *said) == found
    full = [*foreign, *of([], ApiCondition("a", True, "x"), ApiCondition("b", True, "x"))]
    assert of(full, *said) == full


# -- the status of a GatewayClass, a route, a Gateway -----------------------------------------


KINDS = frozenset({API_GATEWAY, "ReferenceGrant", "UDPRoute", *MIRRORED_ROUTES})


def test_the_features_of_a_class_are_sorted() -> None:
    """Traps 12 and 14."""
    status = conditions.class_status(gateway_class(), KINDS, NOW)
    names = [each["name"] for each in status["supportedFeatures"]]
    assert names == sorted(names) and {"Gateway", "ReferenceGrant", "UDPRoute"} < set(names)
    assert status["conditions"][0]["status"] == "True"
    manifest = {**gateway_class(), "status": status}
    fewer = conditions.class_status(manifest, KINDS - {"TLSRoute", "GRPCRoute"}, NOW)
    assert [each["name"] for each in fewer["supportedFeatures"]] == [
        *("Gateway", "HTTPRoute", "ReferenceGrant", "UDPRoute")
    ]
    assert conditions.class_status(manifest, KINDS, LATER) == status
    bad = gateway_class(parametersRef={"group": "", "kind": "ConfigMap", "name": "x"})
    assert (
        conditions.class_status(bad, KINDS, NOW)["conditions"][0]["reason"] == "InvalidParameters"
    )
    assert not GatewayClass.from_object(gateway_class(controller="example.com/x")).is_served


GOOD = (Attachment(("dns",), "Accepted", ""), Backends(()))
BAD = (Attachment((), "NoMatchingParent", "no"), Backends((), 1, "BackendNotFound", "no"))
THEIRS = {"parentRef": parent(), "controllerName": "example.com/c", "conditions": []}


def reports(manifest: dict[str, Any], *verdicts: tuple[Attachment, Backends]) -> list[ParentReport]:
    parents = UdpRoute.from_object(manifest).parents
    return [ParentReport(ref, *verdict) for ref, verdict in zip(parents, verdicts, strict=True)]


def test_a_route_has_one_entry_for_each_parent() -> None:
    manifest = route(parents=[parent(), parent(sectionName="dns")])
    found = conditions.route_status(manifest, reports(manifest, GOOD, BAD), NOW)["parents"]
    assert [each["parentRef"] for each in found] == manifest["spec"]["parentRefs"]
    assert {each["controllerName"] for each in found} == {CONTROLLER_NAME}
    said = [[(c["type"], c["status"], c["reason"]) for c in each["conditions"]] for each in found]
    assert said == [
        [("Accepted", "True", "Accepted"), ("ResolvedRefs", "True", "ResolvedRefs")],
        [("Accepted", "False", "NoMatchingParent"), ("ResolvedRefs", "False", "BackendNotFound")],
    ]
    assert all(c["observedGeneration"] == 1 for each in found for c in each["conditions"])


def test_entries_of_other_controllers_stay_and_own_ones_go_with_their_parent() -> None:
    """Trap 15, and the atomic list: what others wrote is written back as it was."""
    manifest = route(parents=[parent(), parent(sectionName="dns")])
    manifest["status"] = conditions.route_status(manifest, reports(manifest, GOOD, GOOD), NOW)
    manifest["status"]["parents"].insert(1, THEIRS)
    fewer = copy.deepcopy(manifest)
    del fewer["spec"]["parentRefs"][0]
    found = conditions.route_status(fewer, reports(fewer, GOOD), LATER)["parents"]
    assert found == [THEIRS, manifest["status"]["parents"][2]]
    assert conditions.route_status(fewer, [], LATER)["parents"] == [THEIRS]


def test_a_route_s_status_that_is_right_is_not_changed() -> None:
    manifest = route()
    manifest["status"] = conditions.route_status(manifest, reports(manifest, GOOD), NOW)
    before = copy.deepcopy(manifest)
    assert conditions.route_status(manifest, reports(manifest, GOOD), LATER) == before["status"]
    assert manifest == before


def test_refused_endpoints_stay_reported_until_they_are_known_again() -> None:
    """By a new leader, which has not decided anything yet."""
    manifest = route()
    (report,) = reports(manifest, GOOD)

    def of(refused: str | None, now: str) -> list[str]:
        known = replace(report, refused=refused)
        manifest["status"] = conditions.route_status(manifest, [known], now)
        (entry,) = manifest["status"]["parents"]
        return [each["lastTransitionTime"] for each in entry["conditions"]]

    assert of("Service team/dns: 192.0.2.1", NOW) == [NOW] * 3
    assert of(None, LATER) == [NOW] * 3
    assert of("", LATER) == [NOW] * 2
    assert of(None, LATER) == [NOW] * 2


DONE = Progress(addresses=(("IPAddress", "10.0.0.1"),))
TAKEN = Unavailable("taken", conflicts=True)
NOT_YET = ("Pending", "no listener yet")
HTTP = listener("web", 80, "HTTP")
GATEWAYS: dict[str, Any] = {
    # The Gateway's Accepted and Programmed with their reasons, then each listener's.
    "served": (
        [listener()],
        {},
        DONE,
        ("Accepted", "Programmed"),
        [("Accepted", "Programmed", "ResolvedRefs", "NoConflicts")],
    ),
    "not yet": (
        [listener()],
        {},
        Progress(lacking={"dns": NOT_YET}),
        ("Accepted", "!Pending"),
        [("Accepted", "!Pending", "ResolvedRefs", "NoConflicts")],
    ),
    "one of several": (
        [listener(), listener("b", 5301), listener("c", 5302)],
        {},
        replace(DONE, lacking={"b": NOT_YET, "c": ("Invalid", "rejected")}),
        # The Gateway is programmed when all its listeners are; a rejected one is worse.
        ("Accepted", "!Invalid"),
        [
            ("Accepted", "Programmed", "ResolvedRefs", "NoConflicts"),
            ("Accepted", "!Pending", "ResolvedRefs", "NoConflicts"),
            ("Accepted", "!Invalid", "ResolvedRefs", "NoConflicts"),
        ],
    ),
    "one whose port is taken too": (
        [listener(), listener("b", 5301)],
        {},
        replace(DONE, unavailable={"b": TAKEN}, lacking={"b": NOT_YET}),
        ("ListenersNotValid", "Programmed"),
        [
            ("Accepted", "Programmed", "ResolvedRefs", "NoConflicts"),
            ("!PortUnavailable", "!Invalid", "ResolvedRefs", "!!PortUnavailable"),
        ],
    ),
    "its own gateway cannot be written": (
        [listener()],
        {},
        replace(DONE, obstacle=("NoResources", "no")),
        ("Accepted", "!NoResources"),
        [("Accepted", "Programmed", "ResolvedRefs", "NoConflicts")],
    ),
    # Trap 13: the listeners are there, and clients have no address.
    "no address": (
        [listener()],
        {},
        Progress(),
        ("Accepted", "!AddressNotAssigned"),
        [("Accepted", "Programmed", "ResolvedRefs", "NoConflicts")],
    ),
    "an HTTP listener alone": (
        [HTTP],
        {},
        DONE,
        ("!ListenersNotValid", "!Invalid"),
        [("!UnsupportedProtocol", "!Invalid", "ResolvedRefs", "NoConflicts")],
    ),
    "an HTTP listener beside a good one": (
        [HTTP, listener()],
        {},
        DONE,
        ("ListenersNotValid", "Programmed"),
        [
            ("!UnsupportedProtocol", "!Invalid", "ResolvedRefs", "NoConflicts"),
            ("Accepted", "Programmed", "ResolvedRefs", "NoConflicts"),
        ],
    ),
    "kinds that it cannot take": (
        [listener(kinds=[UDP_ROUTE, HTTP_ROUTE])],
        {},
        DONE,
        ("Accepted", "Programmed"),
        [("Accepted", "Programmed", "!InvalidRouteKinds", "NoConflicts")],
    ),
    # Trap 11.
    "a port that another Gateway has": (
        [listener(), listener("b", 5301)],
        {},
        replace(DONE, unavailable={"b": TAKEN}),
        ("ListenersNotValid", "Programmed"),
        [
            ("Accepted", "Programmed", "ResolvedRefs", "NoConflicts"),
            ("!PortUnavailable", "!Invalid", "ResolvedRefs", "!!PortUnavailable"),
        ],
    ),
    "its parameters name nothing": (
        [listener()],
        {},
        Progress(("InvalidParameters", "no")),
        ("!InvalidParameters", "!Invalid"),
        [("Accepted", "!Pending", "ResolvedRefs", "NoConflicts")],
    ),
    # Nobody decides about the HTTP listener, for which there is no Gateway of class istio.
    "not accepted, with an HTTP listener": (
        [listener("web", 80, "HTTP", kinds=[HTTP_ROUTE])],
        {},
        Progress(("InvalidParameters", "no")),
        ("!InvalidParameters", "!Invalid"),
        [("?Pending", "!Pending", "ResolvedRefs", "NoConflicts")],
    ),
}


def reasons(found: list[dict[str, Any]], *wrong: Any) -> tuple[str, ...]:
    """The reasons of conditions: `!` is False, `?` Unknown; Conflicted the other way around."""
    of_conflict = {("Conflicted", "True"): "!!", ("Conflicted", "False"): ""}
    signs = {"True": "", "False": "!", "Unknown": "?"}
    return tuple(
        of_conflict.get((c["type"], c["status"]), signs[c["status"]]) + c["reason"] for c in found
    )


@pytest.mark.parametrize("row", GATEWAYS)
def test_gateway_status(row: str) -> None:
    listeners, attached_routes, progress, expected, of_listeners = GATEWAYS[row]
    manifest = gateway(*listeners)
    status = conditions.gateway_status(manifest, attached_routes, progress, NOW)
    assert reasons(status["conditions"]) == expected
    assert [reasons(each["conditions"]) for each in status["listeners"]] == of_listeners
    manifest["status"] = status
    assert conditions.gateway_status(manifest, attached_routes, progress, LATER) == status


def test_a_listener_reports_its_kinds_and_counts_its_routes() -> None:
    """Traps 9 and 10: 0, the group and an empty list are written."""
    listeners = [listener(), listener("b", 1, kinds=[HTTP_ROUTE]), HTTP]
    status = conditions.gateway_status(gateway(*listeners), {"dns": 2}, DONE, NOW)
    assert [each["attachedRoutes"] for each in status["listeners"]] == [2, 0, 0]
    assert [each["supportedKinds"] for each in status["listeners"]] == [[UDP_ROUTE], [], []]
    assert status["addresses"] == [{"type": "IPAddress", "value": "10.0.0.1"}]


def test_foreign_conditions_of_gateways_and_listeners_stay() -> None:
    foreign = {"type": "example.com/Ready", "status": "True", "reason": "x", "message": ""}
    manifest = gateway(listener(), listener("b", 5301))
    manifest["status"] = {
        "conditions": [foreign],
        "listeners": [{"name": "b", "conditions": [foreign]}, {"name": "gone", "conditions": []}],
        "addresses": [{"type": "IPAddress", "value": "10.9.9.9"}],
        "attachedListenerSets": 0,
    }
    status = conditions.gateway_status(manifest, {}, Progress(), NOW)
    assert foreign in status["conditions"] and foreign in status["listeners"][1]["conditions"]
    assert [each["name"] for each in status["listeners"]] == ["dns", "b"]
    assert "addresses" not in status and status["attachedListenerSets"] == 0


PREFIX = "kubectl-istio-udp/"
SOME = Permission.parse({}, {})


@pytest.mark.parametrize(
    ("notes", "of_gateway", "expected"),
    [
        ({}, {"idle-timeout": "5m"}, None),
        ({"idle-timeout": "2m"}, {}, Options(idle_timeout=Duration(120))),
        (
            {"affinity": "source-ip"},
            {"idle-timeout": "2m"},
            Options(
                idle_timeout=Duration(120),
                affinity=Affinity.SOURCE_IP,
                load_balancing=LoadBalancing.MAGLEV,
            ),
        ),
        # The default of the load balancing follows the affinity, whichever object names it.
        (
            {"affinity": "none", "max-datagram-size": "1400"},
            {"affinity": "source-ip"},
            Options(max_datagram_size=1400),
        ),
    ],
)
def test_the_settings_of_a_route(
    notes: dict[str, str], of_gateway: dict[str, str], expected: Options | None
) -> None:
    found = settings(notes, of_gateway)
    assert found == RouteOptions(expected)


@pytest.mark.parametrize(
    ("notes", "of_gateway", "said", "malformed"),
    [
        ({"idle-timeout": "soon"}, {}, "idle-timeout", True),
        ({"affinty": "source-ip"}, {}, "unknown annotation kubectl-istio-udp/affinty", True),
        (
            {"max-sessions": "9"},
            {},
            "annotation kubectl-istio-udp/max-sessions does not apply to this kind of object; "
            "supported: kubectl-istio-udp/idle-timeout, ",
            True,
        ),
        ({"gateway": "a/b"}, {}, "kubectl-istio-udp/gateway does not apply", True),
        ({"affinity": "source-ip"}, {"load-balancing": "random"}, "cannot be combined", True),
        ({"session-log": "true"}, {}, "a session log is not allowed", False),
        ({"idle-timeout": "20h"}, {}, "allow-idle-timeout", False),
    ],
)
def test_settings_that_a_route_cannot_have(
    notes: dict[str, str], of_gateway: dict[str, str], said: str, malformed: bool
) -> None:
    found = settings(notes, of_gateway)
    assert found.options is None and said in found.problem
    assert found.malformed is malformed


def settings(notes: dict[str, str], of_gateway: dict[str, str]) -> RouteOptions:
    asked, shared = (
        {PREFIX + name: value for name, value in each.items()} for each in (notes, of_gateway)
    )
    return route_options(
        UdpRoute.from_object(route(annotations=asked)),
        ApiGateway.from_object(gateway(annotations=shared)),
        SOME,
    )


def test_settings_that_do_not_apply_are_a_condition_until_they_do() -> None:
    manifest = route()
    parent = UdpRoute.from_object(manifest).parents[0]
    taken = Attachment(("dns",), "Accepted", "")
    bad = conditions.ParentReport(parent, taken, Backends(()), "no such value")
    manifest["status"] = conditions.route_status(manifest, [bad], NOW)
    found = manifest["status"]["parents"][0]["conditions"]
    assert reasons(found) == ("Accepted", "ResolvedRefs", "UnsupportedValue")
    assert found[2]["message"].startswith("Fall Back: no such value")
    good = conditions.ParentReport(parent, taken, Backends(()))
    found = conditions.route_status(manifest, [good], LATER)["parents"][0]["conditions"]
    assert reasons(found) == ("Accepted", "ResolvedRefs")


def test_a_route_that_is_not_accepted_is_not_partially_invalid() -> None:
    """The API allows that for accepted routes only."""
    manifest = route()
    parent = UdpRoute.from_object(manifest).parents[0]
    report = conditions.ParentReport(parent, *BAD, options_problem="x", dropped_rules=1)
    found = conditions.route_status(manifest, [report], NOW)["parents"][0]["conditions"]
    assert [each["type"] for each in found] == ["Accepted", "ResolvedRefs"]
