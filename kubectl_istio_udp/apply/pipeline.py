"""The one way from a decision to the cluster, for every kind and every command that writes.

    refuse -> tell -> ask Envoy -> write -> wait -> remove

Nothing is printed here: a Report is told, and the commands hand in theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from kubectl_istio_udp.apply.changes import ChangeSet
from kubectl_istio_udp.apply.deletion import remove
from kubectl_istio_udp.apply.transaction import Transaction
from kubectl_istio_udp.checks.findings import Finding, errors
from kubectl_istio_udp.envoy.accepting import ensure_accepted
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import ClusterError, Interrupted, Refused, Rejected
from kubectl_istio_udp.model.kinds import Ref, Spec
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.model.writing import Writing

Progress = Callable[[str], None]


def _nothing() -> None:
    """Confirm what needs no confirmation."""


@dataclass(frozen=True)
class Decision:
    """What a run is going to do: decided and checked, and nothing written yet.

    Attributes:
        spec: the exposure, response or access log as it is to be.
        before: as it is; None for a new one.
        said: what was decided, in a line.
        findings: what the checks found.
        changes: what to write and to remove.
        wait: waits for the proxies; gets the seconds, and where to show progress. None where no
            proxy is asked.
        confirm: called after the wait; what it raises takes everything back.
        guard: makes what is held while it is written and waited for; what that raises comes
            before any write.
    """

    spec: Spec
    before: Spec | None
    said: str
    findings: tuple[Finding, ...]
    changes: ChangeSet
    wait: Callable[[float, Progress], object] | None = None
    confirm: Callable[[], None] = _nothing
    guard: Callable[[], AbstractContextManager[object]] = nullcontext


@dataclass(frozen=True)
class Done:
    """A write that was made, or would be.

    Attributes:
        write: the write.
        changed: whether it changed anything, as far as is known.
        manifest: what the object is now; with a client-side dry run what would be sent.
    """

    write: Write
    changed: bool
    manifest: Mapping[str, Any]


class Report(Protocol):
    """Whom a run tells what it does."""

    def decided(self, decision: Decision) -> None:
        """Tell the decision, the findings, and what changes."""

    def note(self, text: str) -> None:
        """Tell something worth knowing."""

    def warn(self, text: str) -> None:
        """Tell something that is worth a warning."""

    def waiting(self) -> AbstractContextManager[Progress]:
        """Show progress while the context is open."""

    def written(self, done: Sequence[Done]) -> None:
        """Tell what was written."""

    def removed(self, kind: str, name: str) -> None:
        """Tell that an object was deleted, or lost its ports of ours."""


def carry(
    api: Api,
    decision: Decision,
    writing: Writing,
    report: Report,
    flags: Mapping[str, str],
) -> None:
    """Do what was decided: write all or none, wait, remove what is not wanted.

    Args:
        api: the cluster.
        decision: what to do.
        writing: how.
        report: told each step.
        flags: the option that decides a field of Envoy's, for the message where Envoy rejects it.

    Raises:
        Refused, Rejected and whatever the cluster says; nothing of it is there then. An error
            while removing leaves what was written; the same command removes the rest.
    """
    refuse_errors(decision.findings)
    report.decided(decision)
    todo = decision.changes.writes
    ensure_accepted([w.manifest for w in todo], writing.validate, flags, warn=report.warn)
    if writing.dry_run == "client":
        report.written([Done(write, True, write.manifest) for write in todo])
    else:
        report.written(_write(api, decision, writing, report))
    _remove(api, decision.changes, writing, report)


def refuse_errors(findings: Sequence[Finding]) -> None:
    """Refuse where a finding says that writing would harm.

    Raises:
        Refused: nothing was written.
    """
    refusing = errors(findings)
    if refusing:
        worst, *others = refusing
        hints = [worst.hint] if worst.hint else []
        raise Refused(
            f"{worst}; nothing was written",
            hints=[*hints, *map(str, others), f"see {worst.check.link}"],
        )


def _write(api: Api, decision: Decision, writing: Writing, report: Report) -> list[Done]:
    dry_run = writing.dry_run == "server"
    done: list[Done] = []
    with (
        nullcontext() if dry_run else decision.guard(),
        Transaction(api, force=writing.force, dry_run=dry_run) as transaction,
    ):
        for write in decision.changes.writes:
            applied = transaction.apply(write)
            changed = applied.verb != "unchanged"
            for text in applied.warnings if changed else ():
                # Istio says this of every EnvoyFilter; keeping it sound is what we are for.
                if not text.startswith("EnvoyFilter exposes internal implementation details"):
                    report.warn(text)
            done.append(Done(write, changed, applied.manifest))
        if decision.wait and writing.waits:
            _wait(transaction, decision.spec, partial(decision.wait, writing.seconds), report)
            decision.confirm()
    return done


def _wait(
    transaction: Transaction, spec: Spec, wait: Callable[[Progress], object], report: Report
) -> None:
    """Wait for the proxies; a rejection takes everything back, a timeout nothing.

    Raises:
        Rejected, WaitTimeout, Interrupted: as it ended.
    """
    try:
        with report.waiting() as progress:
            wait(progress)
    except Rejected:
        raise
    except KeyboardInterrupt:
        transaction.keep()
        raise Interrupted(
            "interrupted while waiting for the gateway; the objects stay applied",
            hints=[
                "see their state: kubectl istio-udp get "
                f"-n {spec.namespace} {Ref(spec.kind, spec.name)}"
            ],
        ) from None
    except BaseException:
        transaction.keep()
        raise


def _remove(api: Api, changes: ChangeSet, writing: Writing, report: Report) -> None:
    try:
        warnings = remove(
            api,
            changes,
            timeout=writing.seconds,
            dry_run=writing.dry_run,
            report=lambda kind, _, name: report.removed(kind, name),
        )
    except ClusterError as error:
        error.hints = (
            *error.hints,
            "the new state is applied; run the command again to remove the rest of the old one",
        )
        raise
    for text in warnings:
        report.warn(text)
