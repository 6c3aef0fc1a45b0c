"""Whatever a run leaves behind, wherever it stopped, the next run finds and finishes it."""

from __future__ import annotations

import contextlib
import io
import json
import signal
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from kubectl_istio_udp.cli.main import main
from tests.support import builders
from tests.support.apiserver import ApiServer, Key
from tests.support.builders import (
    cluster,
    gateway_pod,
    gateway_service,
    namespace,
)
from tests.support.effort import examples
from tests.support.fakes import Fakes
from tests.support.waits import QUICK
from tests.unit.conftest import Run

NAME = "udp-default-coredns"
ASK = ["pilot-agent", "request", "GET"]
GATEWAYS = {"istio-system": "istio-ingressgateway", "edge": "edge"}


def edge_gateway() -> list[builders.Manifest]:
    """A gateway in a namespace of its own."""
    labels = {"app": "edge", "istio": "edge"}
    return [
        namespace("edge"),
        gateway_pod("edge-1", namespace="edge", labels=labels, ips=("10.244.0.8",)),
        gateway_service("edge", namespace="edge", selector=labels),
    ]


def two_gateways() -> ApiServer:
    """A DNS Service, and two gateways in namespaces of their own."""
    server = ApiServer()
    server.put(*map(namespace, ("default", "istio-system")), *cluster(), *edge_gateway())
    return server


def command(*words: str) -> tuple[int, str]:
    """The command line in this process: exit code, and all that it prints."""
    out = io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            main(list(words), QUICK)
    except SystemExit as ended:
        return int(ended.code or 0), out.getvalue()
    finally:
        signal.signal(signal.SIGTERM, handler)
    raise AssertionError("main returned")


def stop_at(server: ApiServer, how: str, number: int) -> None:
    """End what runs at its request of this number.

    Args:
        server: the API server.
        how: `killed`: from this request on nothing is answered; `killed-later`: the same, but
            this request is carried out; `refused`: this request fails, and no other.
        number: counted from 0.
    """
    count = iter(range(1_000))

    def seen(_: object) -> None:
        if next(count) != number:
            return
        for method in ("GET", "PATCH", "DELETE", "POST"):
            if how == "refused":
                server.fail(method, "", 500, times=1)
                continue
            if how == "killed-later":
                server.fail(method, "", done=True, times=1)
            server.fail(method, "")

    server.seen = seen


def healed(server: ApiServer) -> None:
    server.seen = lambda _: None
    server.heal()


# Nowhere, while waiting for the gateway, or at some request.
STOPS = st.sampled_from([None, None, ("stuck", 0)]) | st.tuples(
    st.sampled_from(["killed", "killed-later", "refused"]), st.integers(0, 34)
)
FLAGS = st.fixed_dictionaries(
    {
        "--gateway-service": st.sampled_from(["companion", "patch", "none"]),
        "-p": st.sampled_from(["5300:53", "5400:53"]),
    },
    optional={
        "--discovery": st.sampled_from(["selector", "static", "endpoints"]),
        "--gateway": st.sampled_from(["istio-system/istio-ingressgateway"] * 3 + ["edge/edge"]),
        "--remove-port": st.sampled_from(["5300", "5400"]),
        "--idle-timeout": st.sampled_from(["10s", "1m"]),
        "--field-manager": st.sampled_from(["kubectl-istio-udp", "me"]),
    },
)
# A setting that the command line leaves out.
LEFT_OUT = st.sets(st.sampled_from(["--gateway-service", "-p"]))


