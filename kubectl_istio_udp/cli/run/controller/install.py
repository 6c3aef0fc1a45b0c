"""`controller install`: install the controller, and print its objects."""

from __future__ import annotations

import click

from kubectl_istio_udp.apply.controller import NamedInstallation, install, wait_until_ready
from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.run.cluster import connect
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.output import printing
from kubectl_istio_udp.render.controller import controller


def run(
    *,
    image: str,
    replicas: int,
    gateway_namespaces: tuple[str, ...],
    root_namespaces: tuple[str, ...],
    mesh_configs: tuple[tuple[str, str], ...],
    file_limit: int | None,
    allow_all: bool,
    defaults: tuple[tuple[str, str], ...],
    gateway_api: bool,
    wait: bool,
    timeout: Duration,
    dry_run: str,
    output: str | None,
    common: options.Common,
) -> None:
    """Run `controller install`, with the values of its options."""
    named = NamedInstallation(
        namespace=common.namespace or options.CONTROLLER_NAMESPACE,
        image=image,
        gateway_namespaces=gateway_namespaces,
        root_namespaces=root_namespaces,
        mesh_configs=mesh_configs,
        file_limit=file_limit,
        allow_all=allow_all,
        defaults=defaults,
        gateway_api=gateway_api,
        replicas=replicas,
    )
    if output:
        click.echo(printing.documents(controller(named.without_cluster()), output), nl=False)
        return
    api = connect(common)
    install(
        api,
        named,
        dry_run=dry_run,
        written=lambda kind, name, outcome: click.echo(
            printing.object_line(kind, name, outcome, dry_run)
        ),
        deleted=lambda kind, name: click.echo(printing.deleted_line(kind, name, dry_run)),
        warn=printing.warn,
    )
    if wait and dry_run == "none":
        wait_until_ready(api, named.namespace, replicas, timeout.seconds)
