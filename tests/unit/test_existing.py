from __future__ import annotations

import copy

import pytest

from kubectl_istio_udp.cluster.existing import get_existing, list_exposures
from kubectl_istio_udp.model.errors import ClusterError, Forbidden, NotFound
from kubectl_istio_udp.model.specs import spec_of
from kubectl_istio_udp.render.exposure import writes
from tests.unit.builders import plan_of

SPEC_NOTE = "kubectl-istio-udp/spec"


def objects(name="coredns"):
    return [copy.deepcopy(dict(w.manifest)) for w in writes(plan_of(name=name).exposure)]


def test_rebuilds_an_exposure_from_its_objects(api, server):
    server.put(*objects())
    (found,) = list_exposures(api)
    assert (found.namespace, found.name, found.problem) == ("default", "coredns", "")
    assert found.spec == plan_of().exposure.spec
    assert [o["kind"] for o in found.objects] == ["ServiceEntry", "EnvoyFilter", "Service"]
    assert found.object("Service")["metadata"]["namespace"] == "istio-system"
    assert found.object("Pod") is None


def test_lists_by_namespace_and_name_sorted(api, server):
    server.put(*objects("b"), *objects("a"))
    assert [e.name for e in list_exposures(api)] == ["a", "b"]
    assert [e.name for e in list_exposures(api, "default")] == ["a", "b"]
    assert list_exposures(api, "elsewhere") == ()


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_what_a_half_done_deletion_left_counts(api, server, kept):
    server.put(objects()[kept])
    (found,) = list_exposures(api)
    assert found.spec == plan_of().exposure.spec
    assert len(found.objects) == 1


def test_the_envoyfilter_is_trusted_most(api, server):
    entry, envoy_filter, service = objects()
    other = plan_of(max_sessions=5).exposure.spec
    envoy_filter["metadata"]["annotations"][SPEC_NOTE] = other.to_json()
    server.put(entry, envoy_filter, service)
    assert list_exposures(api)[0].spec == other


def test_what_one_object_cannot_tell_another_may(api, server):
    entry, envoy_filter, service = objects()
    envoy_filter["metadata"]["annotations"][SPEC_NOTE] = "{"
    server.put(entry, envoy_filter, service)
    assert list_exposures(api)[0].spec == plan_of().exposure.spec


def test_an_exposure_that_cannot_be_read_says_why(api, server):
    envoy_filter = objects()[1]
    envoy_filter["metadata"]["annotations"] = None
    server.put(envoy_filter)
    (found,) = list_exposures(api)
    assert found.spec is None
    assert found.problem == (
        "EnvoyFilter istio-system/udp-default-coredns has no annotation kubectl-istio-udp/spec"
    )


def test_reads_the_annotation():
    assert spec_of(objects()[0]) == plan_of().exposure.spec
    with pytest.raises(ClusterError, match="has no annotation"):
        spec_of({"kind": "Service", "metadata": {"namespace": "a", "name": "b"}})


def test_gets_those_named_in_their_order(api, server):
    server.put(*objects("a"), *objects("b"))
    assert [e.name for e in get_existing(api, "default", ["b", "a"])] == ["b", "a"]
    assert [e.name for e in get_existing(api, "default", [])] == ["a", "b"]


@pytest.mark.parametrize(
    ("there", "hint"),
    [(["a", "b"], "those there are: a, b"), ([], "see all: kubectl istio-udp get -A")],
)
def test_a_name_that_is_not_there_is_told(api, server, there, hint):
    for name in there:
        server.put(*objects(name))
    with pytest.raises(NotFound, match="there is no exposure x in namespace default") as caught:
        get_existing(api, "default", ["x"])
    assert hint in caught.value.hints[0]
    assert get_existing(api, "default", ["x"], missing_ok=True) == ()


def test_who_may_not_look_everywhere_finds_what_is_near(api, server):
    """In the Service's namespace, and in that of the gateway which the ServiceEntry names."""
    server.put(*objects())
    for plural in ("serviceentries", "envoyfilters", "services"):
        server.fail("GET", rf"v\w+/{plural}\?", 403)
    (found,) = list_exposures(api, "default")
    assert [o["kind"] for o in found.objects] == ["ServiceEntry", "EnvoyFilter", "Service"]
    assert found.missing == ()
    with pytest.raises(Forbidden):
        list_exposures(api)


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_missing_object_is_named(api, server, lost):
    there = objects()
    gone = there.pop(lost)
    server.put(*there)
    (found,) = list_exposures(api)
    place = gone["metadata"]
    assert found.missing == (f"{gone['kind']} {place['namespace']}/{place['name']}",)