class Lifecycle(RuleBasedStateMachine):
    """Expose and delete one Service with changing settings, each stopped somewhere or not."""

    @initialize()
    def begin(self) -> None:
        self.server = two_gateways()
        self.server.finalizer = "service.kubernetes.io/load-balancer-cleanup"
        self.fakes = Fakes(self.server)
        self.server.run = self.fakes.run
        self.before = self.server.state()
        self.server.kubeconfig(KUBECONFIG[0])
        self.words: list[str] = []

    def _run(self, stop: tuple[str, int] | None, *words: str) -> tuple[int, str]:
        if stop and stop[0] == "stuck":
            self.fakes.run("istio-system", "", "istio-proxy", [*ASK, "listeners"])
            self.fakes.stuck = True
        elif stop:
            stop_at(self.server, *stop)
        done = command(*words, "--kubeconfig", str(KUBECONFIG[0]))
        healed(self.server)
        self.fakes.stuck = False
        self._minutes_pass()
        assert "Traceback" not in done[1], done[1]
        return done

    def _minutes_pass(self) -> None:
        """The reservations of killed runs expire."""
        for key in sorted(self.server.there()):
            if key[2].startswith("reserved-") and (manifest := self.server.get(*key)):
                manifest["metadata"]["creationTimestamp"] = "2026-01-02T03:04:05Z"
                self.server.put(manifest)

    @rule(flags=FLAGS, left_out=LEFT_OUT, stop=STOPS)
    def expose(
        self, flags: dict[str, str], left_out: set[str], stop: tuple[str, int] | None
    ) -> None:
        named = {key: value for key, value in flags.items() if key not in left_out}
        if (named.get("-p") or "").partition(":")[0] == named.get("--remove-port"):
            del named["--remove-port"]
        self.words = [word for pair in named.items() for word in pair]
        self._expose(stop)

    @rule()
    def expose_once_more(self) -> None:
        """The same command again, as the hints advise."""
        self._expose(None)

    def _expose(self, stop: tuple[str, int] | None, timeout: str = "100ms") -> None:
        code, text = self._run(stop, "expose", "coredns", *self.words, "--timeout", timeout)
        self._others_are_untouched()
        if code == 0:
            self._nothing_is_left_over(text)

    @rule()
    def the_cloud_finishes(self) -> None:
        """The deleted Services of type LoadBalancer are gone."""
        self.server.finish_deletions()

    @rule()
    def expose_while_the_cloud_finishes(self) -> None:
        """The run waits for the Services that it deleted before."""
        count = iter(range(40))

        def finish(_: object) -> None:
            if next(count, None) is None:
                self.server.finish_deletions()

        self.server.seen = finish
        self._expose(None, timeout="30s")

    @rule(stop=STOPS, what=st.sampled_from(["coredns", "--all"]))
    def delete(self, stop: tuple[str, int] | None, what: str) -> None:
        code, text = self._run(stop, "delete", what, "--ignore-not-found", "--timeout", "100ms")
        self._others_are_untouched()
        if code == 0 and stop is None:
            assert self._staying() == self.before, text

    @rule()
    def get(self) -> None:
        """`get` shows the exposure or its leftovers as long as one of its objects exists."""
        code, text = self._run(None, "get")
        assert code == 0, text
        nothing = "No exposures, responses or access logs found" in text
        assert nothing == (self.server.state() == self.before), text

    def teardown(self) -> None:
        if not hasattr(self, "server"):
            return
        try:
            code, text = command("delete", "--all", "--kubeconfig", str(KUBECONFIG[0]))
            assert code == 0, text
            self.server.finish_deletions()
            assert self.server.state() == self.before
            assert "No exposures" in command("get", "--kubeconfig", str(KUBECONFIG[0]))[1]
        finally:
            self.server.stop()

    def _staying(self) -> dict[Key, builders.Manifest]:
        """The content of all objects that are not being deleted."""
        return {
            key: manifest
            for key, manifest in self.server.state().items()
            if "deletionTimestamp" not in self.server.get(*key)["metadata"]
        }

    def _others_are_untouched(self) -> None:
        now = self.server.state()
        for key, manifest in self.before.items():
            if key[2] in GATEWAYS.values() and key[0] == "Service":
                theirs = [p for p in now[key]["spec"]["ports"] if p.get("protocol") != "UDP"]
                assert theirs == manifest["spec"]["ports"]
            else:
                assert now[key] == manifest

    def _nothing_is_left_over(self, text: str) -> None:
        """After a successful run only what `get` shows exists, and what the run reported."""
        now = self._staying()
        filters = [key for key in now if key[0] == "EnvoyFilter"]
        if "could not delete the reservation" in text:
            filters = [key for key in filters if not key[2].startswith("reserved-")]
        assert len(filters) == 1
        manifest = self.server.get(*filters[0])
        spec = json.loads(manifest["metadata"]["annotations"]["kubectl-istio-udp/spec"])
        ports = {port["gateway_port"] for port in spec["ports"]}
        mode = spec["options"]["gateway_service"]
        companions = {key[1] for key in now if key[0] == "Service" and key[2] == NAME}
        assert companions == ({filters[0][1]} if mode == "companion" else set())
        for space, name in GATEWAYS.items():
            found = now["Service", space, name]["spec"]["ports"]
            udp_ports = {p["port"] for p in found if p["protocol"] == "UDP"}
            patched = mode == "patch" and space == filters[0][1]
            assert udp_ports == (ports if patched else set())


