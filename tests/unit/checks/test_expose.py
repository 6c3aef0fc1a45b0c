"""Each code has a case in which it is found, and one near to it in which it is not."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import pytest

from kubectl_istio_udp.checks.catalog import PAGE
from kubectl_istio_udp.checks.expose import RULES, check_expose, expose_errors
from kubectl_istio_udp.checks.findings import Finding, errors
from kubectl_istio_udp.checks.rules import codes_of
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.endpointrules import EndpointRules
from kubectl_istio_udp.model.entries import EntryIndex, EntrySummary
from kubectl_istio_udp.model.envoyfilter import ROOT_UNKNOWN, Footprint
from kubectl_istio_udp.model.exposure import (
    Affinity,
    Discovery,
    Exposure,
    ExposureSpec,
    GatewayServiceMode,
    LoadBalancing,
    Options,
)
from kubectl_istio_udp.model.gateway import GatewayRef
from kubectl_istio_udp.model.memory import ProxySize
from kubectl_istio_udp.model.mesh import ControlPlane, Mesh
from kubectl_istio_udp.model.ports import PortRequest
from kubectl_istio_udp.model.proxystate import BoundListener
from kubectl_istio_udp.model.request import ExposeRequest
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.model.usage import Holder, used_by
from kubectl_istio_udp.plan.exposure import plan
from kubectl_istio_udp.render.envoyfilter import envoy_filter
from kubectl_istio_udp.render.exposure import writes
from tests.support.builders import (
    cluster,
    endpoint,
    endpoint_slice,
    gateway_pod,
    gateway_service,
    plan_of,
    service,
    snapshot_of,
    udp,
    usage,
)
from tests.support.checked import texts_of, undeclared, whole

PATCH: dict[str, Any] = {"gateway_service": GatewayServiceMode.PATCH}
NO_SERVICE: dict[str, Any] = {"gateway_service": GatewayServiceMode.NONE}
HETZNER = {"load-balancer.hetzner.cloud/location": "fsn1"}
OURS = tuple(write.manifest for write in writes(plan_of().exposure))
SPEC = plan_of().exposure.spec
PATCHED = dataclasses.replace(SPEC, options=dataclasses.replace(SPEC.options, **PATCH))
OTHER_PORT = dataclasses.replace(SPEC.ports[0], gateway_port=99)
NAME, KEY = "udp-default-coredns-53", ("default", "coredns")


AWS = "service.beta.kubernetes.io/aws-load-balancer-"


def balanced(annotations: dict[str, Any], kind: str = "LoadBalancer") -> list[dict[str, Any]]:
    """A cluster in which the gateway's Service has these annotations."""
    found = gateway_service(type=kind)
    found["metadata"]["annotations"] = annotations
    return cluster(gateway_service=found)


def on_host_network() -> list[dict[str, Any]]:
    found = gateway_pod()
    found["spec"]["hostNetwork"] = True
    return cluster(gateways=[found])


ON_HOST = on_host_network()
BY_SOURCE = {"affinity": Affinity.SOURCE_IP, "load_balancing": LoadBalancing.MAGLEV}
LOCAL = cluster(gateway_service=gateway_service(externalTrafficPolicy="Local"))
PLACE, DOUBT = f"istio-system/{SPEC.object_name}", "nobody knows"
LAB = {"team": "lab"}
ONE_NAMESPACE = Mesh(discovery_selectors=({"matchLabels": LAB},))
NO_SELECTORS = Mesh(selectors_for_gateway_api=False)
API_GATEWAY = cluster(
    gateways=[gateway_pod(labels={"gateway.networking.k8s.io/gateway-name": "edge"})],
    gateway_service=None,
)
LIMITED = cluster(gateways=[gateway_pod(limits={"cpu": "2", "memory": "1Gi"})])


def planned(
    cluster_: list[dict[str, Any]] | None = None,
    options: dict[str, Any] | None = None,
    request: dict[str, Any] | None = None,
    **facts: Any,
) -> tuple[Exposure, Snapshot]:
    """An exposure of the DNS Service; `facts` are fields of the Snapshot."""
    snapshot = snapshot_of(cluster_ or cluster(), **{"file_limit": 2**20, **facts})
    asked = ExposeRequest(
        "default",
        "coredns",
        options=Options(**(options or {})),
        automatic_sessions="max_sessions" not in (options or {}),
        **(request or {}),
    )
    return plan(asked, snapshot).exposure, snapshot


