"""The words for kinds, and from an object to its owner."""

from __future__ import annotations

import json

import pytest

from kubectl_istio_udp.model.accesslog import AccessLogSpec
from kubectl_istio_udp.model.errors import ClusterError
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.fields import whole_number
from kubectl_istio_udp.model.kinds import Kind, ObjectRef, Ref
from kubectl_istio_udp.model.response import ResponseSpec
from kubectl_istio_udp.model.spec_annotation import read_spec, write_spec
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.render.accesslog import access_log_writes
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.render.response import response_writes
from kubectl_istio_udp.state.ownership import spec_of
from tests.support.builders import plan_of
from tests.support.mesh_builders import RATINGS, access_log, response

NOTE = "kubectl-istio-udp/spec"
MADE = [
    (plan_of().exposure.spec, writes(plan_of().exposure)),
    (response(creates_gateway=True).spec, response_writes(response(creates_gateway=True))),
    (
        response(mesh=True, hosts=(RATINGS,)).spec,
        response_writes(response(mesh=True, hosts=(RATINGS,))),
    ),
    (access_log(), access_log_writes(access_log())),
]


@pytest.mark.parametrize(
    ("kind", "label", "words", "prefix", "shown"),
    [
        (Kind.EXPOSURE, "kubectl-istio-udp/exposure", "exposure", "udp", "a"),
        (Kind.RESPONSE, "kubectl-istio-udp/response", "response", "response", "response/a"),
        (Kind.ACCESS_LOG, "kubectl-istio-udp/accesslog", "access log", "accesslog", "accesslog/a"),
    ],
)
def test_names_of_a_kind(kind: Kind, label: str, words: str, prefix: str, shown: str) -> None:
    assert (kind.label, kind.words, kind.object_prefix) == (label, words, prefix)
    assert str(Ref(kind, "a")) == shown


def test_the_annotation_is_versioned_and_sorted() -> None:
    assert write_spec({"b": 1, "a": [2]}) == '{"a":[2],"b":1,"version":1}'
    text, whole = '{"version":1,"a":2}', whole_number(0, 9)
    assert read_spec(text, Kind.RESPONSE, lambda fields: fields.take("a", whole)) == 2


@pytest.mark.parametrize("version", [0, 2, True])
@pytest.mark.parametrize("kind", Kind)
def test_reports_another_version(kind: Kind, version: bool | int) -> None:
    said = f"this {kind.words} was written in format {version}; this version reads format 1"
    with pytest.raises(ClusterError, match=said) as caught:
        read_spec(json.dumps({"version": version}), kind, lambda fields: fields)
    assert caught.value.hints == (
        "use the version of kubectl istio-udp that wrote it, or a newer one",
    )


@pytest.mark.parametrize(
    ("kind", "verb"),
    [
        (Kind.EXPOSURE, "expose"),
        (Kind.RESPONSE, "direct response"),
        (Kind.ACCESS_LOG, "access-log"),
    ],
)
@pytest.mark.parametrize("text", ["{", "[]", "null", "{}", '"x"', "1"])
def test_reports_an_invalid_annotation(kind: Kind, verb: str, text: str) -> None:
    with pytest.raises(ClusterError, match=f"the annotation {NOTE} cannot be read") as caught:
        read_spec(text, kind, lambda fields: fields)
    assert caught.value.hints == (f"repair it: kubectl istio-udp {verb} ... --force-conflicts",)


@pytest.mark.parametrize(("spec", "written"), MADE)
def test_every_object_names_its_owner(
    spec: AccessLogSpec | ExposureSpec | ResponseSpec, written: tuple[Write, ...]
) -> None:
    assert tuple(ObjectRef(*write.key) for write in written) == spec.objects
    for write in written:
        assert spec_of(write.manifest) == spec


@pytest.mark.parametrize(
    ("part", "problem"),
    [("labels", "its labels do not name one"), ("annotations", f"has no annotation {NOTE}")],
)
@pytest.mark.parametrize(("spec", "written"), MADE)
def test_an_object_without_labels_or_annotation_has_no_owner(
    spec: AccessLogSpec | ExposureSpec | ResponseSpec,
    written: tuple[Write, ...],
    part: str,
    problem: str,
) -> None:
    metadata = {**written[0].manifest["metadata"], part: None}
    with pytest.raises(ClusterError, match=problem):
        spec_of({**written[0].manifest, "metadata": metadata})