KUBECONFIG: list[Path] = []


def test_the_next_run_removes_every_leftover(tmp_path: Path) -> None:
    KUBECONFIG[:] = [tmp_path / "kubeconfig"]
    run_state_machine_as_test(
        Lifecycle,
        settings=settings(
            max_examples=examples(15),
            stateful_step_count=8,
            deadline=None,
            # Shrinking takes minutes, and eight steps can be read as they are.
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
            suppress_health_check=list(HealthCheck),
        ),
    )


# -- what was found by hand ------------------------------------------------------------------------

EXPOSE = ("expose", "coredns", "-p", "5300:53")
COMPANION = ("--gateway-service", "companion")
OWN = ("Service", "istio-system", "istio-ingressgateway")


def test_a_port_of_the_former_mode_is_removed_after_a_timeout(
    run: Run, server: ApiServer, fakes: Fakes
) -> None:
    before = server.state()
    assert run(*EXPOSE, "--gateway-service", "patch").code == 0
    fakes.stuck = True
    assert run(*EXPOSE, *COMPANION, "--idle-timeout", "20s", "--timeout", "100ms").code == 3
    fakes.stuck = False
    assert "run `expose` or `delete` for coredns again" in run("get").out
    done = run(*EXPOSE, *COMPANION)
    assert done.code == 0
    assert "istio-ingressgateway (UDP ports of the exposure)" in done.out
    assert "LEFTOVER" not in run("get").out
    assert [p["port"] for p in server.get(*OWN)["spec"]["ports"]] == [80, 443]
    assert run("delete", "coredns").code == 0
    assert server.state() == before


def test_a_service_that_a_tenant_forged_does_not_count(run: Run, server: ApiServer) -> None:
    """It has the exposure's field manager, and the API server refuses to remove its port."""
    before = server.state()
    assert run(*EXPOSE).code == 0
    trap = builders.service("trap", namespace="lab", ports=[builders.udp()])
    manager = f"kubectl-istio-udp/{NAME}"
    server.apply(("Service", "lab", "trap"), trap, manager, False, False)
    server.fail("PATCH", "/lab/services/trap", 422)
    listed = run("get", "-A")
    assert listed.code == 0 and "trap" not in listed.out, listed.err
    for words in ((*EXPOSE, "--idle-timeout", "20s"), ("delete", "coredns")):
        done = run(*words)
        assert done.code == 0, done.err
    server.heal()
    server.remove("Service", "lab", "trap")
    assert server.state() == before


def test_a_port_at_any_gateway_is_found_after_everything_else_was_deleted(
    run: Run, server: ApiServer
) -> None:
    """Also beside a Service that a tenant wrote, which would be left without a port."""
    server.put(*edge_gateway())
    before = server.state()
    done = run(*EXPOSE, "--gateway-service", "patch", "--gateway", "edge/edge", "--no-wait")
    assert done.code == 0, done.err
    server.remove("ServiceEntry", "default", NAME)
    server.remove("EnvoyFilter", "edge", NAME)
    trap = builders.service("trap", namespace="lab", ports=[builders.udp()])
    server.apply(("Service", "lab", "trap"), trap, f"kubectl-istio-udp/{NAME}", False, False)
    server.fail("PATCH", "/lab/services/trap", 422)
    listed = run("get", "-A")
    assert "Service edge/edge: port 5300/UDP" in listed.out and "trap" not in listed.out
    for words in (("delete", "coredns"), ("delete", "--all")):
        done = run(*words)
        assert done.code == 0, done.err
    server.heal()
    server.remove("Service", "lab", "trap")
    assert server.state() == before


