"""Findings: what checks report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.checks.catalog import CHECKS, Check, Severity, Surface, Text
from kubectl_istio_udp.model.kinds import ObjectRef

# The keys of `Finding.to_data`, for docs/checks.md.
FINDING_KEYS = {
    "code": "`U103`",
    "severity": "`error`, `warning` or `info`",
    "object": "`kind`, `namespace` and `name` of the object that has the problem. Kinds that "
    "Kubernetes does not have: `Exposure`, `Response`, `AccessLog`, `File`, and `gateway` for the "
    "pods of a gateway",
    "field": "the field of the object, as a JSONPath for `kubectl get -o jsonpath='{.FIELD}'` (of "
    "an `Exposure`, `Response` or `AccessLog` as `kubectl istio-udp get -o json` shows it; of a "
    "`gateway` in its pods); empty for the object as a whole",
    "message": "the problem",
    "values": "what the message names: strings, numbers, lists of strings",
    "remedy": "what to do next: `commandLine`, and for errors that the controller reports "
    "`annotation` (of a Service) and `listener` (of a Gateway)",
    "mayPass": "whether deleting another exposure may fix it",
    "link": "the paragraph on this page",
}
Value = str | int | float | tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """One finding of a rule: a value that each surface words.

    Attributes:
        code: e.g. `U101`, one of CHECKS.
        object: the object that has the problem. The kinds of the plugin (`Exposure`, `Response`,
            `AccessLog`), `gateway` for the pods of a gateway, and `File` are not Kubernetes'.
        field: the field of the object, as a JSONPath that kubectl takes
            (`spec.ports[?(@.port==443)]`); "" if it is the object as a whole.
        values: what the texts name, e.g. `{"port": 5300}`.
        case: which text of the code's entry.
    """

    code: str
    object: ObjectRef
    field: str = ""
    values: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    case: str = ""

    @property
    def check(self) -> Check:
        """The entry of the code in CHECKS."""
        return CHECKS[self.code]

    @property
    def severity(self) -> Severity:
        """The severity."""
        return self.check.severity

    @property
    def message(self) -> str:
        """The problem and the objects concerned."""
        return self._fill(self._text.message)

    @property
    def event(self) -> str:
        """The problem for Events, which tenants read: it names no objects of other tenants."""
        return self._fill(self._text.event or self._text.message)

    def remedy(self, surface: Surface = Surface.COMMAND_LINE) -> str:
        """What to type or change next; "" if there is nothing to do."""
        return self._fill(self._text.remedy.on(surface))

    def to_data(self) -> dict[str, Any]:
        """The finding as plain data; docs/checks.md describes the keys."""
        remedies = {surface.value: self.remedy(surface) for surface in Surface}
        return {
            "code": self.code,
            "severity": self.severity.value,
            "object": dict(vars(self.object)),
            "field": self.field,
            "message": self.message,
            "values": dict(self.values),
            "remedy": {surface: text for surface, text in remedies.items() if text},
            "mayPass": self.check.may_pass,
            "link": self.check.link,
        }

    def __str__(self) -> str:
        """`message [U101]`."""
        return f"{self.message} [{self.code}]"

    @property
    def _text(self) -> Text:
        return self.check.texts[self.case]

    def _fill(self, template: str) -> str:
        shown = {
            name: ", ".join(value) if isinstance(value, tuple) else value
            for name, value in self.values.items()
        }
        return template.format(object=self.object, **shown)


def errors(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings that prevent the write."""
    return tuple(f for f in findings if is_error(f.code))


def is_error(code: str) -> bool:
    """Whether findings with a code prevent the write."""
    return CHECKS[code].severity is Severity.ERROR
