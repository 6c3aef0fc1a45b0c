"""Objects that outlive their deletion, such as a Service whose load balancer is cleaned up."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.apiserver import ApiServer, Request
from tests.support.builders import CREATED
from tests.support.controlling import Running, annotated, until
from tests.support.fakes import Fakes
from tests.support.routes import gateway_class
from tests.unit.conftest import Run

NAME = "udp-default-coredns"
COMPANION = ("Service", "istio-system", NAME)
GATEWAY_SERVICE = ("Service", "istio-system", "istio-ingressgateway")
EXPOSE = ("expose", "coredns", "-p", "5300:53")
FINALIZER = "service.kubernetes.io/load-balancer-cleanup"


@pytest.fixture
def cloud(server: ApiServer) -> ApiServer:
    """A cluster in a cloud that deletes the load balancers of deleted Services."""
    server.finalizer = FINALIZER
    return server


def finish_after(server: ApiServer, reads: int) -> Callable[[Request], None]:
    """The cloud finishes when the companion has been read this often."""
    count = iter(range(reads))

    def seen(request: Request) -> None:
        if request.method == "GET" and request.path.endswith(NAME) and next(count, None) is None:
            server.finish_deletions()

    return seen


def deleted(server: ApiServer, key: tuple[str, str, str]) -> None:
    """Mark an object as deleted, with a finalizer."""
    manifest = server.get(*key)
    manifest["metadata"] |= {"deletionTimestamp": CREATED, "finalizers": ["example.com/keep"]}
    server.put(manifest)


def test_expose_waits_for_the_deleted_service(run: Run, cloud: ApiServer) -> None:
    assert run(*EXPOSE, "--idle-timeout", "20s").code == 0
    first = cloud.get(*COMPANION)["metadata"]["uid"]
    assert run("delete", "coredns").code == 0
    assert "deletionTimestamp" in cloud.get(*COMPANION)["metadata"]
    assert "Terminating" in run("get").out
    cloud.seen = finish_after(cloud, 5)
    done = run(*EXPOSE)
    assert done.code == 0, done.err
    assert f"waiting: Service istio-system/{NAME} is being deleted" in done.err
    companion = cloud.get(*COMPANION)["metadata"]
    assert companion["uid"] != first and "deletionTimestamp" not in companion
    # It is a new exposure, so it does not keep settings of the deleted one.
    assert "20s" not in run("get", "-o", "wide").out


def test_another_mode_and_back(run: Run, cloud: ApiServer) -> None:
    assert run(*EXPOSE).code == 0
    assert run(*EXPOSE, "--gateway-service", "patch").code == 0
    # The Service that is not needed any more does not matter.
    assert "Terminating" not in run("get").out
    cloud.seen = finish_after(cloud, 5)
    done = run(*EXPOSE, "--gateway-service", "companion")
    assert done.code == 0, done.err
    cloud.finish_deletions()
    assert cloud.get(*COMPANION)


@pytest.mark.parametrize("wait", [("--timeout", "100ms"), ("--no-wait",)])
def test_expose_writes_nothing_while_it_exists(
    run: Run, cloud: ApiServer, wait: tuple[str, ...]
) -> None:
    assert run(*EXPOSE).code == 0
    assert run("delete", "coredns").code == 0
    before = cloud.state()
    done = run(*EXPOSE, *wait)
    assert done.code == 3
    assert f"Service istio-system/{NAME} is being deleted" in done.err and FINALIZER in done.err
    assert f"kubectl wait --for=delete -n istio-system services/{NAME}" in done.err
    assert cloud.state() == before
    cloud.finish_deletions()
    assert run(*EXPOSE).code == 0


def test_a_deletion_in_the_middle_of_the_writes(run: Run, cloud: ApiServer) -> None:
    """Only the API server's response shows it; the run rolls back, and writes again."""
    assert run(*EXPOSE).code == 0
    patches = iter(range(100))

    def seen(request: Request) -> None:
        if not request.path.endswith(f"services/{NAME}"):
            return
        if request.method == "GET":
            cloud.finish_deletions()
        elif next(patches) == 0:
            cloud.delete(COMPANION, False)

    cloud.seen = seen
    done = run(*EXPOSE, "--idle-timeout", "20s")
    assert done.code == 0, done.err
    cloud.finish_deletions()
    assert cloud.get(*COMPANION) and "20s" in run("get", "-o", "wide").out


