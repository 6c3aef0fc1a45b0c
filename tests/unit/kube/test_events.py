"""Events about objects with long names."""

from __future__ import annotations

import re

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.events import write_event
from kubectl_istio_udp.model.about import About
from tests.support.apiserver import ApiServer

# The names of objects (RFC 1123 subdomains).
_VALID = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


@pytest.mark.parametrize(
    "name", ["a" * 199 + ".b", "a" * 199 + "-b", "a" * 198 + ".-b", "a" * 253, "short"]
)
def test_the_name_of_an_event_is_valid(api: Api, server: ApiServer, name: str) -> None:
    about = About("Gateway", "gateway.networking.k8s.io/v1", "default", name, "uid")
    write_event(api, about, reason="Told", message="text", warning=True, by="one", secret="")
    (event,) = server.all("Event")
    assert _VALID.fullmatch(event["metadata"]["name"]) and len(event["metadata"]["name"]) <= 253
    assert event["involvedObject"]["name"] == name