def test_a_single_remaining_port_is_deleted(run: Run, server: ApiServer, fakes: Fakes) -> None:
    before = server.state()
    fakes.refuses[f"{NAME}-5300"] = "cannot bind"
    server.fail("PATCH", "/services/istio-ingressgateway", 500, skip=1)
    done = run(*EXPOSE, "--gateway-service", "patch")
    assert "could not be undone and may remain: Service" in done.err
    server.heal()
    assert [p["port"] for p in server.get(*OWN)["spec"]["ports"]] == [80, 443, 5300]
    lines = run("get").out.splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "LEFTOVER EXPOSURE TO REMOVE",
        "Service istio-system/istio-ingressgateway: port 5300/UDP default/coredns "
        "kubectl istio-udp delete -n default coredns",
    ]
    dry = run("delete", "coredns", "--dry-run", "client")
    assert (
        dry.out == 'service "istio-ingressgateway (UDP ports of the exposure)" deleted (dry run)\n'
    )
    assert run("delete", "coredns").code == 0
    assert server.state() == before
    assert run("delete", "coredns").code == 3


def test_an_envoy_filter_without_listeners_is_deleted_or_written_again(
    run: Run, server: ApiServer
) -> None:
    before = server.state()
    run(*EXPOSE, "--field-manager", "me")
    server.fail("DELETE", "/envoyfilters/", 0)
    assert run("delete", "coredns").code == 3
    server.heal()
    patches = server.get("EnvoyFilter", "istio-system", NAME)["spec"]["configPatches"]
    assert "LISTENER" not in {patch["applyTo"] for patch in patches}
    assert run(*EXPOSE, "--field-manager", "me").code == 0
    assert run("delete", "coredns").code == 0
    assert server.state() == before


def test_without_permission_to_list_all_services_the_gateways_is_cleaned_up(
    run: Run, server: ApiServer
) -> None:
    before = server.state()
    run(*EXPOSE, "--gateway-service", "patch")
    server.fail("GET", r"/api/v1/services", 403)
    run(*EXPOSE, "--gateway-service", "companion")
    assert [p["port"] for p in server.get(*OWN)["spec"]["ports"]] == [80, 443]
    run(*EXPOSE, "--gateway-service", "patch")
    assert run("delete", "coredns").code == 0
    assert server.state() == before


def test_delete_all_finds_a_single_remaining_port(run: Run, server: ApiServer) -> None:
    """Of an exposure that has another name than its Service, too."""
    before = server.state()
    assert run(*EXPOSE, "--gateway-service", "patch", "--name", "other").code == 0
    server.remove("EnvoyFilter", "istio-system", "udp-default-other")
    server.remove("ServiceEntry", "default", "udp-default-other")
    assert "kubectl istio-udp delete -n default other" in run("get", "-A").out
    assert "No exposures" in run("get", "-n", "lab").err
    assert run("delete", "--all", "-n", "lab").code == 0
    assert [p["port"] for p in server.get(*OWN)["spec"]["ports"]] == [80, 443, 5300]
    assert run("delete", "--all").code == 0
    assert server.state() == before


def test_a_forged_reservation_is_not_changed(run: Run, server: ApiServer) -> None:
    """A foreign EnvoyFilter with the name and the mark is not changed."""
    run(*EXPOSE)
    spec = server.get("EnvoyFilter", "istio-system", NAME)["metadata"]["annotations"]
    for number, text in enumerate(["{}", spec["kubectl-istio-udp/spec"]]):
        forged = {
            "apiVersion": "networking.istio.io/v1alpha3",
            "kind": "EnvoyFilter",
            "metadata": {
                "name": f"reserved-{NAME}",
                "namespace": ("lab", "edge")[number],
                "labels": {"app.kubernetes.io/managed-by": "kubectl-istio-udp"},
                "annotations": {"kubectl-istio-udp/reservation": text},
            },
            "spec": {},
        }
        server.put(forged)
    assert "LEFTOVER" not in run("get", "-A").out
    assert run("delete", "coredns").code == 0
    assert [f["metadata"]["namespace"] for f in server.all("EnvoyFilter")] == ["edge", "lab"]
