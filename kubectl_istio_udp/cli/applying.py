"""The options of all commands that write, and their output."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.names import MANAGER
from kubectl_istio_udp.model.writing import Writing

if TYPE_CHECKING:
    from kubectl_istio_udp.apply.pipeline import Decision, Done
    from kubectl_istio_udp.checks.findings import Finding
    from kubectl_istio_udp.model.write import Write


@dataclass(frozen=True)
class Applying(Writing):
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

        chosen = (*options.wait_options, *_OPTIONS) if waiting else _OPTIONS
        return options.with_options(collect, command, chosen)

    return decorate


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


class Printed:
    """Prints a run's progress to stdout and stderr, as kubectl does; a Report of the pipeline."""

    def __init__(self, applying: Applying) -> None:
        """Take the options for writing and output."""
        from kubectl_istio_udp.output import printing

        self._applying, self._printing = applying, printing

    def decided(self, decision: Decision) -> None:
        """Print the decision, the findings, and the changed settings."""
        from kubectl_istio_udp.sources.settings import differences, settings_of

        tell_findings(decision.said, decision.findings)
        spec, before = decision.spec, decision.before
        changed = differences(settings_of(before), settings_of(spec)) if before else ()
        if changed:
            self.note(f"changes of {spec.kind.words} {spec.name}:")
        for line in changed:
            self.note(f"  {line}")

    def note(self, text: str) -> None:
        """Print a line to stderr."""
        self._printing.note(text)

    def warn(self, text: str) -> None:
        """Print a warning to stderr."""
        self._printing.warn(text)

    @contextmanager
    def waiting(self) -> Iterator[Callable[[str], None]]:
        """Show a progress line if stderr is a terminal."""
        progress = self._printing.Progress()
        try:
            yield progress
        finally:
            progress.clear()

    def written(self, done: Sequence[Done]) -> None:
        """Print a line for each object, or the objects."""
        _show(done, self._applying)

    def removed(self, kind: str, name: str) -> None:
        """Print kubectl's line for a deleted object."""
        line = self._printing.deleted_line(kind, name, self._applying.dry_run)
        click.echo(line, err=self._applying.output is not None)


def tell_findings(said: str, findings: Sequence[Finding]) -> None:
    """Print the decision, and the findings with their hints."""
    from kubectl_istio_udp.checks.catalog import Severity
    from kubectl_istio_udp.output.printing import note, warn

    note(said)
    for finding in findings:
        tell = warn if finding.severity is Severity.WARNING else note
        tell(str(finding))
        if finding.hint:
            note(f"  {finding.hint}")


def _show(done: Sequence[Done], applying: Applying) -> None:
    from kubectl_istio_udp.output import printing

    if applying.output is None:
        for each in done:
            outcome = "serverside-applied" if each.changed else "unchanged"
            write = each.write
            click.echo(printing.object_line(write.kind, write.name, outcome, applying.dry_run))
        return
    # The printed manifests may be applied, committed or deleted by other tools, as whole objects.
    # So a Service that belongs to others must not be printed.
    ours = [each.manifest for each in done if each.write.whole]
    if applying.output == "name":
        for manifest in ours:
            click.echo(printing.resource(manifest["kind"], manifest["metadata"]["name"]))
    else:
        click.echo(printing.documents(ours, applying.output), nl=False)
    for each in done:
        if not each.write.whole:
            _tell_left_out(each.write, applying)


def _tell_left_out(write: Write, applying: Applying) -> None:
    """Print that the gateway's Service is not among the manifests, and how to add its port."""
    from kubectl_istio_udp.output.printing import note

    service = f"Service {write.namespace}/{write.name}"
    if applying.dry_run == "none":
        note(f"{service} has the port now; it is not printed because it belongs to the gateway")
        return
    ports = json.dumps(write.manifest["spec"]["ports"])
    note(
        f"{service} belongs to the gateway and is not printed: `kubectl apply` of it could change "
        "the gateway's other ports, `kubectl delete` would delete it"
    )
    # Not by `kubectl apply --server-side`: if the Service was applied client-side, that gives all
    # of its fields to the new field manager, and removes those that are not named (measured).
    note("  to add the port: run the command without --dry-run and -o")
    note(f"  or add it to the manifest of this Service: {ports}")