def test_a_dry_run_does_not_wait(run: Run, cloud: ApiServer) -> None:
    assert run(*EXPOSE).code == 0
    assert run("delete", "coredns").code == 0
    for dry_run in ("client", "server"):
        assert run(*EXPOSE, "--dry-run", dry_run).code == 0


def test_the_gateways_own_service_is_not_patched_while_it_is_deleted(
    run: Run, server: ApiServer
) -> None:
    deleted(server, GATEWAY_SERVICE)
    before = server.state()
    done = run(*EXPOSE, "--gateway-service", "patch")
    assert done.code == 3 and "istio-ingressgateway is being deleted" in done.err
    assert server.state() == before


def test_a_service_that_is_being_deleted_is_not_exposed(run: Run, server: ApiServer) -> None:
    deleted(server, ("Service", "default", "coredns"))
    before = server.state()
    done = run(*EXPOSE)
    assert done.code == 3 and "Service default/coredns is being deleted" in done.err
    assert server.state() == before


@pytest.mark.parametrize("kind", ["EnvoyFilter", "ServiceEntry"])
def test_other_objects_with_finalizers(
    run: Run, server: ApiServer, fakes: Fakes, kind: str
) -> None:
    assert run(*EXPOSE).code == 0
    place = "default" if kind == "ServiceEntry" else "istio-system"
    deleted(server, (kind, place, NAME))
    done = run(*EXPOSE, "--timeout", "100ms")
    assert done.code == 3 and f"{kind} {place}/{NAME} is being deleted" in done.err
    server.seen = finish_after(server, 5)
    done = run(*EXPOSE)
    assert done.code == 0, done.err
    assert "deletionTimestamp" not in server.get(kind, place, NAME)["metadata"]


def test_an_object_without_namespace(run: Run, server: ApiServer) -> None:
    server.put(gateway_class())
    deleted(server, ("GatewayClass", "", "istio-udp"))
    done = run("controller", "install", "--gateway-api", "--no-wait")
    assert done.code == 3 and "GatewayClass istio-udp is being deleted" in done.err
    kind = "gatewayclasses.gateway.networking.k8s.io"
    assert f"kubectl wait --for=delete {kind}/istio-udp --timeout 5m" in done.err


def test_verify_reports_a_deleted_service_that_still_answers(run: Run, cloud: ApiServer) -> None:
    assert run(*EXPOSE).code == 0
    cloud.delete(COMPANION, dry_run=False)
    done = run("verify", "coredns", "-o", "json")
    assert done.code == 1
    (found,) = json.loads(done.out)
    assert found["reason"] == "FrontServiceTerminating"
    assert f"Service istio-system/{NAME} is being deleted" in found["verdict"]
    assert found["remedy"] == "run again: kubectl istio-udp expose -n default coredns"


def test_the_controller_creates_the_service_again(running: Running) -> None:
    """Meanwhile the request is not met, because the Service will be gone."""
    running.server.finalizer = FINALIZER
    running.wait_for(cooldown=0.0)
    controller = running.start()
    running.server.put(annotated())
    running.exposed()
    running.server.put(annotated(options={"gateway-service": "none"}))
    until(lambda: "deletionTimestamp" in running.companion()["metadata"])
    until(lambda: controller.states() == {"ok": 1})
    running.server.put(annotated())
    until(lambda: controller.states() == {"failed": 1})
    until(lambda: running.spec().options.gateway_service.value == "companion")
    running.server.finish_deletions()
    made: Any = running.exposed()
    assert "deletionTimestamp" not in made["metadata"]
    until(lambda: controller.states() == {"ok": 1})


def test_the_controller_exposes_again_what_was_withdrawn(running: Running) -> None:
    running.server.finalizer = FINALIZER
    running.wait_for(cooldown=0.0)
    controller = running.start()
    running.server.put(annotated())
    running.exposed()
    annotations = annotated()
    del annotations["metadata"]["annotations"]
    running.server.put(annotations)
    until(lambda: controller.states() == {} and not running.filter())
    assert running.companion()
    running.server.put(annotated())
    until(lambda: running.filter() and controller.states() == {"failed": 1})
    running.server.finish_deletions()
    running.exposed()
    until(lambda: controller.states() == {"ok": 1})
