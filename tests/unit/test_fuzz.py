"""A forged annotation only affects its own object.

`make fuzz` reads 100,000 documents; `make test` reads a thousand.
"""

from __future__ import annotations

import copy
import tracemalloc
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.accesslog import AccessLogSpec
from kubectl_istio_udp.model.envoyfilter import Footprint
from kubectl_istio_udp.model.errors import ClusterError, Unreadable
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.response import ResponseSpec
from kubectl_istio_udp.model.spec_annotation import LONGEST_SPEC_BYTES
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.state.ownership import resolve
from tests.support.builders import plan_of
from tests.support.effort import examples
from tests.support.forged import JSON, documents
from tests.support.mesh_builders import access_log, manifests_of, response

READERS: dict[str, tuple[Any, Any]] = {
    "exposure": (ExposureSpec, plan_of().exposure.spec),
    "response": (ResponseSpec, response().spec),
    "accesslog": (AccessLogSpec, access_log()),
}
LONGEST_MESSAGE = 400


def check(kind: str, text: str) -> None:
    """Reading gives a good spec, or one of our errors of bounded length."""
    reader, _ = READERS[kind]
    try:
        spec = reader.from_json(text)
    except ClusterError as error:
        assert 0 < len(error.message) <= LONGEST_MESSAGE
        return
    assert reader.from_json(spec.to_json()) == spec
    assert names.is_dns_label(spec.namespace) and names.is_dns_label(spec.name)
    for ref in spec.objects:
        assert ref.namespace == "" or names.is_dns_label(ref.namespace)
        assert ref.name.startswith(spec.object_name)
    gateway = getattr(spec, "gateway", None)
    for part in (gateway.name, *gateway.selector, *gateway.selector.values()) if gateway else ():
        assert part.isascii() and part.isprintable() and ".." not in part.split("/")
    if isinstance(spec, ExposureSpec):
        assert names.is_dns_label(spec.service)
        assert all(type(port.gateway_port) is int for port in spec.ports)


FUZZ = settings(
    max_examples=examples(340),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("kind", READERS)
def test_any_text_is_a_spec_or_a_reported_error(kind: str) -> None:
    read = 0

    @FUZZ
    @given(documents(READERS[kind][1].to_json()))
    def fuzz(text: str) -> None:
        nonlocal read
        read += 1
        check(kind, text)

    fuzz()
    print(f"{read} documents read as {kind}")
    assert read > FUZZ.max_examples // 2


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"version":1,"a":' + "[" * 50_000 + "]" * 50_000 + "}",
        '{"version":' + "9" * 100_000 + "}",
        '{"version":1,"version":1}',
        '{"version":true}',
        "NaN",
        '"' + "\\u0000" * 20_000,
        "x" * (LONGEST_SPEC_BYTES + 1),
        "\u20ac" * (LONGEST_SPEC_BYTES // 2),
        "\ud800",
    ],
)
def test_deep_or_huge_annotations_cost_little(text: str) -> None:
    tracemalloc.start()
    try:
        for reader, _ in READERS.values():
            with pytest.raises((Unreadable, ClusterError)):
                reader.from_json(text)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("value", [None, 5, b"{}", [], {}, True])
def test_an_annotation_that_is_not_text_is_unreadable(value: Any) -> None:
    for reader, _ in READERS.values():
        with pytest.raises(Unreadable):
            reader.from_json(value)


MANIFESTS = [
    *(dict(write.manifest) for write in writes(plan_of().exposure)),
    *manifests_of(response()),
    *manifests_of(access_log()),
]


@st.composite
def odd_objects(draw: st.DrawFn) -> dict[str, Any]:
    """One of our objects with other labels, annotation, name or namespace, as the API allows."""
    found: dict[str, Any] = copy.deepcopy(draw(st.sampled_from(MANIFESTS)))
    metadata = found["metadata"]
    text = st.text(max_size=40)
    if draw(st.booleans()):
        metadata["labels"] = draw(
            st.none()
            | st.dictionaries(st.sampled_from(list(metadata["labels"])) | text, text, max_size=5)
        )
    if draw(st.booleans()):
        kind = draw(st.sampled_from(list(READERS)))
        note = draw(documents(READERS[kind][1].to_json()))
        metadata["annotations"] = draw(st.none() | st.just({names.SPEC_ANNOTATION: note}))
    for field in ("name", "namespace"):
        if draw(st.booleans()):
            metadata[field] = draw(st.sampled_from(["a", "default", "istio-system", "udp-a-b"]))
    metadata["creationTimestamp"] = draw(st.none() | st.just("2026-01-02T03:04:05Z") | text)
    return found


@settings(FUZZ, max_examples=FUZZ.max_examples // 10)
@given(st.lists(odd_objects(), max_size=6))
def test_every_object_belongs_to_one_owner_or_is_a_stray(objects: list[dict[str, Any]]) -> None:
    state = resolve(objects)
    members = [manifest for existing in state.existing for manifest in existing.objects]
    assert len(members) + len(state.strays) == len(objects)
    for existing in state.existing:
        assert existing.spec is None or existing.spec.key == (existing.namespace, existing.name)


@settings(FUZZ, max_examples=FUZZ.max_examples // 10)
@given(
    st.lists(
        JSON
        | st.fixed_dictionaries(
            {"applyTo": st.sampled_from(["LISTENER", "CLUSTER"]) | JSON},
            optional={
                "match": JSON,
                "patch": JSON
                | st.fixed_dictionaries(
                    {"operation": st.sampled_from(["ADD", "INSERT_FIRST"]) | JSON, "value": JSON}
                ),
            },
        ),
        max_size=4,
    )
)
def test_an_envoy_filter_of_any_content_can_be_read(patches: list[Any]) -> None:
    """The API server takes whatever value for a patch."""
    filter_ = {"metadata": {"namespace": "a", "name": "b"}, "spec": {"configPatches": patches}}
    assert Footprint.from_object(filter_).owner == "a/b"