def findings(**case: Any) -> tuple[Finding, ...]:
    """What is found about an exposure of the DNS Service."""
    exposure, snapshot = planned(**case)
    found = check_expose(exposure, snapshot)
    assert expose_errors(exposure, snapshot) == errors(found)
    return found


def same_host_as(
    spec: ExposureSpec,
    namespace: str = "lab",
    name: str = "hijack",
    exported_to: tuple[str, ...] = (),
) -> EntryIndex:
    """A ServiceEntry that has the host of an exposure's."""
    hosts = (spec.entries[0].host,)
    return EntryIndex.of([EntrySummary(namespace, name, hosts, exported_to=exported_to)])


def without_labels(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {**manifest, "metadata": {**manifest["metadata"], "labels": None}}


def footprints(doubt: Any = "", **what: Any) -> Any:
    names: dict[str, Any] = {key: frozenset(value) for key, value in what.items()}
    return (Footprint("istio-system/other", **names, doubt=doubt),)


def bound(
    port: int = 10053, protocol: str = "UDP", name: str = "udp_0.0.0.0_10053"
) -> tuple[BoundListener, ...]:
    return (BoundListener(name, port, protocol, "pod"),)


def with_udp(
    number: int = 53, name: str = "dns", manager: str | None = None
) -> list[dict[str, Any]]:
    found = gateway_service()
    found["spec"]["ports"].append({"name": name, "port": number, "protocol": "UDP"})
    if manager:
        fields: dict[str, Any] = {
            "f:spec": {"f:ports": {f'k:{{"port":{number},"protocol":"UDP"}}': {}}}
        }
        found["metadata"]["managedFields"] = [
            {"manager": "kubectl", "fieldsV1": None},
            {"manager": manager, "fieldsV1": fields},
        ]
    return cluster(gateway_service=found)


def old(version: str) -> list[dict[str, Any]]:
    return cluster(gateways=[gateway_pod(image=f"istio/proxyv2:{version}")])


UNREADY = cluster(slices=[endpoint_slice(endpoint("10.0.0.1", ready=False))])
LISTED = {"discovery": Discovery.ENDPOINTS}
EXTERNAL = cluster(
    service={
        **service(),
        "spec": {"type": "ExternalName", "externalName": "x.y", "ports": [udp()]},
    },
    slices=[],
    pods=[],
)

FIRES: list[tuple[str, dict[str, Any]]] = [
    ("U101", {"objects": (without_labels(OURS[0]),)}),
    ("U101", {"objects": (OURS[0], without_labels(OURS[2]))}),
    ("U101", {"objects": (envoy_filter(plan_of(name="other").exposure),)}),
    ("U102", {"footprints": footprints(listeners=[NAME])}),
    ("U102", {"footprints": footprints(clusters=[NAME])}),
    ("U103", {"footprints": footprints(udp_ports=[10053])}),
    ("U102", {"footprints": (Footprint("root/x", frozenset([NAME]), exposure=KEY),)}),
    ("U102", {"footprints": footprints(listeners=[NAME], doubt=DOUBT), "bound": bound(name=NAME)}),
    ("U103", {"footprints": (Footprint("root/x", udp_ports=frozenset([10053]), exposure=KEY),)}),
    (
        "U103",
        {
            "footprints": footprints(udp_ports=[10053], listeners=["l"], doubt=DOUBT),
            "bound": bound(name="l"),
        },
    ),
    ("U104", {"bound": bound()}),
    ("U104", {"bound": bound(port=99, protocol="TCP", name=NAME)}),
    ("U104", {"bound": bound(), "footprints": footprints(udp_ports=[10053])}),
    ("U131", {"mesh": ONE_NAMESPACE, "namespaces": {"default": LAB, "istio-system": {}}}),
    ("U132", {"mesh": NO_SELECTORS, "cluster_": API_GATEWAY}),
    ("U135", {"mesh": Mesh(filters_gateway_clusters=True, istio=(1, 30))}),
    ("U135", {"mesh": Mesh(filters_gateway_clusters=True)}),
    ("U218", {"mesh": Mesh(filters_gateway_clusters=True), "exposures": (SPEC,)}),
    ("U208", {"footprints": footprints(udp_ports=[10053], doubt=DOUBT)}),
    ("U208", {"footprints": footprints(clusters=[NAME], doubt=DOUBT)}),
    ("U102", {"footprints": footprints(clusters=[NAME], doubt=ROOT_UNKNOWN)}),
    ("U103", {"footprints": footprints(udp_ports=[10053], doubt=ROOT_UNKNOWN)}),
    ("U208", {"footprints": footprints(udp_ports=[10053], doubt=f"{ROOT_UNKNOWN} and {DOUBT}")}),
    ("U208", {"footprints": footprints(udp_ports=[10053], doubt=ROOT_UNKNOWN), "before": SPEC}),
    (
        "U208",
        {
            "footprints": (
                Footprint(
                    "lab/x", udp_ports=frozenset([10053]), exposure=("lab", "x"), doubt=ROOT_UNKNOWN
                ),
            )
        },
    ),
    ("U209", {"mesh": Mesh(assumed=True)}),
    ("U209", {"mesh": Mesh(assumed=True, control_plane=ControlPlane(""))}),
    ("U105", {"cluster_": cluster(gateway_service=None), "options": PATCH}),
    ("U105", {"cluster_": with_udp(), "options": PATCH}),
    ("U105", {"cluster_": with_udp(99, "udp-53"), "options": PATCH}),
    ("U105", {"cluster_": with_udp(manager="somebody"), "options": PATCH}),
    ("U106", {"exposures": (dataclasses.replace(SPEC, service="other"),)}),
    (
        "U106",
        {"exposures": (dataclasses.replace(SPEC, gateway=GatewayRef("x", "y", {"app": "y"})),)},
    ),
    ("U107", {"cluster_": old("1.14.9")}),
    ("U108", {"options": {"max_sessions": 20_000}, "file_limit": 10_000}),
    ("U108", {"options": {"max_sessions": 5}, "file_limit": 0}),
    ("U109", {"cluster_": LIMITED, "size": ProxySize(2, 100), "others": usage(ports=4_000)}),
    ("U109", {"cluster_": LIMITED, "size": ProxySize(16, 10_000), "others": usage(ports=10)}),
    ("U206", {"exposures": (dataclasses.replace(SPEC, ports=(OTHER_PORT,)),)}),
    ("U206", {"exposures": (SPEC,), "options": PATCH}),
    ("U230", {"request": {"ports": (PortRequest(443, 53),)}, "options": PATCH}),
    ("U201", {"cluster_": UNREADY}),
    ("U201", {"cluster_": cluster(slices=[])}),
    ("U202", {"request": {"discovery": Discovery.STATIC}}),
    ("U202", {"request": {"discovery": Discovery.ENDPOINTS}}),
    ("U203", {"cluster_": cluster(gateways=[gateway_pod(ready=False)])}),
    ("U210", {"request": LISTED, "rules": EndpointRules(frozenset({"10.244.0.21"}))}),
    ("U210", {"request": {"discovery": Discovery.STATIC}, "rules": EndpointRules(pods=())}),
    ("U219", {"request": LISTED, "others_addresses": (("10.244.0.21", "pod lab/x"),)}),
    (
        "U110",
        {
            "before": SPEC,
            "entries": same_host_as(SPEC, exported_to=("istio-system",)),
        },
    ),
    ("U110", {"before": SPEC, "entries": same_host_as(SPEC, exported_to=("*",))}),
    ("U110", {"before": SPEC, "entries": same_host_as(SPEC)}),
    (
        "U110",
        {
            "before": SPEC,
            "entries": same_host_as(SPEC, "istio-system", exported_to=(".",)),
        },
    ),
    ("U204", {"file_limit": None}),
    ("U108", {"file_limit": 10_000, "others": usage(sessions=8_000)}),
    (
        "U108",
        {
            "file_limit": 10_000,
            "others": usage(sessions=7_000),
            "options": {"max_sessions": 2_000},
        },
    ),
    ("U205", {"file_limit": 2_500}),
    ("U205", {"file_limit": 10_000, "others": usage(sessions=7_500)}),
    ("U205", {"options": {"max_sessions": 249}}),
    ("U303", {}),
    ("U303", {"exposures": (SPEC,), "options": {"idle_timeout": Duration(20)}}),
    ("U133", {"cluster_": balanced(HETZNER)}),
    ("U134", {"cluster_": balanced(HETZNER), "options": PATCH}),
    ("U134", {"cluster_": balanced({f"{AWS}type": "nlb"}), "options": PATCH}),
    ("U217", {"cluster_": balanced({**HETZNER, f"{AWS}name": "edge"})}),
    ("U217", {"cluster_": balanced({f"{AWS}scheme": "internal"})}),
    ("U217", {"cluster_": balanced(HETZNER), "exposures": (SPEC,)}),
    ("U217", {"cluster_": balanced(HETZNER), "options": PATCH, "exposures": (PATCHED,)}),
    ("U217", {"cluster_": balanced({f"{AWS}type": "external"})}),
    ("U216", {"cluster_": balanced({"new-cloud.example/load-balancer": "7"})}),
    ("U304", {"cluster_": balanced({f"{AWS}name": "edge"})}),
    ("U305", {"cluster_": ON_HOST}),
    ("U305", {"cluster_": ON_HOST, "request": {"ports": (PortRequest(5300, 53),)}}),
    ("U306", {}),
    ("U307", {"options": BY_SOURCE}),
    ("U301", {}),
    ("U302", {}),
]
SILENT: list[tuple[str, dict[str, Any]]] = [
    ("U135", {"mesh": Mesh(filters_gateway_clusters=True, istio=(1, 31))}),
    ("U135", {"mesh": Mesh(istio=(1, 30))}),
    ("U135", {"mesh": Mesh(filters_gateway_clusters=True), "exposures": (SPEC,)}),
    ("U218", {"mesh": Mesh(filters_gateway_clusters=True)}),
    ("U218", {"exposures": (SPEC,)}),
    (
        "U135",
        {
            "mesh": Mesh(filters_gateway_clusters=True, istio=(1, 30)),
            "request": {"discovery": Discovery.STATIC},
        },
    ),
    ("U133", {"cluster_": balanced(HETZNER), "exposures": (SPEC,)}),
    ("U134", {"cluster_": balanced(HETZNER), "options": PATCH, "exposures": (PATCHED,)}),
    ("U133", {"cluster_": balanced({**HETZNER, f"{AWS}name": "edge"})}),
    ("U133", {"cluster_": balanced(HETZNER), "options": PATCH}),
    (
        "U133",
        {
            "cluster_": balanced(HETZNER),
            "options": NO_SERVICE,
            "request": {"ports": (PortRequest(5300, 53),)},
        },
    ),
    ("U134", {"cluster_": balanced(HETZNER)}),
    ("U134", {"cluster_": balanced({f"{AWS}type": "external"}), "options": PATCH}),
    ("U134", {"cluster_": balanced({"metallb.io/address-pool": "x"}), "options": PATCH}),
    ("U217", {"cluster_": balanced(HETZNER)}),
    ("U306", {"exposures": (SPEC,)}),
    ("U307", {}),
    ("U307", {"options": BY_SOURCE, "cluster_": LOCAL}),
    ("U307", {"options": BY_SOURCE, "cluster_": cluster(gateway_service=None)}),
    ("U217", {"cluster_": balanced({f"{AWS}nlb-target-type": "ip"})}),
    ("U217", {"cluster_": balanced({"load-balancer.hetzner.cloud/location": "fsn1"}, "NodePort")}),
    (
        "U210",
        {"cluster_": balanced({"load-balancer.hetzner.cloud/location": "x"}), "options": PATCH},
    ),
    ("U216", {"cluster_": balanced({f"{AWS}name": "edge", "meta.helm.sh/release-name": "x"})}),
    (
        "U304",
        {"cluster_": balanced({f"{AWS}scheme": "internal", "meta.helm.sh/release-name": "x"})},
    ),
    ("U305", {}),
    ("U101", {"objects": OURS}),
    ("U102", {"footprints": footprints(listeners=["other"], clusters=["other"])}),
    ("U102", {"footprints": (Footprint(PLACE, frozenset([NAME]), exposure=KEY),)}),
    ("U102", {"footprints": footprints(listeners=[NAME], doubt=DOUBT)}),
    ("U103", {"footprints": footprints(udp_ports=[53])}),
    ("U103", {"footprints": (Footprint(PLACE, udp_ports=frozenset([10053]), exposure=KEY),)}),
    ("U103", {"footprints": footprints(udp_ports=[10053], doubt=DOUBT)}),
    ("U104", {"bound": bound(protocol="TCP")}),
    ("U104", {"bound": bound(port=53)}),
    ("U104", {"bound": bound(name=NAME)}),
    (
        "U104",
        {"bound": bound(name="l"), "footprints": footprints(listeners=["l"], udp_ports=[10053])},
    ),
    ("U104", {"bound": bound(port=99, protocol="TCP", name=NAME), "objects": OURS}),
    ("U131", {"mesh": ONE_NAMESPACE, "namespaces": {"default": LAB, "istio-system": LAB}}),
    ("U131", {"mesh": ONE_NAMESPACE}),
    ("U131", {"namespaces": {"default": {}, "istio-system": {}}}),
    ("U132", {"mesh": NO_SELECTORS}),
    ("U132", {"cluster_": API_GATEWAY}),
    ("U208", {"footprints": footprints(udp_ports=[10053])}),
    ("U208", {"footprints": footprints(udp_ports=[99], listeners=["l"], doubt=DOUBT)}),
    (
        "U208",
        {
            "footprints": footprints(udp_ports=[10053], listeners=["l"], doubt=DOUBT),
            "bound": bound(name="l"),
        },
    ),
    ("U209", {"mesh": Mesh("elsewhere")}),
    ("U104", {"bound": None}),
    ("U105", {"cluster_": with_udp()}),
    ("U105", {"cluster_": with_udp(99), "options": PATCH}),
    (
        "U105",
        {"cluster_": with_udp(manager="kubectl-istio-udp/udp-default-coredns"), "options": PATCH},
    ),
    ("U106", {"exposures": (SPEC,)}),
    ("U107", {"cluster_": old("1.15.0")}),
    ("U107", {"cluster_": old("latest")}),
    ("U108", {"options": {"max_sessions": 8_000}, "file_limit": 10_000}),
    ("U108", {"options": {"max_sessions": 20_000}, "file_limit": None}),
    ("U205", {"options": {"max_sessions": 250}}),
    ("U303", {"options": {"max_sessions": 249}}),
    ("U303", {"exposures": (SPEC,)}),
    ("U109", {"cluster_": LIMITED, "size": ProxySize(16, 10_000)}),
    ("U109", {"cluster_": LIMITED, "size": None, "others": usage(ports=4_000)}),
    ("U109", {"size": ProxySize(16, 10_000), "others": usage(ports=4_000)}),
    (
        "U109",
        {
            "cluster_": LIMITED,
            "size": ProxySize(16, 10_000),
            "others": usage(ports=4_000),
            "exposures": (SPEC,),
        },
    ),
    ("U210", {"request": LISTED}),
    ("U219", {"request": LISTED}),
    ("U219", {"others_addresses": (("10.244.0.21", "pod lab/x"),)}),
    ("U210", {"rules": EndpointRules(pods=())}),
    ("U110", {"before": SPEC, "entries": same_host_as(SPEC, exported_to=(".",))}),
    (
        "U110",
        {
            "before": SPEC,
            "entries": same_host_as(SPEC, exported_to=("default", "~")),
        },
    ),
    (
        "U110",
        {
            "before": SPEC,
            "entries": same_host_as(SPEC, "default", SPEC.object_name),
        },
    ),
    ("U110", {"before": SPEC, "entries": EntryIndex.of([EntrySummary("istio-system", "x")])}),
    ("U201", {}),
    ("U201", {"cluster_": EXTERNAL}),
    ("U202", {}),
    ("U203", {}),
    ("U204", {}),
    ("U205", {}),
    ("U205", {"file_limit": None}),
    ("U204", {"cluster_": cluster(gateways=[gateway_pod(ready=False)]), "file_limit": None}),
    ("U206", {"exposures": (SPEC,)}),
    ("U230", {"request": {"ports": (PortRequest(443, 53),)}}),
    ("U230", {"options": PATCH}),
    ("U206", {"exposures": (dataclasses.replace(SPEC, service="other"),)}),
    ("U301", {"cluster_": cluster(gateway_service=gateway_service(type="ClusterIP"))}),
    ("U301", {"cluster_": cluster(gateway_service=None)}),
    ("U301", {"options": PATCH}),
    ("U302", {"request": {"ports": (PortRequest(5300),)}}),
    ("U302", {"cluster_": cluster(gateways=[gateway_pod(first_port=0)])}),
]


@pytest.mark.parametrize(("code", "case"), FIRES)
def test_a_rule_reports_its_finding(code: str, case: dict[str, Any]) -> None:
    (found, *_) = [f for f in findings(**case) if f.code == code]
    assert str(found) == f"{found.message} [{code}]"
    assert re.fullmatch(r"\w+( [a-z0-9.-]+/[a-z0-9.-]+| [a-z0-9-]+)", str(found.object))
    whole(found)


@pytest.mark.parametrize(("code", "case"), SILENT)
def test_a_rule_reports_nothing_without_its_problem(code: str, case: dict[str, Any]) -> None:
    assert code not in [f.code for f in findings(**case)]


def test_every_code_is_tested_both_ways() -> None:
    assert {code for code, _ in FIRES} == codes_of(RULES) == {code for code, _ in SILENT}


def test_every_text_is_tested() -> None:
    found = {(f.code, f.case) for code, case in FIRES for f in findings(**case)}
    assert found == texts_of(RULES)


def test_rules_read_what_they_declare() -> None:
    assert undeclared(RULES, ((code, *planned(**case)) for code, case in (*FIRES, *SILENT))) == {}


def test_errors_come_first() -> None:
    found = findings(
        cluster_=cluster(slices=[]), footprints=footprints(udp_ports=[10053], listeners=[NAME])
    )
    assert [f.code for f in found] == ["U102", "U103", "U201", "U301", "U302", "U303", "U306"]
    assert [f.code for f in errors(found)] == ["U102", "U103"]


def test_gateway_ports_that_lead_to_one_port_are_one_finding() -> None:
    ports = (PortRequest(5300, 53), PortRequest(5301, 53))
    found = findings(cluster_=UNREADY, request={"ports": ports})
    assert [f.code for f in found].count("U201") == 1


def test_a_port_taken_by_another_exposure_is_named() -> None:
    other = Footprint("istio-system/x", udp_ports=frozenset({10053}), exposure=("lab", "dns"))
    (found,) = errors(findings(footprints=(other,)))
    assert "is taken by EnvoyFilter istio-system/x (exposure dns of namespace lab)" in found.message
    assert found.remedy() == "choose another gateway port: -p PORT:53"


def test_too_many_sessions_names_the_number_that_fits() -> None:
    (found,) = errors(findings(options={"max_sessions": 20_000}, file_limit=10_000))
    assert found.remedy() == "use at most --max-sessions 8000"
    (found,) = errors(findings(options={"max_sessions": 5}, file_limit=0))
    assert "raise the file limit" in found.remedy()


def test_too_many_sessions_names_the_largest_exposures() -> None:
    held = [Holder(("team", name), 1, sessions) for name, sessions in (("a", 9), ("b", 7))]
    (found,) = errors(findings(file_limit=2_016, others=used_by(more=held)))
    assert "16 of 16 sessions are reserved, the most by team/a 9, team/b 7" in found.message


def test_an_address_of_others_may_be_allowed_for_the_controller() -> None:
    """A controller removes the address of another namespace's pod from the list again."""
    reported = findings(request=LISTED, others_addresses=(("10.244.0.21", "pod lab/x"),))
    (found,) = [f for f in reported if f.code == "U219"]
    assert found.remedy().endswith(
        "kubectl annotate namespace default kubectl-istio-udp/allow-endpoints=10.244.0.21"
    )


def test_few_sessions_names_the_rate_of_clients_that_they_serve() -> None:
    found = findings(options={"max_sessions": 50, "idle_timeout": Duration(20)}, file_limit=None)
    (few,) = [f for f in found if f.code == "U205"]
    assert "datagrams are lost above 2.5 new clients a second" in few.message
    assert few.remedy() == "if you expect more: --expect-rate N"


def test_a_finding_as_data() -> None:
    other = Footprint("istio-system/x", udp_ports=frozenset({10053}), exposure=("lab", "dns"))
    (found,) = errors(findings(footprints=(other,)))
    assert found.to_data() == {
        "code": "U103",
        "severity": "error",
        "object": {"kind": "EnvoyFilter", "namespace": "istio-system", "name": "x"},
        "field": 'spec.configPatches[?(@.applyTo=="LISTENER")].patch.value.address',
        "message": found.message,
        "values": {
            "port": 10053,
            "service_port": 53,
            "gateway": "istio-system/istio-ingressgateway",
            "namespace": "lab",
            "owner": "dns",
        },
        "remedy": {
            "commandLine": "choose another gateway port: -p PORT:53",
            "annotation": "choose another port in the annotation kubectl-istio-udp/expose",
            "listener": "choose another port for the listener",
        },
        "mayPass": True,
        "link": f"{PAGE}#u103-error",
    }


def test_events_name_no_objects_of_other_tenants() -> None:
    """Not another exposure, EnvoyFilter or ServiceEntry, nor how much others use."""
    for _, case in FIRES:
        for found in errors(findings(**case)):
            assert not {"lab", "hijack", "http3", "8000"} & set(re.findall(r"\w+", found.event))
