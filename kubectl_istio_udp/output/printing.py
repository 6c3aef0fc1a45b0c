"""Results on stdout; progress, findings and warnings on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
import yaml

from kubectl_istio_udp.model.errors import IstioUdpError
from kubectl_istio_udp.model.resources import RESOURCES
from kubectl_istio_udp.output.escape import escape, write_control

# Return to the start of the line and clear it.
_LINE_START = "\r\033[K"
_DRY_RUN = {"none": "", "client": " (dry run)", "server": " (server dry run)"}


def resource(kind: str, name: str) -> str:
    """An object in kubectl's format: `envoyfilter.networking.istio.io/udp-default-coredns`."""
    return f"{RESOURCES[kind].singular}/{name}"


def object_line(kind: str, name: str, outcome: str, dry_run: str = "none") -> str:
    """Kubectl's output line for an object: `service/coredns serverside-applied (dry run)`.

    Args:
        kind, name: the object.
        outcome: what happened to it, e.g. `created`.
        dry_run: none, client or server.
    """
    return f"{resource(kind, name)} {outcome}{_DRY_RUN[dry_run]}"


def deleted_line(kind: str, name: str, dry_run: str = "none") -> str:
    """Kubectl's output line for a deleted object: `service "coredns" deleted`."""
    return f'{RESOURCES[kind].singular} "{name}" deleted{_DRY_RUN[dry_run]}'


def documents(items: Sequence[Mapping[str, Any]], form: str) -> str:
    """Manifests as a YAML stream or JSON (a List if there are several)."""
    if form == "json":
        whole = (
            items[0]
            if len(items) == 1
            else {"apiVersion": "v1", "kind": "List", "items": list(items)}
        )
        return json.dumps(whole, indent=2) + "\n"
    return "---\n".join(yaml.safe_dump(dict(item), sort_keys=False) for item in items)


def data(value: Any, form: str) -> str:
    """Plain data (dicts and lists) as YAML or JSON."""
    if form == "json":
        return json.dumps(value, indent=2) + "\n"
    return str(yaml.safe_dump(value, sort_keys=False))


def table(rows: Iterable[Sequence[object]], headers: Sequence[str]) -> str:
    """A table in kubectl's format: upper-case headers, columns separated by three spaces.

    Args:
        rows: the cells; missing cells at the end of a row are empty.
        headers: the names of the columns.
    """
    lines = [[header.upper() for header in headers]]
    for row in rows:
        cells = ["" if cell is None else escape(str(cell)) for cell in row]
        lines.append(cells + [""] * (len(headers) - len(cells)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def warn(text: str) -> None:
    """Print a warning to stderr, in kubectl's format."""
    prefix = "Warning: "
    if sys.stderr.isatty():
        write_control(click.style(prefix, fg="yellow"))
        prefix = ""
    click.echo(prefix + continued(text), err=True)


def note(text: str) -> None:
    """Print information to stderr."""
    click.echo(continued(text), err=True)


def error(problem: IstioUdpError) -> None:
    """Print an error to stderr: the message, and a line for each hint."""
    click.echo(f"error: {continued(problem.message)}", err=True)
    for hint in problem.hints:
        click.echo(f"  {continued(hint)}", err=True)


def continued(text: str) -> str:
    """Indent the further lines of a text, so that none looks like a separate message."""
    return "\n    ".join(escape(line) for line in text.split("\n"))


class Progress:
    """One line on stderr that is overwritten in place; nothing if stderr is not a terminal."""

    def __init__(self) -> None:
        """Check whether stderr is a terminal."""
        self._shown = ""
        self._terminal = sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        """Replace the line."""
        if self._terminal and text != self._shown:
            write_control(_LINE_START)
            click.echo(escape(text[:150]), nl=False, err=True)
            self._shown = text

    def clear(self) -> None:
        """Clear the line."""
        if self._shown:
            write_control(_LINE_START)
            sys.stderr.flush()
            self._shown = ""
