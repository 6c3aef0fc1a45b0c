from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.entries import Entry
from kubectl_istio_udp.model.errors import ClusterError, UsageError
from kubectl_istio_udp.model.exposure import (
    Affinity,
    Discovery,
    ExposureSpec,
    GatewayServiceMode,
    LoadBalancing,
    Options,
    PortOptions,
)
from kubectl_istio_udp.model.gateway import GatewayRef
from kubectl_istio_udp.model.names import HOST_SUFFIX
from kubectl_istio_udp.model.ports import Backend, ExposedPort, parse_port_requests
from tests.support.builders import cluster, endpoint, endpoint_slice, plan_of

PORT = st.integers(1, 65535)
LABEL = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,18}[a-z0-9])?", fullmatch=True)
HOST = f"x.a.b{HOST_SUFFIX}"
KEY = st.from_regex(
    r"([a-z0-9]{1,9}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,9}[A-Za-z0-9])?", fullmatch=True
)
VALUE = st.from_regex(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,9}[A-Za-z0-9])?)?", fullmatch=True)
EDS = st.builds("outbound|{}||{}.svc".format, PORT, LABEL)
HASHING = [LoadBalancing.MAGLEV, LoadBalancing.RING_HASH]
OTHERS = [policy for policy in LoadBalancing if policy not in HASHING]
OPTIONS = st.builds(
    lambda kept, **more: Options(affinity=kept[0], load_balancing=kept[1], **more),
    kept=st.tuples(st.just(Affinity.NONE), st.sampled_from(OTHERS))
    | st.tuples(st.just(Affinity.SOURCE_IP), st.sampled_from(HASHING)),
    max_sessions=st.integers(1, 2**32 - 1),
    idle_timeout=st.integers(1, 10**9).map(lambda ms: Duration.parse(f"{ms}ms")),
    max_datagram_size=st.integers(1, 65_507),
    session_log=st.booleans(),
    gateway_service=st.sampled_from(GatewayServiceMode),
)
SPECS = st.builds(
    ExposureSpec,
    namespace=LABEL,
    name=LABEL,
    service=LABEL,
    ports=st.lists(
        st.builds(
            ExposedPort.of,
            PORT,
            PORT,
            PORT,
            st.just("") | LABEL,
            st.none() | PORT,
            eds_service=st.none() | EDS,
        ),
        min_size=1,
        max_size=3,
        unique_by=(lambda port: port.gateway_port, lambda port: port.listener_port),
    ).map(tuple),
    gateway=st.builds(
        GatewayRef, LABEL, LABEL, st.dictionaries(KEY, VALUE, min_size=1, max_size=3)
    ),
    discovery=st.sampled_from(Discovery),
    options=OPTIONS,
)
SPEC = plan_of().exposure.spec
SERVICES = st.tuples(LABEL, LABEL)
BACKENDS = st.lists(
    st.builds(
        Backend, PORT, st.just("") | LABEL, st.none() | PORT, st.none(), PORT, service=SERVICES
    ),
    max_size=3,
    unique_by=lambda backend: backend.key,
).map(tuple)
ROUTED = st.builds(
    lambda spec, backends, dropped, number: dataclasses.replace(
        spec,
        service="",
        ports=(ExposedPort(number, number, backends, dropped),),
        entries=tuple(
            Entry(spec.namespace, f"{spec.object_name}.{n}", HOST, (), (each.port,), each.service)
            for n, each in enumerate(backends)
        ),
    ),
    SPECS,
    BACKENDS,
    st.integers(0, 1000),
    PORT,
)


@given(SPECS | ROUTED)
def test_a_spec_survives_its_annotation(spec: ExposureSpec) -> None:
    read = ExposureSpec.from_json(spec.to_json())
    assert read == dataclasses.replace(
        spec, options=dataclasses.replace(spec.options, idle_timeout=read.options.idle_timeout)
    )
    assert read.options.idle_timeout.envoy() == spec.options.idle_timeout.envoy()


