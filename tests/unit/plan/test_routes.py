"""The exposure of a Gateway: listeners with weighted backends become ports, entries, objects."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.endpointrules import EndpointRules
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.exposure import (
    Affinity,
    Discovery,
    Exposure,
    ExposureSpec,
    LoadBalancing,
    Options,
)
from kubectl_istio_udp.model.request import ExposeRequest
from kubectl_istio_udp.model.service import EndpointSlice, Service
from kubectl_istio_udp.plan.exposure import ServiceState
from kubectl_istio_udp.plan.routes import RoutePlan, plan_routes
from kubectl_istio_udp.plan.sessions import SessionRoom
from kubectl_istio_udp.render.envoyfilter import envoy_filter
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.sources.routes import Backends, WeightedBackend
from tests.support import builders

A, B, C = ("team", "a"), ("team", "b"), ("apps", "c")
REQUEST = ExposeRequest(
    "team", "", name="udp-gw-1", discovery=Discovery.ENDPOINTS, options=Options(max_sessions=100)
)
SNAPSHOT = builders.snapshot_of(builders.cluster(), secret="gateway's")


def state(of: tuple[str, str], rules: EndpointRules | None = None) -> ServiceState:
    """A Service with one pod, whose address has its name's letter."""
    namespace, name = of
    manifest = builders.service(name, namespace=namespace)
    manifest["metadata"]["uid"] = f"uid-{name}"
    address = f"10.0.0.{ord(name)}"
    listed = builders.endpoint_slice(builders.endpoint(address), of=name, namespace=namespace)
    slices = (EndpointSlice.from_object(listed),)
    return ServiceState(Service.from_object(manifest), slices, rules or EndpointRules(), of)


def step(
    *ports: tuple[int, dict[tuple[str, str], int]], before: ExposureSpec | None = None, **more: Any
) -> RoutePlan:
    """The next step for listeners, each with the weights of its backends."""
    asked = [
        (number, Backends(tuple(WeightedBackend(of, 53, w) for of, w in weights.items())))
        for number, weights in ports
    ]
    named = {of for _, weights in ports for of in weights}
    former = (before.services if before else frozenset()) - more.get("gone", set())
    states = {of: state(of, more.get("rules")) for of in named | former}
    snapshot = replace(SNAPSHOT, before=before, exposures=(before,) if before else ())
    return plan_routes(
        REQUEST, asked, states, snapshot, SessionRoom(None, lambda: 0), more.get("options", {})
    )


def planned(
    *ports: tuple[int, dict[tuple[str, str], int]], before: ExposureSpec | None = None, **more: Any
) -> Exposure:
    """The planned steps of listeners."""
    while True:
        found = step(*ports, before=before, **more)
        if found.complete:
            return found.exposure
        before = found.exposure.spec


def entries(spec: ExposureSpec) -> dict[tuple[str, str] | None, Any]:
    return {entry.service: entry for entry in spec.entries}


def test_each_service_has_an_entry_of_its_own_in_the_gateway_s_namespace() -> None:
    spec = planned((5300, {A: 1, C: 1})).spec
    found = entries(spec)
    assert set(found) == {A, C}
    assert {entry.namespace for entry in spec.entries} == {"istio-system"}
    for field in ("name", "host", "addresses"):
        assert len({getattr(entry, field) for entry in spec.entries}) == 2
    services = {spec.eds_service(backend) for backend in spec.backends}
    assert services == {f"outbound|53||{entry.host}" for entry in spec.entries}


def test_entries_stay_whatever_comes_and_goes_beside_them() -> None:
    """A gateway's cluster keeps its endpoint list, so its sessions go on."""
    first = planned((5300, {A: 70, B: 30})).spec
    swapped = planned((5300, {B: 90, A: 10}), before=first).spec
    assert entries(swapped) == entries(first)
    assert swapped.cluster_names == first.cluster_names
    more = planned((5300, {C: 1, A: 1, B: 1}), before=swapped).spec
    assert {of: entries(more)[of] for of in (A, B)} == entries(first)
    assert len({entry.name for entry in more.entries}) == 3
    without_first = planned((5300, {C: 1, B: 1}), before=more).spec
    assert entries(without_first) == {of: entries(more)[of] for of in (B, C)}


def test_more_backends_than_a_spec_can_hold_are_refused() -> None:
    """What is written must be readable again."""
    backends = {("team", chr(97 + number)): 1 for number in range(26)}
    spec = planned(*((port, backends) for port in range(5300, 5335))).spec
    assert ExposureSpec.from_json(spec.to_json()) == spec
    with pytest.raises(UsageError, match="1664 backends at 64 listeners, more than one Gateway"):
        planned(*((port, backends) for port in range(5300, 5364)))


class Unread:
    """The addresses of pods, which nothing may read."""

    def __contains__(self, address: object) -> bool:
        raise AssertionError("endpoints are read")


def test_no_endpoints_are_read_of_a_request_that_is_refused() -> None:
    """512 backends with 1,000 endpoints each took 22 s."""
    backends = {("team", chr(97 + number)): 1 for number in range(26)}
    with pytest.raises(UsageError, match="more than one Gateway can hold"):
        planned(
            *((port, backends) for port in range(5300, 5364)), rules=EndpointRules(pods=Unread())
        )


def weights(spec: ExposureSpec) -> dict[str, int]:
    return {backend.service[1]: backend.weight for backend in spec.backends if backend.service}


