"""`demo`: expose and verify a Service on this machine."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from kubectl_istio_udp.apply.exposing import decide
from kubectl_istio_udp.apply.pipeline import refuse_errors
from kubectl_istio_udp.cli.run import manifest_files as files
from kubectl_istio_udp.cli.run.printed import print_findings
from kubectl_istio_udp.envoy import binary
from kubectl_istio_udp.envoy.local_gateway import LOOPBACK, LocalGateway
from kubectl_istio_udp.envoy.local_mesh import LocalMesh, replace_every_pod
from kubectl_istio_udp.envoy.validate_option import ensure_accepted
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.ports import PortRequest, parse_port_requests
from kubectl_istio_udp.model.request import ExposeRequest
from kubectl_istio_udp.output import printing
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.render.samples import SAMPLE_QUERY, samples
from kubectl_istio_udp.state.from_manifests import Manifest
from kubectl_istio_udp.verify import sending
from kubectl_istio_udp.verify.local_probes import SteadyClient, query
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
    samples_port: str,
) -> int:
    """Run `demo`, with the values of its options; the exit code."""
    requests = parse_port_requests(ports or ([] if filenames else [samples_port]))
    _end_with_terminal()
    program = binary.need_envoy(envoy)
    version = binary.version(program)
    with LocalMesh(_manifests(filenames), service) as local:
        spec, envoy_filter = _expose(local, requests, program)
        with LocalGateway(program, [envoy_filter], local.endpoints()) as gateway:
            click.echo(f"\nEnvoy {version} has the listener\n")
            good = _verify(local, spec)
            good = _restart(local, spec, gateway) and good
            if keep:
                _keep(local, spec)
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


def _expose(
    local: LocalMesh, ports: tuple[PortRequest, ...], program: Path
) -> tuple[ExposureSpec, Manifest]:
    """Plan, check, render and validate as `expose` does; print and return the EnvoyFilter."""
    for name, backend in local.pods.items():
        where = ", ".join(f"{backend.address}:{port}" for port in backend.ports)
        printing.note(f"pod {name} is a DNS server at {where}")
    request = ExposeRequest(local.service.namespace, local.service.name, ports=ports)
    decided = decide(request, local.snapshot())
    refuse_errors(decided.findings)
    print_findings(decided.summary, decided.findings)
    rendered = [write.manifest for write in writes(decided.exposure)]
    envoy_filter = next(each for each in rendered if each["kind"] == "EnvoyFilter")
    ensure_accepted(rendered, "envoy", {"port_value": "-p"}, str(program), warn=printing.warn)
    click.echo(printing.documents([envoy_filter], "yaml"), nl=False)
    local.apply(rendered)
    return decided.exposure.spec, envoy_filter


def _probe(local: LocalMesh) -> DnsProbe:
    return DnsProbe.parse(local.service.query or SAMPLE_QUERY)


def _verify(local: LocalMesh, spec: ExposureSpec) -> bool:
    """Query every hop and print the table of `verify`; True if all answered."""
    probe = _probe(local)
    results = [
        HopResult(hop, (query(probe, hop.address, hop.port, _PROBE_SECONDS),))
        for hop in local.hops(spec.ports)
    ]
    verification = sending.hops_verification(results, judge(results))
    click.echo(printing.table(verification.rows, verification.headers))
    click.echo(f"{spec.name}: {verification.text}")
    return verification.good


def _restart(local: LocalMesh, spec: ExposureSpec, gateway: LocalGateway) -> bool:
    """Replace every pod during queries; True if all were answered and all hops work afterwards."""
    click.echo()
    port = spec.ports[0].listener_port
    with SteadyClient(_probe(local), LOOPBACK, port, _STEADY_SECONDS) as client:
        for old, new in replace_every_pod(
            local, gateway.serve, lambda: client.go_on(_QUERIES_A_STEP)
        ):
            click.echo(f"pod {old} is replaced by {new} at {local.pods[new].address}")
    retried = f", {client.retried} of them on the second attempt" if client.retried else ""
    click.echo(f"meanwhile {client.answered} of {client.sent} queries were answered{retried}\n")
    return _verify(local, spec) and client.answered == client.sent


def _keep(local: LocalMesh, spec: ExposureSpec) -> None:
    """Wait for Ctrl-C."""
    probe = _probe(local)
    with contextlib.suppress(KeyboardInterrupt):
        for port in spec.ports:
            words = f"dig @{LOOPBACK} -p {port.listener_port} {probe.name} {probe.type}"
            click.echo(f"\nrunning until Ctrl-C; query it: {words}")
        while True:
            signal.pause()
