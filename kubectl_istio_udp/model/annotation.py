"""The annotation in which every object keeps the spec of its thing: versioned JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from kubectl_istio_udp.model.errors import ClusterError, UsageError
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.names import SPEC_ANNOTATION

SPEC_VERSION = 1
_MADE_BY = {
    Kind.EXPOSURE: "expose",
    Kind.RESPONSE: "direct response",
    Kind.ACCESS_LOG: "access-log",
}
Made = TypeVar("Made")


def write_spec(data: Mapping[str, Any]) -> str:
    """The annotation's text, sorted, so that the same spec is the same text."""
    return json.dumps({"version": SPEC_VERSION, **data}, sort_keys=True, separators=(",", ":"))


def read_spec(text: str, kind: Kind, build: Callable[[dict[str, Any]], Made]) -> Made:
    """Read the annotation.

    Args:
        text: its value.
        kind: whose it is.
        build: makes the spec from the decoded fields.

    Raises:
        ClusterError: another version wrote it, or someone edited it.
    """
    try:
        data = json.loads(text)
        version = data.pop("version")
        if version != SPEC_VERSION:
            raise ClusterError(
                f"this {kind.words} was written in format {version}; this version reads "
                f"format {SPEC_VERSION}",
                hints=["use the kubectl istio-udp that made it, or a newer one"],
            )
        return build(data)
    except (ValueError, TypeError, KeyError, AttributeError, UsageError) as error:
        raise ClusterError(
            f"the annotation {SPEC_ANNOTATION} cannot be read: {error}",
            hints=[f"put it right by `kubectl istio-udp {_MADE_BY[kind]}` with --force-conflicts"],
        ) from error
