"""`direct`: query a Service's pods past the gateway, or let the gateway answer itself."""

from __future__ import annotations

from typing import Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.flags import Command, Group
from kubectl_istio_udp.cli.probe_options import probe_options


class _Shorthand(Group):
    """`direct SERVICE` is `direct query SERVICE`, `direct /PATH` is `direct response /PATH`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return `query` and `response`."""
        return ["query", "response"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The subcommand; `response` is only imported when it is needed."""
        if cmd_name == "response":
            from kubectl_istio_udp.cli import response

            return response.command
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Treat a first word that is not a subcommand as a Service or path."""
        return super().resolve_command(ctx, _completed(args, self.list_commands(ctx)))

    def arranged(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Pass options before the Service or path to the subcommand, except --help."""
        args = super().arranged(ctx, args)
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            args = _completed(args, self.list_commands(ctx))
        return args


def _completed(args: list[str], commands: list[str]) -> list[str]:
    """The arguments with the omitted subcommand."""
    if not args or args[0] in commands:
        return args
    before = ["", *args]
    path = any(
        word.startswith("/") and option not in _SLASHED_OPTIONS
        for option, word in zip(before, args, strict=False)
    )
    return ["response" if path else "query", *args]


# Options with values that may begin with / without being a path. OpenShift names a context without
# a project `/api-example-com:6443/jane`.
_SLASHED_OPTIONS = (
    "--kubeconfig",
    "--body-file",
    "--context",
    "--certificate-authority",
    "--client-certificate",
    "--client-key",
)


@click.group("direct", cls=_Shorthand)
def command() -> None:
    """Query a Service's pods directly, or have the gateway answer HTTP requests itself.

    `direct SERVICE` is short for `direct query SERVICE`, and `direct /PATH` for `direct response
    /PATH`.
    """


@command.command("query", cls=Command)
@click.argument("service")
@probe_options
@options.cluster_options
def query_command(**values: Any) -> int:
    """Query every ready pod of a Service directly, from the network-tool pod.

    Needs no gateway and no exposure. Exits with 0 if every probe was answered, else with 1.
    """
    from kubectl_istio_udp.cli.run import direct

    return direct.query(**values)