@given(SPECS | ROUTED)
def test_the_same_spec_is_the_same_text(spec: ExposureSpec) -> None:
    assert ExposureSpec.from_json(spec.to_json()).to_json() == spec.to_json()


def test_an_exposure_of_one_service_is_written_as_before() -> None:
    """Older controllers and commands read it."""
    data = json.loads(SPEC.to_json())
    assert data["version"] == 2 and data["service"] == "coredns"
    assert "service" not in data["entries"][0]
    assert "backends" not in data["ports"][0]


TWO = (
    Backend(53, weight=7, service=("team", "a")),
    Backend(53, weight=3, service=("apps", "b")),
)
SPLIT = dataclasses.replace(SPEC, service="", ports=(ExposedPort(5300, 5300, TWO, 5),), entries=())


def test_a_cluster_has_its_name_whatever_its_weight_and_its_neighbours() -> None:
    (port,) = SPLIT.ports
    names = [SPLIT.cluster_name(port, backend) for backend in TWO]
    assert len(set(names)) == 2 and SPLIT.cluster_names == set(names)
    assert all(name.startswith("udp-default-coredns-5300.") for name in names)
    alone = dataclasses.replace(TWO[1], weight=9)
    assert SPLIT.cluster_name(dataclasses.replace(port, backends=(alone,)), alone) == names[1]


def test_sessions_are_counted_for_each_cluster() -> None:
    assert SPLIT.sessions == 2 * SPLIT.options.max_sessions


@pytest.mark.parametrize(
    "changes",
    [
        {"service": "coredns"},
        {"ports": (ExposedPort(1, 1, (Backend(53),)),)},
        {"service": "coredns", "ports": (ExposedPort(1, 1, ()),)},
        {"service": "coredns", "ports": (ExposedPort(1, 1, (Backend(53), Backend(54))),)},
    ],
)
def test_backends_belong_to_one_service_or_name_their_own(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="backend"):
        dataclasses.replace(SPLIT, **changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda spec: spec["ports"][1].update(gateway_port=5300), "gateway port"),
        (lambda spec: spec["ports"][1].update(listener_port=5300), "listener port"),
        (lambda spec: spec["entries"].append(spec["entries"][0]), "ServiceEntries"),
    ],
)
def test_a_port_or_entry_appears_once(change: Callable[..., Any], message: str) -> None:
    """A port is bound once, and a second one was never served."""
    two = plan_of(ports=parse_port_requests(["5300:53", "5301:53"])).exposure.spec
    data = json.loads(two.to_json())
    assert ExposureSpec.from_json(json.dumps(data)) == two
    change(data)
    with pytest.raises(ClusterError, match=f"cannot be read: two .*{message}"):
        ExposureSpec.from_json(json.dumps(data))


def test_a_port_has_settings_once() -> None:
    twice = (PortOptions(5300, Options()), PortOptions(5300, Options(session_log=True)))
    with pytest.raises(ValueError, match="two settings are for 5300"):
        dataclasses.replace(SPLIT, port_options=twice)


def test_a_backend_appears_once() -> None:
    with pytest.raises(ValueError, match="the same"):
        ExposedPort(1, 1, (TWO[0], dataclasses.replace(TWO[0], weight=1)))


@pytest.mark.parametrize(
    "change",
    [
        lambda port: port.pop("dropped"),
        lambda port: port.update(dropped=-1),
        lambda port: port["backends"][0].update(weight=-1),
        lambda port: port["backends"][0].update(weight=16_000_001),
        lambda port: port["backends"][0].update(service=None),
        lambda port: port["backends"][0].update(service=["a"]),
        lambda port: port["backends"][0].update(service=["a", "b/c"]),
        lambda port: port["backends"][0].update(more=1),
    ],
)
def test_reports_a_bad_annotation_with_backends(change: Callable[..., Any]) -> None:
    data = json.loads(SPLIT.to_json())
    change(data["ports"][0])
    with pytest.raises(ClusterError, match="cannot be read: ports:"):
        ExposureSpec.from_json(json.dumps(data))


