"""Hosts, addresses and ports of an exposure's ServiceEntries."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.entries import (
    Entry,
    EntryIndex,
    EntryRequest,
    EntrySummary,
    is_reserved,
    plan_entries,
    same_host,
)
from kubectl_istio_udp.model.exposure import Discovery, ExposureSpec
from kubectl_istio_udp.model.ports import PortRequest
from kubectl_istio_udp.model.service import IPV4, IPV6
from tests.support.builders import cluster, endpoint, endpoint_slice, plan_of, service, udp

REQUEST = EntryRequest(
    key=("default", "coredns"),
    namespace="default",
    groups=[(53,)],
    gateway_namespace="istio-system",
    families=(IPV4,),
    secret="one/two",
    kept=(),
)
ISTIODS = [ipaddress.ip_network("240.240.0.0/16"), ipaddress.ip_network("2001:2::/48")]
SYSLOG = {"name": "udp-log", "port": 514, "protocol": "UDP"}
TWO_PORTS = service(ports=[udp(), udp(514, "udp-log")])


def only(request: EntryRequest) -> Entry:
    (entry,) = plan_entries(request)
    return entry


@given(st.text(), st.sampled_from([(IPV4,), (IPV6,), (IPV4, IPV6), ()]))
def test_addresses_are_reserved_and_not_istiods(secret: str, families: tuple[str, ...]) -> None:
    entry = only(replace(REQUEST, secret=secret, families=families))
    assert len(entry.addresses) == max(1, len(families))
    for text in entry.addresses:
        address = ipaddress.ip_address(text)
        assert is_reserved(text)
        assert address.is_reserved or address in ipaddress.ip_network("100::/64")
        assert not any(address in net for net in ISTIODS if net.version == address.version)
        assert text != "255.255.255.255"


@given(st.text(), st.text())
def test_the_host_depends_on_the_secret(one: str, other: str) -> None:
    hosts = [only(replace(REQUEST, secret=secret)).host for secret in (one, other)]
    assert (hosts[0] == hosts[1]) == (one == other)
    assert all(names.exposure_of_host(host) == ("default", "coredns") for host in hosts)
    assert only(replace(REQUEST, secret=one)).host == hosts[0]


def test_a_used_address_or_host_is_not_chosen() -> None:
    first = only(REQUEST)
    theirs = EntrySummary("lab", "x", (first.host,), first.addresses)
    second = only(replace(REQUEST, everywhere=EntryIndex.of([theirs])))
    assert second.host != first.host
    same_address = EntrySummary("lab", "x", addresses=first.addresses)
    third = only(replace(REQUEST, everywhere=EntryIndex.of([same_address])))
    assert third.host == first.host
    number = ipaddress.ip_address(first.addresses[0])
    assert third.addresses == (str(number + 1),)


def test_the_last_address_of_the_range_is_followed_by_its_first() -> None:
    taken = tuple(f"254.255.255.{number}" for number in range(256))
    for secret in map(str, range(50)):
        everywhere = EntryIndex.of([EntrySummary("x", "y", (), taken)])
        entry = only(replace(REQUEST, secret=secret, everywhere=everywhere))
        assert is_reserved(entry.addresses[0]) and entry.addresses[0] not in taken


def test_an_exposure_keeps_its_host_and_addresses() -> None:
    first = only(REQUEST)
    elsewhere = EntrySummary("default", first.name, (first.host,), first.addresses)
    again = replace(REQUEST, secret="other", kept=(first,), everywhere=EntryIndex.of([elsewhere]))
    assert only(again) == first
    both = only(replace(again, families=(IPV4, IPV6)))
    assert both.addresses[0] == first.addresses[0] and ":" in both.addresses[1]
    assert only(replace(again, families=(IPV6,), kept=(both,))) == both


def test_a_host_that_others_may_know_is_not_kept() -> None:
    host = names.guessable_host(*REQUEST.key)
    guessable = Entry("default", "udp-default-coredns", host, (), (53,))
    entry = only(replace(REQUEST, kept=(guessable,)))
    assert entry.host != guessable.host
    # The former one stays until the gateway asks for the new host.
    assert entry.name == "udp-default-coredns.53"
    # Tenants may read the ServiceEntry in their namespace; they must not know the gateway's.
    moved = only(replace(REQUEST, kept=(entry,), namespace="istio-system"))
    assert moved.host != entry.host and moved.namespace == "istio-system"


def test_each_group_has_its_entry_and_keeps_it() -> None:
    first, second = plan_entries(replace(REQUEST, groups=[(53, 54), (514,)]))
    assert (first.name, second.name) == ("udp-default-coredns", "udp-default-coredns.514")
    assert first.host != second.host and not set(first.addresses) & set(second.addresses)
    kept = (first, second)
    swapped = plan_entries(replace(REQUEST, groups=[(514,), (54,)], kept=kept))
    assert swapped == (second, replace(first, ports=(54,)))
    more = plan_entries(replace(REQUEST, groups=[(514,), (54,), (53,)], kept=kept))
    assert len({e.name for e in more}) == len({e.host for e in more}) == 3


@pytest.mark.parametrize(
    ("exported", "where", "seen"),
    [
        ((), "lab", True),
        (("*",), "lab", True),
        (("istio-system",), "lab", True),
        ((".",), "lab", False),
        (("~",), "lab", False),
        ((".",), "istio-system", True),
    ],
)
def test_a_second_entry_counts_where_the_gateway_sees_it(
    exported: tuple[str, ...], where: str, seen: bool
) -> None:
    entry = only(REQUEST)
    other = EntrySummary(where, "x", (entry.host,), exported_to=exported)
    found = same_host(REQUEST.key, [entry], EntryIndex.of([other]), "istio-system")
    assert bool(found) is seen


def test_a_summary_has_only_what_may_conflict() -> None:
    manifest = {
        "metadata": {"name": "x", "namespace": "lab"},
        "spec": {
            "hosts": ["a.example", "b.kubectl-istio-udp.internal"],
            "addresses": ["10.0.0.1", "241.0.0.1", "240.240.0.1", "10.0.0.0/8", "100::1"],
            "exportTo": ["."],
        },
    }
    assert EntrySummary.from_object(manifest) == EntrySummary(
        "lab", "x", ("b.kubectl-istio-udp.internal",), ("241.0.0.1", "100::1"), (".",)
    )
    assert EntrySummary.from_object({"metadata": manifest["metadata"]}) == EntrySummary("lab", "x")


def listed(
    *slices: dict[str, Any], kept: ExposureSpec | None = None, wanted: dict[str, Any] = TWO_PORTS
) -> ExposureSpec:
    objects = cluster(service=wanted, slices=slices)
    facts = {"before": kept} if kept else {}
    return plan_of(objects, discovery=Discovery.ENDPOINTS, facts=facts).exposure.spec


def test_ports_that_every_address_has_share_a_list() -> None:
    both = [*endpoint_slice()["ports"], SYSLOG]
    spec = listed(endpoint_slice(endpoint("10.0.0.1"), ports=both))
    assert [entry.ports for entry in spec.entries] == [(53, 514)]
    assert [entry.namespace for entry in spec.entries] == ["istio-system"]


@pytest.mark.parametrize(
    "slices",
    [
        (endpoint_slice(endpoint("10.0.0.1")),),
        (
            endpoint_slice(endpoint("10.0.0.1")),
            endpoint_slice(endpoint("10.0.0.2"), ports=[SYSLOG], suffix="log"),
        ),
        (
            endpoint_slice(endpoint("10.0.0.1"), endpoint("10.0.0.2")),
            endpoint_slice(
                endpoint("10.0.0.1"),
                endpoint("10.0.0.2", ready=False),
                ports=[SYSLOG],
                suffix="log",
            ),
        ),
    ],
)
def test_ports_with_other_addresses_have_a_list_each_and_keep_it(
    slices: tuple[dict[str, Any], ...],
) -> None:
    spec = listed(*slices)
    assert [entry.ports for entry in spec.entries] == [(53,), (514,)]
    both = [*endpoint_slice()["ports"], SYSLOG]
    assert listed(endpoint_slice(endpoint("10.0.0.1"), ports=both), kept=spec).entries == (
        spec.entries
    )


def test_named_target_ports_and_services_without_selector_have_a_list_for_each_port() -> None:
    both = endpoint_slice(endpoint("10.0.0.1"), ports=[*endpoint_slice()["ports"], SYSLOG])
    named = service(ports=[udp(target="dns"), udp(514, "udp-log"), udp(515, "more")])
    assert [e.ports for e in listed(both, wanted=named).entries] == [(53,), (514,), (515,)]
    alone = service(ports=[udp(), udp(514, "udp-log")], selector=None)
    assert [e.ports for e in listed(both, wanted=alone).entries] == [(53,), (514,)]


def test_two_gateway_ports_for_one_service_port_share_its_entry() -> None:
    spec = plan_of(ports=[PortRequest(5300, 53), PortRequest(5301, 53)]).exposure.spec
    (entry,) = spec.entries
    assert entry.ports == (53,)
    assert {spec.eds_service(backend) for backend in spec.backends} == {
        f"outbound|53||{entry.host}"
    }


def test_a_summary_of_thousands_of_hosts_is_small() -> None:
    hosts = [f"h{n}.kubectl-istio-udp.internal" for n in range(5000)]
    spaces = [f"ns{n}" for n in range(5000)]
    found = EntrySummary("lab", "x", tuple(hosts), ("241.0.0.1",) * 5000, tuple(spaces))
    small = found.small(["istio-system"])
    assert small.hosts == () and len(small.addresses) == 8
    assert not small.visible_in("istio-system")
    for exported, visible in (
        ((), True),
        (("*",), True),
        ((*spaces, "istio-system"), True),
        ((".",), False),
        (("~",), False),
    ):
        summary = EntrySummary("lab", "x", ("h",), exported_to=exported)
        assert summary.small(["istio-system"]).visible_in("istio-system") is visible
        assert summary.visible_in("istio-system") is visible


SUMMARIES = [
    EntrySummary("lab", name, hosts, addresses)
    for name in ("x", "y")
    for hosts in ((), ("a",), ("a", "b"), ("b", "b"))
    for addresses in ((), ("241.0.0.1",), ("241.0.0.1", "241.0.0.2"))
]


@given(
    st.lists(
        st.tuples(st.sampled_from(SUMMARIES), st.booleans(), st.sampled_from([None, {"a", "c"}])),
        max_size=20,
    )
)
def test_an_index_that_follows_changes_equals_one_from_scratch(
    changes: list[tuple[EntrySummary, bool, set[str] | None]],
) -> None:
    kept, there = EntryIndex(), dict[tuple[str, str], tuple[EntrySummary, set[str] | None]]()
    for summary, removed, many in changes:
        key = (summary.namespace, summary.name)
        now = summary if many is None else replace(summary, hosts=())
        kept.put(key, None if removed else now, None if removed else many)
        there.pop(key, None)
        if not removed:
            there[key] = (now, many)
    for host in ("a", "b", "c"):
        having = {key for key, (each, many) in there.items() if host in (many or each.hosts)}
        assert {(e.namespace, e.name) for e in kept.with_host([host])} == having
        assert all(each.hosts == (host,) for each in kept.with_host([host]))
    for address in ("241.0.0.1", "241.0.0.2"):
        having = {key for key, (each, _) in there.items() if address in each.addresses}
        assert {(e.namespace, e.name) for e in kept.with_address(address)} == having
    for key in there:
        kept.put(key, None)
    assert vars(kept) == {**vars(EntryIndex()), "_lock": vars(kept)["_lock"]}
