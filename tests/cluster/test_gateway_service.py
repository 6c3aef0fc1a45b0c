"""How clients reach the port: companion, patch, none."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from conftest import GATEWAY_NAMESPACE, Space, dns_server, eventually, get, kubectl, wait_answered

# They change what all tests share, or measure what others would disturb.
pytestmark = pytest.mark.alone

OWN = "istio-ingressgateway"
GROUND_RUN = os.environ.get("E2E_GROUND_RUN", "")


def udp_ports() -> list[int]:
    ports = get("service", "-n", GATEWAY_NAMESPACE, OWN)["spec"]["ports"]
    return sorted(p["port"] for p in ports if p["protocol"] == "UDP")


def test_patch_adds_and_removes_only_the_exposures_ports(space: Space, port: int) -> None:
    space.apply(*dns_server("one"), *dns_server("two"))
    before = get("service", "-n", GATEWAY_NAMESPACE, OWN)["spec"]["ports"]
    for name, number in (("one", port), ("two", port + 100)):
        exposed = space.expose(name, "-p", f"{number}:53", "--gateway-service", "patch")
        assert f"service/{OWN} serverside-applied" in exposed.out
    assert udp_ports() == [port, port + 100]
    again = space.expose("one", "-p", f"{port}:53", "--gateway-service", "patch")
    assert f"service/{OWN} unchanged" in again.out
    verified = space.verify("--all")
    assert verified.code == 0, verified.both
    assert f"service {OWN}" in verified.out
    assert space.plugin("delete", "one").code == 0
    assert udp_ports() == [port + 100]
    assert space.verify("two").code == 0
    back = space.expose("two", "-p", f"{port + 100}:53", "--gateway-service", "companion")
    assert "UDP ports of the exposure" in back.out
    assert get("service", "-n", GATEWAY_NAMESPACE, OWN)["spec"]["ports"] == before
    # Its companion's load balancer has no address at first.
    wait_answered(space, "two")


def test_patched_port_survives_a_reinstallation(space: Space, port: int) -> None:
    """Istio's installer applies its Service again; its ports and the exposure's port stay."""
    ground = os.environ.get("GROUND")
    if not ground or os.environ.get("E2E_CLUSTER") == "current":
        pytest.skip("reinstalling Istio is for the project's own cluster")
    space.apply(*dns_server())
    space.expose("dns", "-p", f"{port}:53", "--gateway-service", "patch")
    kubectl("label", "service", "-n", GATEWAY_NAMESPACE, OWN, "istio-")
    before = get("service", "-n", GATEWAY_NAMESPACE, OWN)
    done = subprocess.run(
        [ground, "istio", "--set", "meshConfig.accessLogFile=/dev/stdout"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    after = get("service", "-n", GATEWAY_NAMESPACE, OWN)
    # The installer restored the deleted label, so it has written this object.
    assert "istio" in after["metadata"]["labels"]
    assert "istio" not in before["metadata"]["labels"]
    assert after["spec"]["ports"] == before["spec"]["ports"]
    assert port in udp_ports()
    eventually("it answers", lambda: space.verify("dns").code == 0)


def test_none_creates_no_service(space: Space, port: int) -> None:
    space.apply(*dns_server())
    exposed = space.expose("dns", "-p", f"{port}:53", "--gateway-service", "none")
    assert "service/" not in exposed.out
    pod = get("pods", "-n", GATEWAY_NAMESPACE, "-l", "istio=ingressgateway")["items"][0]
    assert f"clients reach dns:53 at {pod['status']['podIP']}:{port}/UDP" in exposed.out
    verified = space.verify("dns")
    assert verified.code == 0, verified.both
    low = space.expose("dns", "-p", "53", "--gateway-service", "none", "--name", "low", code=2)
    assert "may not bind port 53" in low.err


@pytest.mark.skipif(not GROUND_RUN, reason="not in the project's own cluster")
def test_verify_waits_until_kube_proxy_has_a_new_service(space: Space, port: int) -> None:
    """kube-proxy is stopped for longer than `verify` would wait for an older Service."""
    space.apply(*dns_server())
    kube_proxy = int(Path(GROUND_RUN, "pids", "kube-proxy").read_text().split()[0])
    os.kill(kube_proxy, signal.SIGSTOP)
    goes_on = threading.Timer(12, os.kill, (kube_proxy, signal.SIGCONT))
    goes_on.start()
    try:
        space.expose("dns", "-p", f"{port}:53", "--gateway-service", "companion")
        assert goes_on.is_alive(), "verify has not begun while kube-proxy stood still"
        verified = space.verify("dns")
    finally:
        goes_on.join()
    assert verified.code == 0, verified.both
