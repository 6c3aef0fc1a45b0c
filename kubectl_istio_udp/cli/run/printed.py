"""Print what commands that write do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from kubectl_istio_udp.checks.catalog import Severity
from kubectl_istio_udp.checks.findings import Finding, errors
from kubectl_istio_udp.cli.applying import Applying
from kubectl_istio_udp.model.resources import resource_key
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.output import printing
from kubectl_istio_udp.sources.settings import differences, settings_of

if TYPE_CHECKING:
    # `delete` prints with this file, and does not need what the pipeline imports.
    from kubectl_istio_udp.apply.pipeline import Decision, WriteResult


class Printed:
    """Prints a run's progress to stdout and stderr, as kubectl does; a Report of the pipeline."""

    def __init__(self, applying: Applying) -> None:
        """Take the options for writing and output."""
        self._applying = applying

    def decided(self, decision: Decision) -> None:
        """Print the decision, the findings, and the changed settings.

        Errors are printed when they end the command. With `-o json` and `-o yaml` each finding,
        an error too, is an object in one line of JSON, which is YAML as well.
        """
        findings = decision.findings
        if self._applying.output in ("json", "yaml"):
            for finding in findings:
                click.echo(json.dumps(finding.to_data()), err=True)
            findings = ()
        if errors(decision.findings):
            return
        print_findings(decision.summary, findings)
        spec, before = decision.spec, decision.before
        changed = differences(settings_of(before), settings_of(spec)) if before else ()
        if changed:
            self.note(f"changes of {spec.kind.words} {spec.name}:")
        for line in changed:
            self.note(f"  {line}")

    def note(self, text: str) -> None:
        """Print a line to stderr."""
        printing.note(text)

    def warn(self, text: str) -> None:
        """Print a warning to stderr."""
        printing.warn(text)

    @contextmanager
    def waiting(self) -> Iterator[Callable[[str], None]]:
        """Show a progress line if stderr is a terminal."""
        progress = printing.Progress()
        try:
            yield progress
        finally:
            progress.clear()

    def written(self, done: Sequence[WriteResult]) -> None:
        """Print a line for each object, or the objects."""
        _show(done, self._applying)

    def removed(self, kind: str, name: str) -> None:
        """Print kubectl's line for a deleted object."""
        line = printing.deleted_line(kind, name, self._applying.dry_run)
        click.echo(line, err=self._applying.output is not None)


def print_findings(summary: str, findings: Sequence[Finding]) -> None:
    """Print the decision, and the findings with their hints."""
    printing.note(summary)
    for finding in findings:
        notify = printing.warn if finding.severity is Severity.WARNING else printing.note
        notify(str(finding))
        if finding.remedy():
            printing.note(f"  {finding.remedy()}")


def _show(done: Sequence[WriteResult], applying: Applying) -> None:
    if applying.output is None:
        for each in done:
            outcome = "serverside-applied" if each.changed else "unchanged"
            write = each.write
            click.echo(printing.object_line(write.kind, write.name, outcome, applying.dry_run))
        return
    # The printed manifests may be applied, committed or deleted by other tools, as whole objects.
    # So a Service that belongs to others must not be printed.
    whole = [each.manifest for each in done if each.write.whole]
    if applying.output == "name":
        for manifest in whole:
            click.echo(printing.resource(resource_key(manifest), manifest["metadata"]["name"]))
    else:
        click.echo(printing.documents(whole, applying.output), nl=False)
    for each in done:
        if not each.write.whole:
            _tell_left_out(each.write, applying)


def _tell_left_out(write: Write, applying: Applying) -> None:
    """Print that the gateway's Service is not among the manifests, and how to add its port."""
    service = f"Service {write.namespace}/{write.name}"
    if applying.dry_run == "none":
        printing.note(
            f"{service} has the port now; it is not printed because it belongs to the gateway"
        )
        return
    ports = json.dumps(write.manifest["spec"]["ports"])
    printing.note(
        f"{service} belongs to the gateway and is not printed: `kubectl apply` of it could change "
        "the gateway's other ports, `kubectl delete` would delete it"
    )
    # Not by `kubectl apply --server-side`: if the Service was applied client-side, that gives all
    # of its fields to the new field manager, and removes those that are not named (measured).
    printing.note("  to add the port: run the command without --dry-run and -o")
    printing.note(f"  or add it to the manifest of this Service: {ports}")
