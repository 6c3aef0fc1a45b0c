"""The options of all commands that write, and their output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.names import MANAGER
from kubectl_istio_udp.model.write_options import WriteOptions


@dataclass(frozen=True)
class Applying(WriteOptions):
    """The values of the options for writing and output.

    Attributes:
        output: yaml, json or name; None for a line per object.
    """

    output: str | None

    @property
    def in_words(self) -> bool:
        """Whether the command writes and prints text, so that it may print more text afterwards."""
        return self.dry_run == "none" and self.output is None


def applying_options(*, waiting: bool) -> options.Decorator:
    """--validate, --dry-run, -o, --force-conflicts and --field-manager (and --wait, --timeout)."""

    def decorate(command: Callable[..., Any]) -> Any:
        def collect(**values: Any) -> Any:
            wait, timeout = values.pop("wait", False), values.pop("timeout", Duration(0))
            applying = Applying(
                seconds=timeout.seconds if wait else 0,
                dry_run=values.pop("dry_run"),
                output=values.pop("output"),
                force=values.pop("force_conflicts"),
                manager=values.pop("field_manager"),
                validate=values.pop("validate"),
            )
            return command(applying=applying, **values)

        chosen = (*options.wait_options(_WAIT), *_OPTIONS) if waiting else _OPTIONS
        return options.with_options(collect, command, chosen)

    return decorate


_WAIT = "Wait until the Envoy of every ready gateway pod has the configuration."
_OPTIONS: tuple[options.Decorator, ...] = (
    options.validate_option,
    options.dry_run_option,
    options.output_option("yaml", "json", "name"),
    click.option(
        "--force-conflicts",
        is_flag=True,
        help="Take over fields that other field managers have changed.",
    ),
    click.option(
        "--field-manager",
        default=MANAGER,
        show_default=True,
        help="Name of the field manager that owns the written fields.",
    ),
)
