"""From an object's labels and annotation to the spec of the thing that it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.accesslog import AccessLogSpec
from kubectl_istio_udp.model.errors import ClusterError
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.kinds import Kind, Spec
from kubectl_istio_udp.model.response import ResponseSpec

Sort = TypeVar("Sort")

_READERS: Mapping[Kind, Callable[[str], Spec]] = {
    Kind.EXPOSURE: ExposureSpec.from_json,
    Kind.RESPONSE: ResponseSpec.from_json,
    Kind.ACCESS_LOG: AccessLogSpec.from_json,
}


def spec_of(manifest: Mapping[str, Any]) -> Spec:
    """The spec that an object's annotation keeps.

    Raises:
        ClusterError: there is none, or it cannot be read.
    """
    metadata = manifest["metadata"]
    notes = metadata.get("annotations") or {}
    owner = names.owner_of(metadata.get("labels") or {})
    if owner is None or names.SPEC_ANNOTATION not in notes:
        raise ClusterError(
            f"{manifest['kind']} {metadata['namespace']}/{metadata['name']} has no annotation "
            f"{names.SPEC_ANNOTATION}"
        )
    return _READERS[owner[0]](notes[names.SPEC_ANNOTATION])


def readable(manifest: Mapping[str, Any], kind: type[Sort]) -> Sort | None:
    """The spec of a kind that an object belongs to; None where it is no (readable) one's."""
    try:
        spec = spec_of(manifest)
    except ClusterError:
        return None
    return spec if isinstance(spec, kind) else None
