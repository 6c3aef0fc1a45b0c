"""`demo`: expose and verify a Service on this machine."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from kubectl_istio_udp.apply.exposing import decide
from kubectl_istio_udp.apply.pipeline import refuse_errors
from kubectl_istio_udp.cli.demo import SAMPLES_PORT
from kubectl_istio_udp.cli.run import manifests as files
from kubectl_istio_udp.cli.run.printed import tell_findings
from kubectl_istio_udp.envoy import binary
from kubectl_istio_udp.envoy.accepting import ensure_accepted
from kubectl_istio_udp.envoy.gateway import LOOPBACK, Gateway
from kubectl_istio_udp.envoy.lab import Lab, replace_every_pod
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.ports import parse_port_requests
from kubectl_istio_udp.model.request import ExposeRequest
from kubectl_istio_udp.output import printing
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.render.samples import SAMPLE_QUERY, samples
from kubectl_istio_udp.state.manifests import Manifest
from kubectl_istio_udp.verify import probing
from kubectl_istio_udp.verify.local import SteadyClient, ask
from kubectl_istio_udp.verify.probes import DnsProbe
from kubectl_istio_udp.verify.verdict import HopResult, judge

_PROBE_SECONDS = 2.0
_STEADY_SECONDS = 1.0
# Queries between two steps of the restart.
_QUERIES_A_STEP = 25


def run(
    *,
    service: str | None,
    filenames: tuple[str, ...],
    ports: tuple[str, ...],
    envoy: str | None,
    keep: bool,
) -> int:
    """Run `demo`, with the values of its options; the exit code."""
    _end_with_terminal()
    program = binary.need_envoy(envoy)
    version = binary.version(program)
    with Lab(_manifests(filenames), service) as lab:
        spec, envoy_filter = _expose(lab, ports or ([] if filenames else [SAMPLES_PORT]), program)
        with Gateway(program, [envoy_filter], lab.endpoints()) as gateway:
            click.echo(f"\nEnvoy {version} has the listener\n")
            good = _verify(lab, spec)
            good = _restart(lab, spec, gateway) and good
            if keep:
                _keep(lab, spec)
    return 0 if good else 1


def _end_with_terminal() -> None:
    """Treat a closed terminal like Ctrl-C, unless SIGHUP is ignored (nohup(1))."""
    with contextlib.suppress(ValueError):  # not in the main thread
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, signal.default_int_handler)


def _manifests(filenames: Sequence[str]) -> Sequence[Manifest]:

    return list(_read(filenames)) if filenames else samples("default")


def _read(filenames: Sequence[str]) -> Iterator[Manifest]:
    for found in files.read_documents(filenames):
        if isinstance(found, files.Unreadable):
            raise UsageError(str(found))
        metadata = found.data.get("metadata")
        if not isinstance(metadata, dict) or not metadata.get("name"):
            raise UsageError(f"{found.place(('metadata',))}: this {found.data['kind']} has no name")
        yield found.data


def _expose(lab: Lab, ports: Sequence[str], program: Path) -> tuple[ExposureSpec, Manifest]:
    """Plan, check, render and validate as `expose` does; print and return the EnvoyFilter."""
    for name, backend in lab.pods.items():
        where = ", ".join(f"{backend.address}:{port}" for port in backend.ports)
        printing.note(f"pod {name} is a DNS server at {where}")
    request = ExposeRequest(
        lab.service.namespace, lab.service.name, ports=parse_port_requests(ports)
    )
    decided = decide(request, lab.snapshot())
    refuse_errors(decided.findings)
    tell_findings(decided.said, decided.findings)
    rendered = [write.manifest for write in writes(decided.exposure)]
    envoy_filter = next(each for each in rendered if each["kind"] == "EnvoyFilter")
    ensure_accepted(rendered, "envoy", {"port_value": "-p"}, str(program), warn=printing.warn)
    click.echo(printing.documents([envoy_filter], "yaml"), nl=False)
    lab.apply(rendered)
    return decided.exposure.spec, envoy_filter


def _probe(lab: Lab) -> DnsProbe:

    return DnsProbe.parse(lab.service.query or SAMPLE_QUERY)


def _verify(lab: Lab, spec: ExposureSpec) -> bool:
    """Query every hop and print the table of `verify`; True if all answered."""
    probe = _probe(lab)
    results = [
        HopResult(hop, (ask(probe, hop.address, hop.port, _PROBE_SECONDS),))
        for hop in lab.hops(spec.ports)
    ]
    proof = probing.hops_proof(results, judge(results))
    click.echo(printing.table(proof.rows, proof.headers))
    click.echo(f"{spec.name}: {proof.text}")
    return proof.good


def _restart(lab: Lab, spec: ExposureSpec, gateway: Gateway) -> bool:
    """Replace every pod during queries; True if all were answered and all hops work afterwards."""
    click.echo()
    port = spec.ports[0].listener_port
    with SteadyClient(_probe(lab), LOOPBACK, port, _STEADY_SECONDS) as client:
        for old, new in replace_every_pod(
            lab, gateway.serve, lambda: client.go_on(_QUERIES_A_STEP)
        ):
            click.echo(f"pod {old} is replaced by {new} at {lab.pods[new].address}")
    again = f", {client.again} of them at the second attempt" if client.again else ""
    click.echo(f"meanwhile {client.answered} of {client.asked} queries were answered{again}\n")
    return _verify(lab, spec) and client.answered == client.asked


def _keep(lab: Lab, spec: ExposureSpec) -> None:
    """Wait for Ctrl-C."""
    probe = _probe(lab)
    with contextlib.suppress(KeyboardInterrupt):
        for port in spec.ports:
            words = f"dig @{LOOPBACK} -p {port.listener_port} {probe.name} {probe.type}"
            click.echo(f"\nrunning until Ctrl-C; query it: {words}")
        while True:
            signal.pause()
