"""Which field manager owns the ports of a gateway's Service."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from kubectl_istio_udp.model.managed_fields import (
    conflicting_ports,
    exposure_managers,
    has_other_ports,
    is_managed,
    last_written,
    managed_ports,
    manager_of,
)

DNS = "kubectl-istio-udp/udp-default-dns"
LOGS = "kubectl-istio-udp/udp-default-logs"


def owner(manager: str, *ports: str, **more: Any) -> dict[str, Any]:
    """An entry of managedFields; ports such as `53/UDP`."""
    pairs = (port.split("/") for port in ports)
    owned: dict[str, Any] = {
        f'k:{{"port":{number},"protocol":"{protocol}"}}': {} for number, protocol in pairs
    }
    fields = {"f:spec": {"f:ports": owned}}
    return {"manager": manager, "operation": "Apply", "fieldsV1": fields, **more}


def entry(number: int, name: str, protocol: str | None = "UDP") -> dict[str, Any]:
    port = {"port": number, "name": name}
    return {**port, "protocol": protocol} if protocol else port


HTTP, DNS_PORT, LOGS_PORT = entry(80, "http", None), entry(53, "udp-53"), entry(514, "udp-514")
SERVICE: dict[str, Any] = {
    "metadata": {
        "managedFields": [
            owner("helm", "80/TCP"),
            owner(DNS, "53/UDP"),
            owner(LOGS, "514/UDP"),
        ]
    },
    "spec": {"ports": [HTTP, DNS_PORT, LOGS_PORT]},
}
# A Service without managedFields and ports, as manifests in files have it.
BARE: dict[str, Any] = {"metadata": {}, "spec": {}}


def test_managers_of_exposures_have_the_plugins_prefix() -> None:
    assert exposure_managers(SERVICE) == {DNS, LOGS}
    assert exposure_managers(BARE) == exposure_managers({}) == frozenset()
    nameless = {"metadata": {"managedFields": [{"operation": "Update"}]}}
    assert exposure_managers(nameless) == frozenset()


def test_a_manager_is_found_by_its_whole_name() -> None:
    assert is_managed(SERVICE, DNS)
    assert not is_managed(SERVICE, "kubectl-istio-udp")
    assert not is_managed(BARE, DNS)


@pytest.mark.parametrize(
    ("manager", "ports"), [("helm", [HTTP]), (DNS, [DNS_PORT]), (LOGS, [LOGS_PORT]), ("other", [])]
)
def test_a_manager_has_its_ports(manager: str, ports: list[dict[str, Any]]) -> None:
    assert managed_ports(SERVICE, manager) == ports


@pytest.mark.parametrize("fields", [None, {}, {"f:metadata": {}}, {"f:spec": {}}])
def test_a_manager_of_other_fields_has_no_port(fields: Any) -> None:
    managed = [{"manager": DNS, "fieldsV1": fields}]
    service = {"metadata": {"managedFields": managed}, "spec": SERVICE["spec"]}
    assert managed_ports(service, DNS) == []


def test_a_service_without_ports_has_none_of_anybody() -> None:
    assert managed_ports({**SERVICE, "spec": {}}, DNS) == []
    assert managed_ports(BARE, DNS) == conflicting_ports(BARE, DNS, 53) == []
    assert not has_other_ports({**SERVICE, "spec": {}})


@pytest.mark.parametrize(
    ("manager", "port", "conflicts"),
    [
        (DNS, 53, []),
        (LOGS, 53, [DNS_PORT]),
        (DNS, 514, [LOGS_PORT]),
        (DNS, 80, []),
        (DNS, 5300, []),
    ],
)
def test_ports_of_others_conflict(manager: str, port: int, conflicts: list[Any]) -> None:
    """The same number of TCP does not."""
    assert conflicting_ports(SERVICE, manager, port) == conflicts


def test_a_port_with_the_name_of_the_new_one_conflicts() -> None:
    named = entry(8053, "udp-53", "TCP")
    service = {**SERVICE, "spec": {"ports": [HTTP, named]}}
    assert conflicting_ports(service, DNS, 53) == [named]


def test_ports_that_no_exposure_owns() -> None:
    assert has_other_ports(SERVICE)
    assert not has_other_ports({**SERVICE, "spec": {"ports": [DNS_PORT, LOGS_PORT]}})


def test_the_manager_that_applied_the_spec() -> None:
    status: dict[str, Any] = {"f:status": {}}
    managed = [
        owner("controller", operation="Update"),
        owner("cloud", fieldsV1=status),
        owner(DNS, "53/UDP"),
    ]
    assert manager_of({"metadata": {"managedFields": managed}}) == DNS
    assert manager_of({"metadata": {"managedFields": managed[:2]}}) is None
    assert manager_of(BARE) is None


def test_the_last_write_is_the_newest_of_all_managers() -> None:
    managed = [
        owner("helm", time="2026-11-26T09:00:00Z"),
        owner(DNS, time="2026-11-26T10:00:00Z"),
        owner("old"),
    ]
    found = last_written({"metadata": {"managedFields": managed}})
    assert found == datetime(2026, 11, 26, 10, tzinfo=timezone.utc)
    assert last_written(BARE) is None
