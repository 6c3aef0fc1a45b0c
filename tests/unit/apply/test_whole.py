"""Edits that a server-side apply cannot undo."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest

from kubectl_istio_udp.apply.exact import apply_write, edit_text
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import ClusterError
from kubectl_istio_udp.model.write import Write
from tests.support.apiserver import ApiServer

KEY = ("ServiceEntry", "default", "udp-default-coredns")
SPEC = {
    "hosts": ["coredns.example"],
    "ports": [{"name": "port-53", "number": 53, "protocol": "TCP"}],
    "workloadSelector": {"labels": {"app": "coredns"}},
}
WRITE = Write(
    {
        "apiVersion": "networking.istio.io/v1",
        "kind": KEY[0],
        "metadata": {"namespace": KEY[1], "name": KEY[2], "labels": {}, "annotations": {}},
        "spec": SPEC,
    },
    "us",
)


def istiod(manifest: Any) -> str:
    """The check of istiod's webhook for ServiceEntries (Istio 1.31)."""
    both = {"endpoints", "workloadSelector"} <= set(manifest.get("spec") or ())
    return "only one of WorkloadSelector or Endpoints is allowed in Service Entry" if both else ""


def edited(server: ApiServer, edit: Any) -> Any:
    """The object as we wrote it, then edited by another user."""
    server.admit = istiod
    server.apply(KEY, copy.deepcopy(dict(WRITE.manifest)), "us", False, False)
    manifest = server.get(*KEY)
    edit(manifest["spec"])
    server.put(manifest)
    return server.get(*KEY)


def other_endpoints(spec: Any) -> None:
    del spec["workloadSelector"]
    spec["endpoints"] = [{"address": "10.0.0.1"}]


def more_labels(spec: Any) -> None:
    spec["workloadSelector"]["labels"]["nobody"] = "has this"


def more_fields(spec: Any) -> None:
    spec["subjectAltNames"] = ["evil.example"]


def null_field(spec: Any) -> None:
    spec["subjectAltNames"] = None


@pytest.mark.parametrize("edit", [other_endpoints, more_labels, more_fields])
def test_fields_added_by_others_are_removed_and_only_the_plugin_owns_the_rest(
    api: Api, server: ApiServer, edit: Any
) -> None:
    before = edited(server, edit)
    applied = apply_write(api, WRITE, before=before, force=True)
    after = server.get(*KEY)
    assert applied.verb == "changed" and after and after["spec"] == SPEC
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    managers = {(m["manager"], m["operation"]) for m in after["metadata"]["managedFields"]}
    assert ("us", "Update") not in managers
    # So that the next change conflicts with no own field, and needs one request.
    asked = len(server.requests)
    changed = copy.deepcopy(dict(WRITE.manifest))
    changed["spec"]["workloadSelector"]["labels"] = {"app": "other"}
    apply_write(api, Write(changed, "us"), before=after, force=True)
    assert len(server.requests) == asked + 1
    assert server.get(*KEY)["spec"]["workloadSelector"]["labels"] == {"app": "other"}


@pytest.mark.parametrize("edit", [other_endpoints, more_labels])
def test_fields_of_others_are_only_removed_by_force(api: Api, server: ApiServer, edit: Any) -> None:
    before = edited(server, edit)
    rejected = edit is other_endpoints
    with pytest.raises(ClusterError) if rejected else contextlib.nullcontext() as error:
        apply_write(api, WRITE, before=before, force=False)
    if error is not None:
        assert error.value.hints == (edit_text(WRITE, before),)
    assert server.get(*KEY)["spec"].keys() == before["spec"].keys()


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        (other_endpoints, "spec.endpoints"),
        (more_labels, "spec.workloadSelector.labels.nobody"),
        (more_fields, "spec.subjectAltNames"),
        (null_field, "spec"),
        (lambda _: None, ""),
    ],
)
def test_an_edit_is_named_with_the_remedy(server: ApiServer, edit: Any, field: str) -> None:
    text = edit_text(WRITE, edited(server, edit))
    assert (f"({field}); to undo this: --force-conflicts" in text) if field else not text


def test_another_object_with_the_name_is_not_changed(api: Api, server: ApiServer) -> None:
    before = edited(server, other_endpoints)
    server.remove(*KEY)
    server.put({**before, "metadata": {"namespace": KEY[1], "name": KEY[2]}})
    theirs = server.state()[KEY]
    with pytest.raises(ClusterError):
        apply_write(api, WRITE, before=before, force=True)
    assert server.state()[KEY] == theirs


def test_an_invalid_manifest_is_reported(api: Api, server: ApiServer) -> None:
    before = edited(server, more_fields)
    server.admit = lambda _: "no"
    with pytest.raises(ClusterError, match="no"):
        apply_write(api, WRITE, before=before, force=True)


def test_a_port_added_to_the_companion_is_removed_and_its_own_keeps_the_node_port(
    api: Api, server: ApiServer
) -> None:
    key = ("Service", "istio-system", "udp-default-coredns")
    port = {"name": "udp-5300", "port": 5300, "protocol": "UDP", "targetPort": 5300}
    manifest = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": key[1], "name": key[2], "labels": {}, "annotations": {}},
        "spec": {"ports": [port], "type": "NodePort"},
    }
    server.apply(key, copy.deepcopy(manifest), "us", False, False)
    there = server.get(*key)
    there["spec"]["ports"][0]["nodePort"] = 31_234
    there["spec"]["ports"].append({"name": "x", "port": 5301, "protocol": "UDP"})
    server.put(there)
    apply_write(api, Write(manifest, "us"), before=server.get(*key), force=True)
    assert server.get(*key)["spec"]["ports"] == [{**port, "nodePort": 31_234}]
