"""Names in certificates; the results are those of Go."""

from __future__ import annotations

import pytest

from kubectl_istio_udp.kube.hostnames import matches


@pytest.mark.parametrize(
    ("name", "wanted", "result"),
    [
        ("api.example", "api.example", True),
        ("API.example", "api.EXAMPLE", True),
        ("api.example", "api.example.", True),
        ("my_api.example", "my_api.example", True),
        ("*.example", "api.example", True),
        ("*.api.example", "a.api.example", True),
        ("*.example", "a.api.example", False),
        ("*.example", "example", False),
        ("*.example", ".example", False),
        ("a*.example", "api.example", False),
        ("api.*", "api.example", False),
        ("api.*.example", "api.x.example", False),
        ("*.*.example", "a.api.example", False),
        ("*", "localhost", False),
        ("*.", "localhost.", False),
        ("", "", False),
        ("api.example\0.evil", "api.example", False),
        ("127.0.0.1", "127.0.0.1", False),
        ("*.0.0.1", "127.0.0.1", False),
    ],
)
def test_dns_names(name: str, wanted: str, result: bool) -> None:
    assert matches("DNS", name, wanted) == result


@pytest.mark.parametrize(
    ("kind", "name", "wanted", "result"),
    [
        ("IP Address", "127.0.0.1", "127.0.0.1", True),
        ("IP Address", "0:0:0:0:0:0:0:1\n", "::1", True),
        ("IP Address", "127.0.0.1", "127.0.0.2", False),
        ("IP Address", "<invalid>", "127.0.0.2", False),
        ("IP Address", "127.0.0.1", "localhost", False),
        ("URI", "https://localhost", "localhost", False),
        ("email", "localhost", "localhost", False),
    ],
)
def test_other_names(kind: str, name: str, wanted: str, result: bool) -> None:
    assert matches(kind, name, wanted) == result
