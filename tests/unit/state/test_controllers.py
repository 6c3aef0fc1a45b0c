"""What `controller status` reads about requests that are not met."""

from __future__ import annotations

import dataclasses

from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.sources.annotations import service_intent
from kubectl_istio_udp.state import controllers
from kubectl_istio_udp.state.ownership import Existing
from tests.support import builders
from tests.support.controlling import annotated


def existing(name: str, gateway: str) -> Existing:
    spec = builders.plan_of(name=name).exposure.spec
    spec = dataclasses.replace(spec, gateway=dataclasses.replace(spec.gateway, name=gateway))
    return Existing(Kind.EXPOSURE, "default", name, spec, ())


def test_only_an_exposure_at_the_same_gateway_has_the_port() -> None:
    intent = service_intent(annotated("mine", ports="53"))
    found = [existing("here", "edge"), existing("there", "other"), existing("mine", "edge")]
    message = "gateway istio-system/edge: port 10053/UDP is taken"
    assert controllers._holders(intent, found, message) == ["default/here"]
