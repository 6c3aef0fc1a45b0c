"""`verify`: test each exposure, response and access log, and print the results."""

from __future__ import annotations

from collections.abc import Sequence

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.run.cluster import connect, find_existing, namespace_of
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import ClusterError, UsageError
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.output import printing
from kubectl_istio_udp.state.ownership import Existing
from kubectl_istio_udp.verify import sending
from kubectl_istio_udp.verify.options import ProbeOptions
from kubectl_istio_udp.verify.toolpod import ToolPod


def run(
    *,
    names: tuple[str, ...],
    all_names: bool,
    all_namespaces: bool,
    gateway_namespaces: tuple[str, ...],
    to: str | None,
    probe_settings: ProbeOptions,
    common: options.Common,
) -> int:
    """Run `verify`, with the values of its options; the exit code."""
    if bool(names) == (all_names or all_namespaces):
        raise UsageError(
            "name what to verify, or use --all or -A",
            hints=["list them: kubectl istio-udp get"],
        )
    api = connect(common)
    namespace = namespace_of(common, api)
    tool = sending.start_tool_search(api, namespace, probe_settings)
    found = find_existing(common, api, names, all_namespaces, gateway_namespaces)
    if not found:
        printing.note("No exposures, responses or access logs found.")
        return 0
    in_mesh = any(map(_in_mesh, found))
    with sending.tool(api, namespace, probe_settings, tool, in_mesh=in_mesh) as pod:
        if len(found) == 1:
            verifications = [_verify_existing(api, pod, found[0], to, probe_settings)]
        else:
            verifications = [
                _verify_one(api, pod, existing, to, probe_settings) for existing in found
            ]
    if probe_settings.output == "table":
        _print(found, verifications)
    else:
        data = [
            {
                "kind": existing.kind.value,
                "namespace": existing.namespace,
                "name": existing.name,
                "good": verification.good,
                "verdict": verification.text,
                **verification.data,
            }
            for existing, verification in zip(found, verifications, strict=True)
        ]
        click.echo(printing.data(data, probe_settings.output), nl=False)
    return 0 if all(verification.good for verification in verifications) else 1


def _in_mesh(existing: Existing) -> bool:
    """Whether the network-tool pod needs a sidecar for the test."""
    if existing.kind is Kind.RESPONSE:
        from kubectl_istio_udp.model.response import ResponseSpec

        return isinstance(existing.spec, ResponseSpec) and existing.spec.mesh
    return existing.kind is Kind.ACCESS_LOG


def _verify_one(
    api: Api, pod: ToolPod, existing: Existing, to: str | None, probe_settings: ProbeOptions
) -> sending.Verification:
    """Like the function below, but errors become results, so that the others are still tested."""
    try:
        return _verify_existing(api, pod, existing, to, probe_settings)
    except (ClusterError, UsageError) as error:
        return sending.Verification(False, error.message)


def _verify_existing(
    api: Api, pod: ToolPod, existing: Existing, to: str | None, probe_settings: ProbeOptions
) -> sending.Verification:

    spec = existing.spec
    if isinstance(spec, ExposureSpec) and not spec.service:
        from kubectl_istio_udp.verify.routes import verify_routes

        return verify_routes(api, pod, existing, spec, probe_settings)
    if isinstance(spec, ExposureSpec):
        from kubectl_istio_udp.verify.exposure import verify_exposure

        return verify_exposure(api, pod, existing, spec, probe_settings)
    if spec is None:
        raise ClusterError(f"{existing.kind.words} {existing.name}: {existing.problem}")
    if existing.kind is Kind.RESPONSE:
        from kubectl_istio_udp.model.response import ResponseSpec
        from kubectl_istio_udp.verify.response import verify_response

        assert isinstance(spec, ResponseSpec)
        return verify_response(api, pod, existing, spec, probe_settings)
    from kubectl_istio_udp.model.accesslog import AccessLogSpec
    from kubectl_istio_udp.verify.accesslog import verify_access_log

    assert isinstance(spec, AccessLogSpec)
    return verify_access_log(api, pod, spec, to, probe_settings)


def _print(found: Sequence[Existing], verifications: Sequence[sending.Verification]) -> None:
    """A table per kind, then a sentence per exposure, response or access log."""
    pairs = list(zip(found, verifications, strict=True))
    for kind in Kind:
        shown = [
            (existing, verification) for existing, verification in pairs if existing.kind is kind
        ]
        rows = [
            [*([f"{existing.namespace}/{existing.name}"] if len(pairs) > 1 else []), *row]
            for existing, verification in shown
            for row in verification.rows
        ]
        if rows:
            headers = next(verification.headers for _, verification in shown if verification.rows)
            lead = [kind.words] if len(pairs) > 1 else []
            click.echo(printing.table(rows, [*lead, *headers]))
    for existing, verification in pairs:
        click.echo(f"{existing.ref}: {verification.text}")
