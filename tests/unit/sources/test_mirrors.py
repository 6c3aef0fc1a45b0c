"""Which parents of HTTP, GRPC, TLS and TCP routes the created Gateway decides about."""

from __future__ import annotations

import re
from typing import Any

import pytest

from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.gatewayapi import ApiGateway, Route
from kubectl_istio_udp.sources.gateways import child_key, clone_key, gateway_intent, needs_child
from kubectl_istio_udp.sources.mirrors import copied_parents, mirrored_parents
from tests.support.routes import gateway, listener, mirrored_route

WEB, DNS = listener("web", 80, "HTTP"), listener("dns", 53)
BOTH = [WEB, DNS]
CHILD = child_key(("team", "udp"))[1]
ROWS: dict[str, Any] = {
    # The listeners, the parentRef, and why the route's copy does not have it ("": it has).
    "every listener": (BOTH, {}, ""),
    "the one for HTTP": (BOTH, {"sectionName": "web"}, ""),
    "its port": (BOTH, {"port": 80}, ""),
    "the one for UDP": (BOTH, {"sectionName": "dns"}, "NotAllowedByListeners"),
    "the port of the one for UDP": (BOTH, {"port": 53}, "NotAllowedByListeners"),
    "no such listener": (BOTH, {"sectionName": "other"}, "NoMatchingParent"),
    "a section at another port": (BOTH, {"sectionName": "web", "port": 53}, "NoMatchingParent"),
    "UDP alone": ([DNS], {}, "NotAllowedByListeners"),
    "a protocol that nobody serves": (
        [listener("x", 1, "INVALID"), WEB],
        {"sectionName": "x"},
        "NotAllowedByListeners",
    ),
    "one port for two protocols": ([listener("t", 53, "TCP"), DNS], {"port": 53}, ""),
}


def parents_of(found: ApiGateway, ref: Any, child: bool = True) -> Any:
    route = mirrored_route(parents=[{"name": "udp", **ref}, {"name": "else"}])
    known = {found.key: found}
    return mirrored_parents(Route.from_object(route), known.get, lambda _: child)


@pytest.mark.parametrize("row", ROWS)
def test_parents(row: str) -> None:
    listeners, ref, reason = ROWS[row]
    (parent,) = parents_of(ApiGateway.from_object(gateway(*listeners)), ref)
    assert (parent.refusal.reason if parent.refusal else "") == reason
    route = Route.from_object(mirrored_route(parents=[{"name": "udp", **ref}]))
    copied = copied_parents(route, [parent], [], None) or ()
    assert [dict(each.raw) for each in copied] == ([] if reason else [{"name": CHILD, **ref}])


def test_a_gateway_that_names_one_serves_udp_alone() -> None:
    (parent,) = parents_of(ApiGateway.from_object(gateway(*BOTH)), {}, child=False)
    assert parent.refusal and parent.refusal.reason == "NotAllowedByListeners"


def test_which_gateways_need_a_created_one() -> None:
    def needs(*listeners: Any, **more: Any) -> bool:
        return needs_child(ApiGateway.from_object(gateway(*listeners, **more)))

    assert needs(WEB) and needs(DNS) and needs(*BOTH)
    assert not needs(listener("x", 1, "INVALID"))
    assert not needs(*BOTH, annotations={"kubectl-istio-udp/gateway": "istio-system/edge"})
    named = {"parametersRef": {"group": "", "kind": "Service", "name": "x"}}
    assert not needs(*BOTH, infrastructure=named)


def test_without_a_udp_listener_there_is_no_exposure() -> None:
    assert gateway_intent(ApiGateway.from_object(gateway(WEB)), may_own=True) is None
    both = gateway_intent(ApiGateway.from_object(gateway(*BOTH)), may_own=True)
    assert both is not None and both.udp_ports == (53,)


@pytest.mark.parametrize("mode", ["companion", "none"])
def test_all_listeners_of_a_created_gateway_have_its_addresses(mode: str) -> None:
    notes = {"kubectl-istio-udp/gateway-service": mode}
    with pytest.raises(UsageError, match=f"gateway-service: {mode} would give UDP another address"):
        gateway_intent(ApiGateway.from_object(gateway(*BOTH, annotations=notes)), may_own=True)
    # With UDP alone, or at an existing gateway, there is no other address.
    alone = gateway_intent(ApiGateway.from_object(gateway(DNS, annotations=notes)), may_own=True)
    assert alone is not None and alone.request.options.gateway_service.value == mode
    named = {**notes, "kubectl-istio-udp/gateway": "istio-system/edge"}
    assert gateway_intent(ApiGateway.from_object(gateway(*BOTH, annotations=named)), may_own=True)


def test_names_of_copies_are_dns_labels() -> None:
    long = ("team", ".".join(["a" * 60] * 4))
    for key in (clone_key(long), child_key(long)):
        assert len(key[1]) <= 63 and "." not in key[1]
    assert clone_key(("team", "a.b")) != clone_key(("team", "a-b"))


def test_a_created_gateway_has_a_name_that_a_service_may_have() -> None:
    """istiod names the Service after the Gateway, and its name must begin with a letter."""
    for name in ("5g-core", "1.2.3", "1" * 253):
        found = f"{child_key(('team', name))[1]}-istio"
        assert re.fullmatch("[a-z][-a-z0-9]{0,61}[a-z0-9]", found), found
    assert child_key(("team", "5g")) != child_key(("team", "gateway-5g"))