def changed(path: list[Any], value: Any) -> str:
    data = json.loads(SPEC.to_json())
    *parents, last = path
    place = data
    for key in parents:
        place = place[key]
    place[last] = value
    return json.dumps(data)


def without(key: str) -> str:
    data = json.loads(SPEC.to_json())
    del data[key]
    return json.dumps(data)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "5",
        "[]",
        "{}",
        '{"version":1}',
        *[without(key) for key in json.loads(SPEC.to_json())],
        changed(["more"], 1),
        changed(["ports"], None),
        changed(["ports"], []),
        changed(["ports"], [{}]),
        changed(["ports", 0, "gateway_port"], "x"),
        changed(["ports", 0, "listener_port"], 65536),
        changed(["gateway", "selector"], None),
        changed(["gateway", "selector"], {}),
        changed(["gateway", "name"], 5),
        changed(["ports"], ["5300"]),
        changed(["ports", 0, "more"], 1),
        changed(["gateway"], None),
        changed(["gateway", "more"], 1),
        changed(["discovery"], "magic"),
        changed(["options"], None),
        changed(["options", "affinity"], "cookie"),
        changed(["options", "load_balancing"], "maglev"),
        changed(["options", "gateway_service"], None),
        changed(["options", "idle_timeout"], 10),
        changed(["options", "idle_timeout"], "soon"),
        changed(["options", "max_sessions"], 0),
        changed(["options", "max_sessions"], "many"),
        changed(["options", "more"], 1),
    ],
)
def test_reports_a_bad_annotation(text: str) -> None:
    with pytest.raises(ClusterError, match="the annotation kubectl-istio-udp/spec cannot be read"):
        ExposureSpec.from_json(text)


@pytest.mark.parametrize("version", [0, 4, "1", None, True])
def test_reports_another_version(version: bool | int | str | None) -> None:
    with pytest.raises(
        ClusterError, match=f"in format {version!r}; this version reads format 1, 2, 3"
    ) as e:
        ExposureSpec.from_json(changed(["version"], version))
    assert "a newer one" in e.value.hints[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_sessions": 0}, "max-sessions 0 is not between 1 and 4294967295"),
        ({"max_sessions": 2**32}, "max-sessions 4294967296"),
        ({"idle_timeout": Duration(0)}, "idle-timeout must be at least 1ms"),
        ({"max_datagram_size": 0}, "max-datagram-size 0 is not between 1 and 65507"),
        ({"max_datagram_size": 65_508}, "max-datagram-size 65508"),
        (
            {"affinity": Affinity.SOURCE_IP},
            "source-ip cannot be combined with load-balancing round-robin",
        ),
        (
            {"load_balancing": LoadBalancing.MAGLEV},
            "none cannot be combined with load-balancing maglev",
        ),
    ],
)
def test_rejects_what_envoy_would_reject(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Options(**options)


def test_names_in_envoy() -> None:
    port = SPEC.ports[0]
    assert SPEC.object_name == "udp-default-coredns"
    assert SPEC.proxy_name(port) == "udp-default-coredns-53"
    assert SPEC.key == ("default", "coredns")
    assert SPEC.eds_service(port.backends[0]) == f"outbound|53||{SPEC.entries[0].host}"
    assert SPEC.entries[0].host.endswith(".coredns.default.kubectl-istio-udp.internal")


def test_only_ready_endpoints_count() -> None:
    slices = [endpoint_slice(endpoint("10.0.0.1"), endpoint("10.0.0.2", ready=False))]
    exposure = plan_of(cluster(slices=slices)).exposure
    (backend,) = exposure.spec.backends
    assert len(exposure.endpoints[None, 53]) == 2
    assert [e.address for e in exposure.ready_endpoints(backend)] == ["10.0.0.1"]
    nowhere = dataclasses.replace(backend, port=99)
    assert exposure.ready_endpoints(nowhere) == ()
