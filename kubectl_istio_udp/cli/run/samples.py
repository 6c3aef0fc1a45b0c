"""`samples`: apply, delete or print the samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from kubectl_istio_udp.apply.gatewayapi import read_class_name, wait_until_programmed
from kubectl_istio_udp.apply.samples import apply_samples, delete_samples, wait_for_endpoints
from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.run.cluster import connect, namespace_of
from kubectl_istio_udp.model.gatewayapi import GATEWAY_CLASS
from kubectl_istio_udp.model.names import namespaced_name
from kubectl_istio_udp.model.resources import resource_key
from kubectl_istio_udp.output import printing
from kubectl_istio_udp.render.samples import samples, udproute_samples
from kubectl_istio_udp.sources.gateways import exposure_key
from kubectl_istio_udp.verify.toolpod import wait_running


def apply(
    *,
    coredns_image: str,
    tool_image: str,
    udproute: bool,
    gateway_namespace: str,
    wait: bool,
    timeout: Any,
    dry_run: str,
    common: options.Common,
) -> None:
    """Run `samples apply`, with the values of its options."""
    api = connect(common)
    namespace = namespace_of(common, api)
    manifests = samples(namespace, coredns_image, tool_image)
    class_name = GATEWAY_CLASS
    if udproute and dry_run != "client":
        class_name = read_class_name(api, gateway_namespace)
    routed = _routed(namespace, gateway_namespace, udproute, class_name)
    manifests += routed
    outcomes = apply_samples(api, manifests, dry_run)
    for manifest, outcome in zip(manifests, outcomes, strict=True):
        name = manifest["metadata"]["name"]
        click.echo(printing.object_line(resource_key(manifest), name, outcome, dry_run))
    if wait and dry_run == "none":
        progress = printing.Progress()
        pods = [each for each in manifests if each["kind"] in ("Deployment", "Pod")]
        for app in sorted({manifest["metadata"]["labels"]["app"] for manifest in pods}):
            progress(f"waiting for the pods of {app}")
            wait_running(api, namespace, f"app={app}", timeout.seconds)
        for manifest in manifests:
            if manifest["kind"] == "Service":
                progress(f"waiting for the endpoints of {manifest['metadata']['name']}")
                wait_for_endpoints(api, *namespaced_name(manifest), timeout.seconds)
        if routed:
            wait_until_programmed(api, namespaced_name(routed[0]), timeout.seconds, progress)
        progress.clear()
        where = f"-n {common.namespace} " if common.namespace else ""
        then = f"expose {where}coredns -p 5300:53"
        if routed:
            exposure = exposure_key(namespaced_name(routed[0]))[1]
            tool = f"--tool-pod {namespace}/network-tool"
            then = f"verify -n {gateway_namespace} {exposure} {tool}"
        click.echo(f"next: kubectl istio-udp {then}", err=True)


def _routed(
    namespace: str, gateway_namespace: str, udproute: bool, class_name: str = GATEWAY_CLASS
) -> tuple[dict[str, Any], ...]:
    """The samples for the Gateway API, if they are requested."""
    if not udproute:
        return ()
    return udproute_samples(namespace, gateway_namespace, class_name)


def delete(*, udproute: bool, gateway_namespace: str, dry_run: str, common: options.Common) -> None:
    """Run `samples delete`, with the values of its options."""
    api = connect(common)
    found = samples(namespace_of(common, api))
    found += _routed(namespace_of(common, api), gateway_namespace, udproute)
    delete_samples(
        api,
        found,
        dry_run,
        deleted=lambda kind, name: click.echo(printing.deleted_line(kind, name, dry_run)),
        kept=lambda kind, name: printing.warn(
            f"{printing.resource(kind, name)} does not belong to the samples; not deleted"
        ),
    )


def print_manifests(
    *,
    coredns_image: str,
    tool_image: str,
    udproute: bool,
    gateway_namespace: str,
    namespace: str,
    output: str,
) -> None:
    """Run `samples print`, with the values of its options."""
    found: Sequence[dict[str, Any]] = (
        *samples(namespace, coredns_image, tool_image),
        *_routed(namespace, gateway_namespace, udproute),
    )
    click.echo(printing.documents(found, output), nl=False)
