from __future__ import annotations

import json
from typing import Any

import pytest

from kubectl_istio_udp.verify.delivery import DatagramCounts, judge_delivery
from tests.support.apiserver import ApiServer, Exec
from tests.support.builders import pod
from tests.support.fakes import Fakes
from tests.unit.cli.test_verify import EXPOSE, proc_net, report
from tests.unit.conftest import Run

SENT = "text:<13>hello"
# Of 10.244.0.7:34000 to 10.244.0.20:53.
SESSION = "8: 0700F40A:84D0 1400F40A:0035 01 00000000:00000000 00:00000000 00000000 0 0 1 2 0 0\n"


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [
        (DatagramCounts(), "sent"),
        (DatagramCounts(opened=True), "forwarded"),
        (DatagramCounts(opened=False), "lost"),
        (DatagramCounts(opened=False, read=1), "lost"),
        (DatagramCounts(opened=True, read=1), "delivered"),
        (DatagramCounts(read=5), "delivered"),
        (DatagramCounts(sent=2, read=1), "lost"),
        (DatagramCounts(read=0), "lost"),
        (DatagramCounts(read=0, queued=True), "not read"),
        (DatagramCounts(read=0, opened=True), "lost"),
        (DatagramCounts(refused=True), "unreachable"),
        (DatagramCounts(refused=True, read=0), "unreachable"),
        (DatagramCounts(refused=True, read=0, connected=True), "one client"),
        (DatagramCounts(read=0, connected=True, opened=False), "lost"),
        (DatagramCounts(read=0, connected=True, opened=True), "one client"),
    ],
)
def test_the_outcome_of_datagrams(seen: DatagramCounts, outcome: str) -> None:
    assert judge_delivery(seen) == outcome


class Pods:
    """Pods that read datagrams without answering, and a gateway that opens sessions."""

    def __init__(self, server: ApiServer, fakes: Fakes) -> None:
        self.fakes, self.server = fakes, server
        self.read = {"coredns-1": 0, "coredns-2": 0}
        self.reads = self.opens = self.cat = True
        self.connected = self.closed = False
        self.sent: list[Any] = []
        server.run = self.run

    def run(self, namespace: str, name: str, container: str, command: list[str]) -> Exec:
        if command[:2] == ["sh", "-c"] and "curl" not in command[2]:
            target = command[5]
            self.sent.append(target)
            if self.closed and target.startswith("10.244.0.2"):
                return Exec(stdout="\n", stderr="refused\n")
            if self.reads:
                self.read["coredns-2" if target == "10.244.0.21" else "coredns-1"] += 1
            return Exec(stdout="\n")
        if command[0] == "cat":
            return self._proc(name)
        return self.fakes.run(namespace, name, container, command)

    def _proc(self, name: str) -> Exec:
        if name in self.read:
            if not self.cat:
                return Exec(error='exec: "cat": executable file not found in $PATH')
            found = proc_net(SESSION.replace("84D0", "0035") if self.connected else "")
            return Exec(found.stdout.replace("Udp: 10 ", f"Udp: {self.read[name]} "))
        others = [target for target in self.sent if not target.startswith("10.244.0.2")]
        sessions = [
            SESSION.replace("84D0", f"84D{number}") for number in range(len(others) * self.opens)
        ]
        return proc_net("".join(sessions))


@pytest.fixture
def pods(run: Run, server: ApiServer, fakes: Fakes) -> Pods:
    assert run(*EXPOSE).code == 0
    return Pods(server, fakes)


def verify(run: Run, *words: str) -> Run:
    return run("verify", "coredns", "--probe", SENT, "-o", "json", *words)


def outcomes(done: Run) -> list[str]:
    return [probe["reason"] for probe in report(done)["probes"]]


@pytest.mark.parametrize("words", [[], ["--one-way"]])
def test_datagrams_that_are_read_count_as_delivered_without_an_answer(
    run: Run, pods: Pods, words: list[str]
) -> None:
    done = verify(run, *words)
    assert done.code == 0
    assert outcomes(done) == ["Delivered"] * 4
    assert report(done)["reason"] == "Delivered"
    assert "the server reads the datagrams, and does not answer" in report(done)["verdict"]


def test_reports_a_gateway_that_opens_no_session(run: Run, pods: Pods) -> None:
    pods.opens = False
    done = verify(run, "--one-way")
    assert done.code == 1
    assert outcomes(done)[:2] == ["Delivered", "Delivered"]
    assert report(done)["verdict"].startswith("pods read the datagrams, the gateway does not get")
    assert report(done)["reason"] in ("DroppedBeforeGateway", "DroppedBehindGateway")


def test_without_one_way_an_unconfirmed_delivery_fails_and_the_remedy_is_the_option(
    run: Run, pods: Pods
) -> None:
    pods.cat = False
    done = verify(run)
    assert done.code == 1
    assert outcomes(done)[:2] == ["NoAnswer", "NoAnswer"]
    assert report(done)["remedy"] == "if this protocol never answers, add --one-way"
    done = verify(run, "--one-way")
    assert done.code == 0
    assert outcomes(done) == ["Sent", "Sent", "Forwarded", "Forwarded"]
    assert report(done)["verdict"].startswith("sent; this protocol does not answer")


def test_distinguishes_a_server_that_does_not_read_from_one_that_does_not_answer(
    run: Run, pods: Pods
) -> None:
    pods.reads = False
    assert verify(run).code == 1
    done = verify(run, "--one-way")
    assert done.code == 1
    assert report(done)["reason"] == "NotDelivered"


def test_a_server_for_one_client(run: Run, pods: Pods) -> None:
    """As `nc -u -l`: its socket is connected to the first client, and others are refused."""
    pods.connected = pods.closed = True
    pods.reads = False
    done = verify(run)
    assert done.code == 0
    assert report(done)["reason"] == "OneClient"
    pods.connected = False
    done = verify(run)
    assert (done.code, report(done)["reason"]) == (1, "PortRefused")


def test_the_table_shows_uncertain_outcomes(run: Run, pods: Pods) -> None:
    pods.cat = False
    done = run("verify", "coredns", "--probe", SENT, "--one-way")
    lines = done.out.splitlines()
    assert lines[0].split()[2] == "DELIVERED"
    assert [line.split()[3] for line in lines[1:5]] == ["?"] * 4


def test_direct_queries_only_the_pods(run: Run, pods: Pods) -> None:
    done = run("direct", "coredns", "--probe", SENT, "--one-way", "-o", "json")
    assert done.code == 0
    assert json.loads(done.out)["reason"] == "Delivered"
    assert set(pods.sent) == {"10.244.0.20", "10.244.0.21"}


@pytest.mark.parametrize("verb", ["verify", "direct"])
def test_dns_answers(run: Run, pods: Pods, verb: str) -> None:
    done = run(verb, "coredns", "--one-way")
    assert done.code == 2
    assert "--probe text:HELLO" in done.err


def test_a_container_with_cat_is_found(run: Run, pods: Pods, server: ApiServer) -> None:
    containers = [{"name": "distroless", "image": "a"}, {"name": "more", "image": "b"}]
    for name in ("coredns-1", "coredns-2"):
        server.put(pod(name, containers=containers))
    plain = pods.run

    def without(namespace: str, name: str, container: str, command: list[str]) -> Exec:
        if container == "distroless":
            return Exec(error='exec: "cat": executable file not found in $PATH')
        return plain(namespace, name, container, command)

    server.run = without
    assert outcomes(verify(run, "--one-way")) == ["Delivered"] * 4
