"""Lines that Envoy 1.40 wrote in a gateway pod of Istio 1.31, in both formats of its log."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from kubectl_istio_udp.model.envoy_log import resource_rejections, route_rejections

MINE = "udp-default-coredns-5300"
CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
PRINTED = (
    f'gRPC config for {LISTENER} rejected: goo.gle/debugproto  \nname: "{MINE}"\naddress {{\n'
    '  socket_address {\n    address: "0.0.0.0"\n    port_value: 75300\n  }\n}\n'
    "udp_listener_config {\n}\n: Proto constraint validation failed (PortValue: too high)"
)
BIND = (
    f"gRPC config for {LISTENER} rejected: Error adding/updating listener(s) {MINE}: cannot bind "
    "'0.0.0.0:53': Permission denied\nother: goo.gle/debugstr  \n: no such field\n"
)
RING = "ring hash: minimum_ring_size (100) > maximum_ring_size (10)"


def text(*messages: str) -> str:
    head = "2026-11-25T21:17:20.663456Z\twarning\tenvoy upstream some/file.cc:74\t"
    return "".join(f"{head}{message}\tthread=13\n" for message in messages)


def as_json(*messages: str) -> str:
    entry = {"time": "2026-11-25T21:17:20Z", "level": "warning", "scope": "envoy upstream"}
    return "".join(
        json.dumps({**entry, "msg": message, "thread": "14"}) + "\n" for message in messages
    )


@pytest.mark.parametrize("written", [text, as_json])
@pytest.mark.parametrize(
    ("message", "found"),
    [
        (f"cds: cluster '{MINE}' config rejected: {RING}", {MINE: RING}),
        (
            f"lds: listener '{MINE}' config rejected: goo.gle/debugproto    \n: no such field",
            {MINE: "no such field"},
        ),
        (
            f"gRPC config for {CLUSTER} rejected: Error adding/updating cluster(s) theirs: "
            f"malformed IP address: x. Consider setting, for example, another, {MINE}: {RING}",
            {
                "theirs": "malformed IP address: x. Consider setting, for example, another",
                MINE: RING,
            },
        ),
        (
            BIND,
            {MINE: "cannot bind '0.0.0.0:53': Permission denied", "other": "no such field"},
        ),
        (PRINTED, {MINE: "Proto constraint validation failed (PortValue: too high)"}),
        (
            f"delta config for {LISTENER} rejected: duplicate listener {MINE} found",
            {MINE: f"duplicate listener {MINE} found"},
        ),
        (f"all is well with {MINE}", {}),
        (f"config of {MINE} accepted, of others rejected: no name here", {}),
    ],
)
def test_reads_the_rejected_resource_and_the_reason(
    written: Callable[..., Any], message: str, found: dict[str, Any]
) -> None:
    assert resource_rejections(written("starting", message, "going on")) == found


@pytest.mark.parametrize("written", [text, as_json])
def test_a_longer_name_is_another_resource(written: Callable[..., Any]) -> None:
    log = written(f"cds: cluster '{MINE}0' config rejected: {RING} {MINE}: no")
    assert resource_rejections(log) == {f"{MINE}0": f"{RING} {MINE}: no"}


def test_of_several_rejections_the_newest_counts() -> None:
    log = as_json(f"cds: cluster '{MINE}' config rejected: old") + text(
        f"cds: cluster '{MINE}' config rejected: new"
    )
    assert resource_rejections(log) == {MINE: "new"}


@pytest.mark.parametrize("log", ["", "\n", "{", '{"msg": 5}\n', "[1]\n", "{}\n"])
def test_other_log_lines_are_ignored(log: str) -> None:
    assert resource_rejections(log) == {}
    assert route_rejections(log) == []


@pytest.mark.parametrize("written", [text, as_json])
def test_rejected_routes_have_no_name(written: Callable[..., Any]) -> None:
    message = (
        "gRPC config for type.googleapis.com/envoy.config.route.v3.RouteConfiguration rejected: "
        "response body size is 5000 bytes; maximum is 4096"
    )
    assert route_rejections(written(message)) == [message.partition("rejected: ")[2]]
    assert resource_rejections(written(message)) == {}
