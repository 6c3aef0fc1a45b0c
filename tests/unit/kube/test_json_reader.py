"""Answers of the API server that are hard to read, or that another server gives in its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.http_errors import Action, refusal
from kubectl_istio_udp.kube.json_reader import decoded
from kubectl_istio_udp.model.errors import Unreachable
from kubectl_istio_udp.model.resources import RESOURCES
from tests.support.connection import connected
from tests.support.kubeconfig_cases import TOKEN, config
from tests.support.recording import answering

# The API server's limit is 10,000 levels, that of Python 3.12 about 1,000.
LEVELS = 5_000
# For every Python: 3.13 reads about 10,000.
TOO_DEEP = 100_000


def envoy_filter(name: str, value: str) -> str:
    metadata = json.dumps({"name": name, "namespace": "lab", "resourceVersion": "7"})
    return f'{{"metadata": {metadata}, "spec": {{"configPatches": [{value}]}}}}'


FILTERS = [
    envoy_filter("deep", '{"a]\\"": [' * LEVELS + "1" + "]}" * LEVELS),
    envoy_filter("plain", '{"applyTo": "LISTENER"}'),
]
LISTED = f'{{"metadata": {{"resourceVersion": "9"}}, "items": [{",".join(FILTERS)}]}}'
EVENTS = "".join(f'{{"type": "ADDED", "object": {each}}}\n' for each in FILTERS)


def response(body: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body.encode())}\r\n\r\n{body}".encode()


def client(port: int, folder: Path) -> Api:
    path = folder / "config"
    path.write_text(str(config({"server": f"http://127.0.0.1:{port}"}, TOKEN)), encoding="utf-8")
    return connected(path)


def names_and_patches(manifests: Any) -> list[tuple[str, Any]]:
    return [(each["metadata"]["name"], each["spec"]["configPatches"]) for each in manifests]


@pytest.mark.parametrize("how", ["list", "page", "watch"])
def test_a_deep_object_does_not_hide_others(tmp_path: Path, how: str) -> None:
    """A tenant can write such an EnvoyFilter."""
    with answering(response(EVENTS if how == "watch" else LISTED)) as port:
        api = client(port, tmp_path)
        if how == "list":
            found = api.list("EnvoyFilter")
        elif how == "page":
            found = [*api.list_page("EnvoyFilter", None, limit=5).items]
        else:
            watch = api.watch("EnvoyFilter", None, "1", seconds=5, silence=5)
            found = [manifest for _, manifest in watch]
    (deep, _), plain = names_and_patches(found)
    assert (deep, plain) == ("deep", ("plain", [{"applyTo": "LISTENER"}]))


def test_what_is_too_deep_is_null() -> None:
    deep = b"[" * TOO_DEEP + b"1" + b"]" * TOO_DEEP
    text = b'[{"x": %b}, "[{", {"y": [2]}]' % deep
    first, *rest = decoded(text)
    assert rest == ["[{", {"y": [2]}]
    inner, levels = first["x"], 0
    while inner is not None:
        (inner,), levels = inner, levels + 1
    assert 50 < levels < 200


@pytest.mark.parametrize(
    "text",
    ["[" * LEVELS, "[" * LEVELS + "]" * (LEVELS - 1), "{", "", "x"],
    ids=["open", "one open", "short", "empty", "a word"],
)
def test_what_is_not_json_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"Expecting|brackets"):
        decoded(text.encode())


EMPTY = '{"metadata": {"resourceVersion": "1"}, "items": null}'


def test_a_list_of_null_is_empty(tmp_path: Path) -> None:
    """Go's JSON for a list without memory; servers of aggregated APIs and proxies answer it."""
    with answering(response(EMPTY), response(EMPTY)) as port:
        api = client(port, tmp_path)
        assert api.list("Pod") == []
        assert api.list_page("Pod", None, limit=5).items == []


FOREIGN = ["{}", '{"status": "ok"}', '{"metadata": []}', "[]", '"text"', "null"]
NO_LISTS = [
    '{"kind": "Status"}',
    '{"metadata": {}}',
    '{"metadata": {}, "items": {}}',
    '{"metadata": {}, "items": [null]}',
    '{"metadata": {}, "items": [{}]}',
]


@pytest.mark.parametrize("body", [*FOREIGN, *NO_LISTS])
def test_json_of_another_server_is_reported(tmp_path: Path, body: str) -> None:
    ask: list[Callable[[Api], object]] = [
        lambda api: api.list("Pod"),
        lambda api: api.list_page("Pod", None, limit=5),
    ]
    if body in FOREIGN:
        ask.append(lambda api: api.get("Pod", "default", "p"))
    for each in ask:
        wrong = pytest.raises(Unreachable, match="does not answer like a Kubernetes API server")
        with answering(response(body)) as port, wrong:
            each(client(port, tmp_path))


@pytest.mark.parametrize("status", [401, 403, 404, 409, 429, 500, 503])
@pytest.mark.parametrize(
    "body",
    ['{"message": {"text": "no"}}', '{"message": 5}', '{"details": [{"x": 1}]}', '{"details": 1}'],
)
def test_an_error_in_another_format_is_reported(status: int, body: str) -> None:
    """A proxy's, for example."""
    found = refusal(status, body.encode(), Action("patch", RESOURCES["Pod"], "default", "p"), {})
    assert status in (401, 404) or body in found.message
