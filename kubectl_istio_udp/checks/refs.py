"""The objects and fields that findings name."""

from __future__ import annotations

from kubectl_istio_udp.model.exposure import Exposure
from kubectl_istio_udp.model.gateway import Gateway, GatewayRef
from kubectl_istio_udp.model.kinds import ObjectRef, Spec

# Fields of a gateway's pods.
PROXY_IMAGE = 'spec.containers[?(@.name=="istio-proxy")].image'
PROXY_MEMORY = 'spec.containers[?(@.name=="istio-proxy")].resources.limits.memory'
READY = 'status.conditions[?(@.type=="Ready")].status'
# The addresses of listeners that an EnvoyFilter adds.
LISTENER_ADDRESS = 'spec.configPatches[?(@.applyTo=="LISTENER")].patch.value.address'


def spec_ref(spec: Spec) -> ObjectRef:
    """An exposure, response or access log."""
    return ObjectRef(spec.kind.api_kind, spec.namespace, spec.name)


def gateway_ref(gateway: GatewayRef) -> ObjectRef:
    """The pods of a gateway."""
    return ObjectRef("gateway", gateway.namespace, gateway.name)


def gateway_service_ref(gateway: Gateway) -> ObjectRef:
    """A gateway's own Service."""
    return ObjectRef("Service", gateway.ref.namespace, gateway.service_name or gateway.ref.name)


def companion_ref(exposure: Exposure) -> ObjectRef:
    """The companion Service."""
    return ObjectRef("Service", exposure.spec.gateway.namespace, exposure.spec.object_name)


def owner_ref(kind: str, owner: str) -> ObjectRef:
    """An object of a kind, from `namespace/name`."""
    namespace, _, name = owner.rpartition("/")
    return ObjectRef(kind, namespace, name)


def service_port(number: int) -> str:
    """The entries of a Service's ports with a number."""
    return f"spec.ports[?(@.port=={number})]"


def patch_name(name: str) -> str:
    """The names of what an EnvoyFilter adds, where they are this one."""
    return f'spec.configPatches[?(@.patch.value.name=="{name}")].patch.value.name'


def server_hosts(port: int) -> str:
    """The hosts of an Istio Gateway's servers on a port."""
    return f"spec.servers[?(@.port.number=={port})].hosts"
