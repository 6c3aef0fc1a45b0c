"""`validate`: check the EnvoyFilters of files, and print what Envoy rejects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from kubectl_istio_udp.checks.findings import Finding
from kubectl_istio_udp.cli.run import manifest_files
from kubectl_istio_udp.cli.run.manifest_files import Document, Place, Unreadable
from kubectl_istio_udp.envoy import binary
from kubectl_istio_udp.envoy.patches import Flaw, json_path
from kubectl_istio_udp.envoy.validate import validate
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.kinds import ObjectRef
from kubectl_istio_udp.output import printing


@dataclass(frozen=True)
class Located:
    """A finding with its place in a file.

    Attributes:
        finding: the finding.
        place: the place.
        lead: the object and the field in messages, each with a colon after it.
    """

    finding: Finding
    place: Place
    lead: str = ""

    @classmethod
    def of_file(cls, unreadable: Unreadable) -> Located:
        """The finding about a file that cannot be read."""
        place = unreadable.place
        file = ObjectRef("File", "", place.file)
        return cls(Finding("U142", file, values={"reason": unreadable.why}), place)

    @classmethod
    def of_flaw(cls, code: str, filters: Sequence[Document], flaw: Flaw) -> Located:
        """The finding about a field of an EnvoyFilter."""
        document = filters[flaw.manifest]
        metadata = document.data.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        namespace, name = (str(metadata.get(key) or "") for key in ("namespace", "name"))
        lead = f"EnvoyFilter {_name(document)}: " + (f"{flaw.field}: " if flaw.field else "")
        finding = Finding(
            code,
            ObjectRef("EnvoyFilter", namespace, name),
            json_path(flaw.path),
            {"reason": flaw.message},
        )
        return cls(finding, document.place(flaw.path), lead)

    def to_data(self) -> dict[str, Any]:
        """The finding as plain data, with its place."""
        return {**vars(self.place), **self.finding.to_data()}

    def __str__(self) -> str:
        """`FILE:LINE:COLUMN: EnvoyFilter NAME: FIELD: MESSAGE`."""
        return f"{self.place}: {self.lead}{self.finding.message}"


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
    for found in manifest_files.read_documents(filenames):
        if isinstance(found, Unreadable):
            broken.append(found)
        else:
            documents.append(found)
    filters = [document for document in documents if document.data["kind"] == "EnvoyFilter"]
    if not filters and not broken:
        raise UsageError(
            f"no EnvoyFilter found in {', '.join(map(manifest_files.shown_name, filenames))}",
            hints=[f"other objects: {_passed_over(documents)}"] if documents else [],
        )
    report = validate(program, [document.data for document in filters])
    refused = [
        *(Located.of_file(each) for each in broken),
        *(Located.of_flaw("U141", filters, each) for each in report.refused),
    ]
    unchecked = [Located.of_flaw("U241", filters, each) for each in report.unchecked]
    if output == "json":
        whole = {
            "good": not refused,
            "envoy": version,
            "envoyFilters": len(filters),
            "refused": [each.to_data() for each in refused],
            "unchecked": [each.to_data() for each in unchecked],
        }
        click.echo(printing.data(whole, "json"), nl=False)
    else:
        _print(version, filters, refused, unchecked)
    return 1 if refused else 0


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
    refused: Sequence[Located],
    unchecked: Sequence[Located],
) -> None:
    for each in unchecked:
        printing.warn(str(each))
    for each in refused:
        click.echo(str(each))
    count = f"{len(filters)} EnvoyFilter{'s' if len(filters) != 1 else ''}"
    if refused:
        places = f"{len(refused)} place{'s' if len(refused) != 1 else ''}"
        printing.note(f"{places} to correct (checked with Envoy {version})")
    elif unchecked:
        click.echo(f"Envoy {version} accepts {count}, except for what could not be checked")
    else:
        click.echo(f"Envoy {version} accepts {count}")
