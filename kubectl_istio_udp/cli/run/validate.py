"""`validate`: check the EnvoyFilters of files, and print what Envoy rejects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from kubectl_istio_udp.cli.run import manifests
from kubectl_istio_udp.cli.run.manifests import Document, Place, Unreadable
from kubectl_istio_udp.envoy import binary
from kubectl_istio_udp.envoy.patches import Finding
from kubectl_istio_udp.envoy.validate import validate
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.output import printing


def run(*, filenames: tuple[str, ...], envoy: str | None, output: str) -> int:
    """Run `validate`, with the values of its options; the exit code."""
    if not filenames:
        raise UsageError(
            "missing -f FILE",
            hints=["name the files: kubectl istio-udp validate -f FILE; -f - reads stdin"],
        )
    program = binary.need_envoy(envoy)
    version = binary.version(program)
    documents: list[Document] = []
    broken: list[Unreadable] = []
    for found in manifests.read_documents(filenames):
        if isinstance(found, Unreadable):
            broken.append(found)
        else:
            documents.append(found)
    filters = [document for document in documents if document.data["kind"] == "EnvoyFilter"]
    if not filters and not broken:
        raise UsageError(
            f"no EnvoyFilter found in {', '.join(filenames)}",
            hints=[f"other objects: {_passed_over(documents)}"] if documents else [],
        )
    report = validate(program, [document.data for document in filters])
    refused = [
        *(_data(each.place, None, "", each.why) for each in broken),
        *(_located(filters, each) for each in report.refused),
    ]
    unchecked = [_located(filters, each) for each in report.unchecked]
    if output == "json":
        whole = {
            "good": not refused,
            "envoy": version,
            "envoyFilters": len(filters),
            "refused": refused,
            "unchecked": unchecked,
        }
        click.echo(printing.data(whole, "json"), nl=False)
    else:
        _print(version, filters, refused, unchecked)
    return 1 if refused else 0


def _located(filters: Sequence[Document], finding: Finding) -> dict[str, Any]:
    document = filters[finding.manifest]
    return _data(document.place(finding.path), document, finding.field, finding.message)


def _data(place: Place, document: Document | None, field: str, message: str) -> dict[str, Any]:
    return {
        "file": place.file,
        "line": place.line,
        "column": place.column,
        "envoyFilter": _name(document) if document else None,
        "field": field,
        "message": message,
    }


def _name(document: Document) -> str:
    """`namespace/name`, as far as present."""
    metadata = document.data.get("metadata")
    if not isinstance(metadata, dict):
        return "(without a name)"
    name = str(metadata.get("name") or "(without a name)")
    return f"{metadata['namespace']}/{name}" if metadata.get("namespace") else name


def _passed_over(documents: Sequence[Document]) -> str:
    return ", ".join(f"{document.data['kind']} {_name(document)}" for document in documents)


def _print(
    version: str,
    filters: Sequence[Document],
    refused: Sequence[dict[str, Any]],
    unchecked: Sequence[dict[str, Any]],
) -> None:

    for each in unchecked:
        printing.warn(_line(each))
    for each in refused:
        click.echo(_line(each))
    count = f"{len(filters)} EnvoyFilter{'s' if len(filters) != 1 else ''}"
    if refused:
        places = f"{len(refused)} place{'s' if len(refused) != 1 else ''}"
        printing.note(f"rejected at {places}, by Envoy {version} or because it is malformed")
    elif unchecked:
        click.echo(f"Envoy {version} accepts {count}, except for what could not be checked")
    else:
        click.echo(f"Envoy {version} accepts {count}")


def _line(each: dict[str, Any]) -> str:
    lead = f"{each['file']}:{each['line']}:{each['column']}: "
    owner = f"EnvoyFilter {each['envoyFilter']}: " if each["envoyFilter"] else ""
    field = f"{each['field']}: " if each["field"] else ""
    return f"{lead}{owner}{field}{each['message']}"