def test_a_cluster_comes_before_its_clients_and_goes_after_them() -> None:
    """Envoy gets clusters before listeners: what a listener sends to must be there."""
    before = planned((5300, {A: 1})).spec
    steps = []
    while True:
        found = step((5300, {B: 2, C: 3}), before=before)
        steps.append((weights(found.exposure.spec), found.complete))
        if found.complete:
            break
        before = found.exposure.spec
    assert steps == [
        ({"a": 1, "b": 0, "c": 0}, False),
        ({"b": 2, "c": 3, "a": 0}, False),
        ({"b": 2, "c": 3}, True),
    ]


def test_a_step_that_adds_a_cluster_leaves_the_listener_as_it_is() -> None:
    before = planned((5300, {A: 1, C: 1}))
    after = step((5300, {A: 5, B: 1}), before=before.spec).exposure
    listeners = [
        patch["patch"]["value"]
        for each in (before, after)
        for patch in envoy_filter(each)["spec"]["configPatches"]
        if patch["applyTo"] == "LISTENER"
    ]
    assert listeners[0] == listeners[1]


def test_what_has_no_clients_yet_changes_at_once() -> None:
    nothing = planned((5300, {})).spec
    assert step((5300, {A: 1, B: 1}), before=nothing).complete
    assert step((5300, {A: 1}), before=planned((5301, {A: 1})).spec).complete


def test_weights_alone_change_at_once() -> None:
    found = step((5300, {A: 1, B: 9}), before=planned((5300, {A: 9, B: 1})).spec)
    assert found.complete and weights(found.exposure.spec) == {"a": 1, "b": 9}


def test_a_service_that_is_gone_is_not_waited_for() -> None:
    before = planned((5300, {A: 3, B: 1})).spec
    found = step((5300, {B: 1}), before=before, gone={A})
    assert found.complete and weights(found.exposure.spec) == {"b": 1}
    first = step((5300, {B: 1, C: 1}), before=before, gone={A}).exposure.spec
    assert weights(first) == {"b": 1, "c": 0} and first.ports[0].dropped == 3


def test_a_step_reserves_no_more_sessions_than_its_backends_with_clients() -> None:
    before = planned((5300, {A: 1})).spec
    for found in (step((5300, {B: 1}), before=before).exposure.spec, before):
        assert found.sessions == found.options.max_sessions


def test_one_service_behind_two_listeners_has_one_entry() -> None:
    spec = planned((5300, {A: 1}), (5301, {A: 1, B: 1})).spec
    assert set(entries(spec)) == {A, B}
    assert len(spec.cluster_names) == 3


def test_endpoints_are_those_that_the_service_s_own_namespace_may_have() -> None:
    exposure = planned((5300, {A: 1}), rules=EndpointRules(pods=()))
    assert [exposure.ready_endpoints(backend) for backend in exposure.spec.backends] == [()]
    allowed = planned((5300, {A: 1}))
    assert [e.address for e in allowed.ready_endpoints(allowed.spec.backends[0])] == ["10.0.0.97"]


def test_low_ports_are_translated_and_reach_the_service_for_clients() -> None:
    exposure = planned((53, {A: 1}), (5300, {}))
    assert [port.listener_port for port in exposure.spec.ports] == [10053, 5300]
    service = writes(exposure)[-1].manifest
    assert service["kind"] == "Service"
    assert [(p["port"], p["targetPort"]) for p in service["spec"]["ports"]] == [
        (53, 10053),
        (5300, 5300),
    ]


def test_what_is_planned_survives_its_annotation() -> None:
    spec = planned((5300, {A: 70, C: 30}), (5301, {})).spec
    assert ExposureSpec.from_json(spec.to_json()) == spec


def test_the_settings_of_one_port() -> None:
    """They are rendered for this port alone, and are read again from the annotation."""
    own = Options(
        idle_timeout=Duration(300),
        max_datagram_size=1400,
        affinity=Affinity.SOURCE_IP,
        load_balancing=LoadBalancing.MAGLEV,
        session_log=True,
    )
    made = planned((5300, {A: 1, B: 1}), (5301, {A: 1, B: 1}), options={5300: own})
    (found,) = made.spec.port_options
    assert found.gateway_port == 5300
    # The sessions are those of the Gateway, which reserves them.
    assert found.options == replace(own, max_sessions=made.spec.options.max_sessions)
    assert ExposureSpec.from_json(made.spec.to_json()) == made.spec
    patches = envoy_filter(made)["spec"]["configPatches"]
    added = [p["patch"]["value"] for p in patches if "value" in p["patch"]]
    values = {each["name"]: each for each in added if "name" in each}
    proxies = [
        values[f"{made.spec.object_name}-{port}"]["listener_filters"][0]["typed_config"]
        for port in (5300, 5301)
    ]
    assert [each["idle_timeout"] for each in proxies] == ["300s", "10s"]
    assert [each.get("hash_policies") for each in proxies] == [[{"source_ip": True}], None]
    assert ["access_log" in each for each in proxies] == [True, False]
    assert ["SourceIPInput" in str(each["matcher"]) for each in proxies] == [True, False]
    policies = {
        value["lb_policy"]: name.partition(".")[0]
        for name, value in values.items()
        if "lb_policy" in value
    }
    assert policies == {
        "MAGLEV": f"{made.spec.object_name}-5300",
        "ROUND_ROBIN": f"{made.spec.object_name}-5301",
    }


def test_a_port_with_the_settings_of_its_gateway_has_none() -> None:
    made = planned((5300, {A: 1}), options={5300: Options()})
    assert made.spec.port_options == ()
