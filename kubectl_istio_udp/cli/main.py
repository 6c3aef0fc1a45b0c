"""The entry point: imports the verb's module, runs it, prints errors and sets exit codes."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from kubectl_istio_udp.cli.flags import Group
from kubectl_istio_udp.model.errors import Interrupted, IstioUdpError
from kubectl_istio_udp.output.escape import escaping

if TYPE_CHECKING:
    from kubectl_istio_udp.model.waits import Waits

# Verb -> its line in the overview. Modules of verbs are only imported when used, because start-up
# time delays every command.
VERBS = {
    "expose": "Make a Service's UDP ports reachable through an Istio gateway.",
    "verify": "Test exposures, responses and access logs end to end, and show what is broken.",
    "direct": "Query pods directly, or have the gateway answer HTTP requests itself.",
    "access-log": "Make proxies log open TCP connections periodically.",
    "get": "List exposures, responses and access logs.",
    "describe": "Show the details of exposures, responses and access logs.",
    "delete": "Delete exposures, responses and access logs.",
    "controller": "Expose Services by annotation, from within the cluster.",
    "demo": "Expose and verify a Service on this machine, with a real Envoy and no cluster.",
    "validate": "Check with a real Envoy whether it accepts EnvoyFilters, without a cluster.",
    "samples": "Apply, delete or print a sample DNS server and network tool.",
    "version": "Print the version.",
}
BROKEN_PIPE = 141


class LazyGroup(Group):
    """A group with commands that are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order of a typical session."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a verb, from the module with the same name."""
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"kubectl_istio_udp.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first word names; the error for another word suggests one."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            # Only an error needs it.
            from difflib import get_close_matches

            close = get_close_matches(args[0], VERBS, 1)
            if not close:
                raise
            text = f"{error.message} Did you mean '{close[0]}'?"
            raise click.UsageError(text, ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The overview, without importing the verbs."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(
    cls=LazyGroup,
    name="kubectl istio-udp",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
def cli() -> None:
    """Expose UDP Services through an Istio gateway, and verify that they answer.

    Exit codes: 0 success; 1 a check or probe failed; 2 invalid command line; 3 the cluster or
    Envoy rejected the request, or could not be reached.
    """


def main(arguments: Sequence[str] | None = None, waits: Waits | None = None) -> None:
    """Run the command line and exit with its exit code.

    Args:
        arguments: the words after the plugin's name; None for the process's own.
        waits: how long to wait, and for what; None for the defaults.
    """
    with escaping(), _no_collection():
        _main(sys.argv[1:] if arguments is None else arguments, waits)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Do not look for garbage in reference cycles: commands are short and create little of it.

    Looking takes 3% of the instructions of `get`. `controller run` enables it again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _main(arguments: Sequence[str], waits: Waits | None) -> None:
    meta: dict[str, bool] = {}
    # SIGTERM is handled like Ctrl-C: incomplete writes are rolled back.
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with cli.make_context("kubectl istio-udp", list(arguments), obj=waits) as context:
            meta = context.meta
            code = cli.invoke(context)
        sys.exit(code if isinstance(code, int) else 0)
    except IstioUdpError as error:
        # Only an error needs them.
        if meta.get("verbose"):
            import traceback

            traceback.print_exc()
        from kubectl_istio_udp.output import printing

        printing.error(error)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("error: interrupted", err=True)
        sys.exit(Interrupted.exit_code)
    except BrokenPipeError:
        # The reader has closed the pipe (`... | head`); Python must not try to flush it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE)
    except Exception as error:
        if meta.get("verbose"):
            raise
        click.echo(f"error: unexpected {type(error).__name__}: {error}", err=True)
        click.echo("  this is a bug; to see the traceback, run the command with -v", err=True)
        sys.exit(IstioUdpError.exit_code)
