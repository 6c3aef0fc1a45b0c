"""`direct`: around the gateway, straight at a Service's pods."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kubectl_istio_udp.cli import options, probing
from kubectl_istio_udp.model.names import check_dns_label

if TYPE_CHECKING:
    from kubectl_istio_udp.probe.verdict import HopResult


class _Shorthand(click.Group):
    """`direct SERVICE` is `direct query SERVICE`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Take a first word that is no subcommand for a Service."""
        if args and args[0] not in self.commands:
            args = ["query", *args]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Hand options before the Service on to `query`, except --help."""
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            args = ["query", *args]
        return super().parse_args(ctx, args)


@click.group("direct", cls=_Shorthand)
def command() -> None:
    """Query a Service's pods around the gateway.

    `direct SERVICE` is short for `direct query SERVICE`.
    """


@command.command("query")
@click.argument("service")
@probing.probe_options
@options.cluster_options
def query_command(
    *,
    service: str,
    asked: probing.Asked,
    common: options.Common,
) -> int:
    """Query every ready pod of a Service, straight from the network-tool pod.

    Needs no gateway and no exposure. Exits 0 only when every probe was answered.
    """
    from kubectl_istio_udp.cluster.hops import read_service, service_hops
    from kubectl_istio_udp.model.errors import UsageError
    from kubectl_istio_udp.output import printing
    from kubectl_istio_udp.probe.verdict import judge

    check_dns_label(service, "Service")
    api = common.connect()
    namespace = common.namespace_of(api)
    found, slices = read_service(api, namespace, service)
    if not found.udp_ports:
        raise UsageError(f"Service {found} has no UDP port")
    probe = asked.probe_of(found)
    hops = service_hops(found, slices)
    results: tuple[HopResult, ...] = ()
    if hops:
        with probing.tool(api, namespace, asked) as pod:
            results = probing.send(api, pod, hops, probe, asked)
    verdict = judge(results, direct_only=True)
    if asked.output == "table":
        if results:
            click.echo(printing.table(probing.rows(results), probing.HEADERS))
        click.echo(f"{service}: {verdict.text}")
    else:
        click.echo(printing.data(probing.as_data(results, verdict), asked.output), nl=False)
    return 0 if verdict.good else 1
