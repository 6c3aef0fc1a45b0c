"""`samples`: a DNS server to expose, and a network-tool pod to query it from."""

from __future__ import annotations

from typing import Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.flags import Command, Group
from kubectl_istio_udp.render.samples import COREDNS_IMAGE, TOOL_IMAGE

_image_options = options.options(
    click.option("--coredns-image", default=COREDNS_IMAGE, show_default=True, help="DNS server."),
    click.option("--tool-image", default=TOOL_IMAGE, show_default=True, help="Network tool."),
)


def _udproute_options(help_text: str) -> options.Decorator:
    """--udproute with this help, and --gateway-namespace."""
    return options.options(
        click.option("--udproute", is_flag=True, help=help_text),
        click.option(
            "--gateway-namespace",
            type=options.NAMESPACE,
            default="istio-system",
            show_default=True,
            metavar="NAMESPACE",
            help="Namespace of the Gateway and the UDPRoute. Must be one of the controller's "
            "--gateway-namespace values.",
        ),
    )


_added_udproute = _udproute_options(
    "Add a Gateway, a UDPRoute and a ReferenceGrant. The controller creates a separate gateway for "
    "them (`controller install --gateway-api`)."
)
_deleted_udproute = _udproute_options("Delete the Gateway, UDPRoute and ReferenceGrant too.")


@click.group("samples", cls=Group)
def command() -> None:
    """Apply, delete or print a sample DNS server and network tool.

    The DNS server is CoreDNS behind the Service coredns (53/UDP), and answers for foo.bar.com. The
    network tool is a pod with dig, curl and nc.
    """


@command.command("apply", cls=Command)
@_image_options
@_added_udproute
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until they run.")
@click.option(
    "--timeout", type=options.DURATION, default="60s", show_default=True, help="How long to wait."
)
@options.dry_run_option
@options.cluster_options
def apply_command(**values: Any) -> None:
    """Apply the samples, and wait until they run."""
    from kubectl_istio_udp.cli.run import samples

    samples.apply(**values)


@command.command("delete", cls=Command)
@_deleted_udproute
@options.dry_run_option
@options.cluster_options
def delete_command(**values: Any) -> None:
    """Delete the samples, and no other objects."""
    from kubectl_istio_udp.cli.run import samples

    samples.delete(**values)


@command.command("print", cls=Command)
@_image_options
@_added_udproute
@click.option(
    "-n",
    "--namespace",
    type=options.NAMESPACE,
    metavar="TEXT",
    default="default",
    show_default=True,
    help="Namespace of the samples.",
)
@options.output_option("yaml", "json", default="yaml")
def print_command(**values: Any) -> None:
    """Print the manifests of the samples, without a cluster."""
    from kubectl_istio_udp.cli.run import samples

    samples.print_manifests(**values)
