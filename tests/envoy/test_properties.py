"""Whatever can be asked for is accepted by the real Envoy, or refused before it is rendered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from kubectl_istio_udp.envoy.validate import validate
from kubectl_istio_udp.model.accesslog import AccessLogSpec, Direction, LogField, LogScope
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.exposure import (
    LARGEST_DATAGRAM_BYTES,
    Affinity,
    Discovery,
    Exposure,
    GatewayServiceMode,
    LoadBalancing,
)
from kubectl_istio_udp.model.gateway import GatewayRef
from kubectl_istio_udp.model.ports import PortRequest, parse_port_requests
from kubectl_istio_udp.model.response import Answer, Body, Response, ResponseApi, ResponseSpec
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.render.accesslog import access_log_writes
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.render.response import response_writes
from tests.support.builders import (
    cluster,
    endpoint,
    endpoint_slice,
    gateway_pod,
    plan_of,
    pod,
    service,
    tcp,
    udp,
)
from tests.support.effort import examples

# The most exposures in one run of Envoy.
BATCH = 20
MOST_SESSIONS = 2**32 - 1
LONGEST_SECONDS = 9_223_372_035
NAMES = st.from_regex(r"[a-z]([-a-z0-9]{0,30}[a-z0-9])?", fullmatch=True)
SECONDS = st.one_of(
    st.integers(1, 10_000).map(lambda milliseconds: milliseconds / 1000),
    st.integers(1, LONGEST_SECONDS).map(float),
)
HASHED = [policy for policy in LoadBalancing if policy.hashes]
PLAIN = [policy for policy in LoadBalancing if not policy.hashes]


@st.composite
def options(draw: Callable[..., Any]) -> dict[str, Any]:
    affinity = draw(st.sampled_from(Affinity))
    found = {
        "idle_timeout": Duration(draw(SECONDS)),
        "max_datagram_size": draw(st.integers(1, LARGEST_DATAGRAM_BYTES)),
        "affinity": affinity,
        "load_balancing": draw(st.sampled_from(PLAIN if affinity is Affinity.NONE else HASHED)),
        "session_log": draw(st.booleans()),
        "gateway_service": draw(st.sampled_from(GatewayServiceMode)),
    }
    if draw(st.booleans()):
        found["max_sessions"] = draw(st.integers(1, MOST_SESSIONS))
    return found


GATEWAY_ADDRESSES = st.sampled_from([("10.244.0.7",), ("fd00::7",), ("10.244.0.7", "fd00::7"), ()])


@st.composite
def ports(draw: Callable[..., Any], numbers: list[int]) -> list[PortRequest]:
    at_gateway = draw(st.lists(st.integers(1024, 65535), min_size=1, max_size=4, unique=True))
    return [PortRequest(number, draw(st.sampled_from(numbers))) for number in at_gateway]


@st.composite
def of_pods(draw: Callable[..., Any]) -> tuple[Any, ...]:
    """A Service with pods: plain, with TCP twins, named ports, both families, any discovery."""
    service_ports = draw(
        st.sampled_from(
            [
                [udp()],
                [udp(), tcp()],
                [udp(53, "a", 5353), udp(54, "b", 5354), tcp(54, "c", 5354)],
                [udp(53, "udp-dns", "dns")],
            ]
        )
    )
    listed = [
        {"name": p["name"], "port": 5353 if p["targetPort"] == "dns" else p["targetPort"], **rest}
        for p in service_ports
        for rest in [{"protocol": p["protocol"]}]
    ]
    count = draw(st.integers(1, 4))
    addresses = {"IPv4": "10.244.0.{}", "IPv6": "fd00::{}"}
    slices = [
        endpoint_slice(
            *(
                endpoint(form.format(20 + n), f"coredns-{n}", ready=draw(st.booleans()))
                for n in range(count)
            ),
            family=family,
            ports=listed,
            suffix=family.lower(),
        )
        for family, form in addresses.items()
    ]
    ips = draw(GATEWAY_ADDRESSES)
    port = {"name": "dns", "containerPort": 5353, "protocol": "UDP"}
    container = {"name": "coredns", "ports": [port]}
    objects = cluster(
        service=service(ports=service_ports),
        slices=slices,
        pods=[pod(f"coredns-{n}", containers=[container]) for n in range(count)],
        gateways=[gateway_pod(ips=ips)],
    )
    # The pods' primary address is IPv4: a gateway of IPv6 alone cannot have them by selector.
    by_selector = [] if ips == ("fd00::7",) else [Discovery.SELECTOR]
    choices = [None, *by_selector, Discovery.ENDPOINTS, Discovery.STATIC]
    discovery = draw(st.sampled_from(choices))
    numbers = [p["port"] for p in service_ports if p["protocol"] == "UDP"]
    return objects, discovery, draw(ports(numbers))


@st.composite
def without_pods(draw: Callable[..., Any]) -> tuple[Any, ...]:
    """A Service with endpoints managed by hand, or a DNS name."""
    external = draw(st.booleans())
    gone = service(type="ExternalName", externalName=f"{draw(NAMES)}.example.com")
    gone["spec"].pop("selector")
    bare = service(selector=None)
    slices = [
        endpoint_slice(endpoint("192.0.2.1"), endpoint("192.0.2.2")),
        endpoint_slice(endpoint("2001:db8::1"), family="IPv6", suffix="six"),
    ]
    objects = cluster(
        service=gone if external else bare,
        slices=[] if external else slices,
        pods=[],
        gateways=[gateway_pod(ips=draw(GATEWAY_ADDRESSES))],
    )
    choices = [None] if external else [None, Discovery.ENDPOINTS, Discovery.STATIC]
    return objects, draw(st.sampled_from(choices)), draw(ports([53]))


def drawn(kind: Callable[..., Any], count: int) -> list[Exposure]:
    """This many different exposures, drawn by hypothesis."""
    found: dict[str, Exposure] = {}

    @settings(max_examples=2 * count, deadline=None, phases=[Phase.generate])
    @given(kind(), NAMES, options())
    def draw(request: tuple[Any, ...], name: str, chosen: dict[str, Any]) -> None:
        objects, discovery, asked = request
        planned = plan_of(objects, ports=asked, discovery=discovery, name=name, **chosen)
        found.setdefault(planned.exposure.spec.to_json(), planned.exposure)

    draw()
    assert len(found) >= count
    return list(found.values())[:count]


def batches(things: Any) -> list[list[dict[str, Any]]]:
    """Lists of manifests that can be at one gateway together, without conflicts.

    Args:
        things: what each takes (names, ports), and its manifests.
    """
    found: list[dict[str, Any]] = []
    for taken, manifests in things:
        for batch in found:
            if batch["count"] < BATCH and not taken & batch["taken"]:
                break
        else:
            batch = {"count": 0, "taken": set(), "manifests": []}
            found.append(batch)
        batch["count"] += 1
        batch["taken"] |= taken
        batch["manifests"] += manifests
    return [batch["manifests"] for batch in found]


def of_exposure(exposure: Exposure) -> tuple[set[Any], list[dict[str, Any]]]:
    ports = {port.listener_port for port in exposure.spec.ports}
    return {exposure.spec.name, *ports}, [dict(write.manifest) for write in writes(exposure)]


@pytest.mark.parametrize(("kind", "count"), [(of_pods, 100), (without_pods, 60)])
def test_envoy_accepts_every_exposure(envoy: Path, kind: Callable[..., Any], count: int) -> None:
    exposures = drawn(kind, examples(count))
    for manifests in batches(map(of_exposure, exposures)):
        report = validate(envoy, manifests)
        assert (report.refused, report.unchecked) == ((), ()), manifests[
            (report.refused or report.unchecked)[0].manifest
        ]


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40)
HEADERS = st.dictionaries(
    st.from_regex(r"x-[a-z0-9]{1,9}", fullmatch=True),
    st.from_regex(r"[!-~]([ -~]{0,20}[!-~])?", fullmatch=True),
    max_size=3,
)


@st.composite
def responses(draw: Callable[..., Any]) -> tuple[Write, ...]:
    """A response by an EnvoyFilter: at a gateway, or inside the mesh."""
    mesh, binary = draw(st.booleans()), draw(st.booleans())
    content = draw(st.binary(max_size=40)) if binary else draw(TEXT).encode()
    answer = Answer(
        path="/" + draw(st.from_regex(r"[-A-Za-z0-9_~!$&'()*+,;=:@/]{0,20}", fullmatch=True)),
        status=draw(st.integers(200, 599).filter(lambda n: n not in (204, 205, 304))),
        body=Body.of(content, binary) if content else None,
        prefix=draw(st.booleans()),
        headers=tuple(draw(HEADERS).items()),
        hosts=("r.lab.svc.x",) if mesh else draw(st.sampled_from([("*",), ("a.b", "*.c.b")])),
    )
    spec = ResponseSpec(
        namespace="lab",
        name=draw(NAMES),
        answer=answer,
        api=ResponseApi.ENVOY_FILTER,
        gateway=None if mesh else GatewayRef("istio-system", "gw", {"istio": "gw"}),
        gateway_port=draw(st.integers(1, 65535)),
        servers=() if mesh else ("a/b",),
        root_namespace="istio-system" if mesh else "",
        mesh_ports=tuple(draw(st.lists(st.integers(1, 65535), min_size=1, unique=True))),
    )
    return response_writes(Response(spec, content, answer.hosts))


@st.composite
def access_logs(draw: Callable[..., Any]) -> tuple[Write, ...]:
    """An access log of any scope, with either field."""
    scope = draw(st.sampled_from(LogScope))
    spec = AccessLogSpec(
        namespace="lab",
        name=draw(NAMES),
        every=Duration(draw(st.integers(1, 10**8)) / 1000),
        scope=scope,
        selector=draw(st.sampled_from([{}, {"app": "a"}])),
        direction=Direction.ANY
        if scope is LogScope.GATEWAY
        else draw(st.sampled_from(list(Direction))),
        log_field=draw(st.sampled_from(LogField)),
    )
    return access_log_writes(spec)


@pytest.mark.parametrize(("kind", "count"), [(responses, 100), (access_logs, 40)])
def test_envoy_accepts_every_response_and_access_log(
    envoy: Path, kind: Callable[..., Any], count: int
) -> None:
    drawn_ones = []

    @settings(max_examples=examples(count), deadline=None, phases=[Phase.generate])
    @given(kind())
    def draw(writes: tuple[Write, ...]) -> None:
        manifests = [dict(write.manifest) for write in writes]
        # Routes may stand beside each other; of access logs two would meet in one filter.
        names = {each["metadata"]["name"] for each in manifests}
        drawn_ones.append((names if kind is responses else {"one at a time"}, manifests))

    draw()
    assert len(drawn_ones) == examples(count)
    for manifests in batches(drawn_ones):
        report = validate(envoy, manifests)
        assert (report.refused, report.unchecked) == ((), ()), manifests


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(
        st.integers(max_value=199).map(lambda n: {"status": n}),
        st.integers(min_value=600).map(lambda n: {"status": n}),
        st.text(max_size=9).filter(lambda t: not t.startswith("/")).map(lambda t: {"path": t}),
        st.sampled_from("?# \n\x7f\u00e9").map(lambda c: {"path": f"/a{c}b"}),
        st.sampled_from([":80", "a b", "*a", "a..b", "-"]).map(lambda h: {"hosts": (h,)}),
    )
)
def test_broken_responses_never_get_as_far_as_rendering(broken: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Answer(**{"path": "/a", "status": 200, **broken})


@settings(max_examples=50, deadline=None)
@given(st.floats(min_value=0, max_value=0.001, exclude_max=True))
def test_broken_intervals_never_get_as_far_as_rendering(seconds: float) -> None:
    with pytest.raises(UsageError):
        AccessLogSpec("lab", "x", Duration(seconds), LogScope.NAMESPACE)


BROKEN = st.one_of(
    st.integers(max_value=0).map(lambda n: {"max_sessions": n}),
    st.integers(min_value=MOST_SESSIONS + 1).map(lambda n: {"max_sessions": n}),
    st.integers(max_value=0).map(lambda n: {"max_datagram_size": n}),
    st.integers(min_value=LARGEST_DATAGRAM_BYTES + 1).map(lambda n: {"max_datagram_size": n}),
    st.sampled_from(HASHED).map(lambda p: {"load_balancing": p}),
    st.sampled_from(PLAIN).map(lambda p: {"load_balancing": p, "affinity": Affinity.SOURCE_IP}),
)


@settings(max_examples=200, deadline=None)
@given(BROKEN)
def test_broken_options_never_get_as_far_as_rendering(broken: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        plan_of(ports=[PortRequest(5300, 53)], **broken)


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.floats(max_value=0, exclude_max=False).map(lambda s: s if s < 0 else 0.0),
        st.floats(min_value=0, max_value=0.001, exclude_max=True),
        st.floats(min_value=LONGEST_SECONDS, exclude_min=True),
        st.just(float("nan")),
    )
)
def test_broken_durations_never_get_as_far_as_rendering(seconds: float) -> None:
    with pytest.raises(UsageError):
        plan_of(ports=[PortRequest(5300, 53)], idle_timeout=Duration(seconds))


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.integers(max_value=0).map(str),
        st.integers(min_value=65536).map(str),
        st.text("abc:-/ ", min_size=0, max_size=5),
        st.integers(1, 65535).map(lambda n: f"{n}:"),
        st.integers(65536).map(lambda n: f"5300:{n}"),
        st.integers(65536).map(lambda n: f"{n}:53"),
    )
)
def test_broken_ports_never_get_as_far_as_rendering(text: str) -> None:
    with pytest.raises(UsageError):
        plan_of(ports=parse_port_requests([text]))
