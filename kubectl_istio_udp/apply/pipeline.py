"""The one path from a decision to the cluster, for all kinds and all commands that write.

    refuse -> report -> validate with Envoy -> write -> wait -> remove

It prints nothing: the commands pass a Report.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from kubectl_istio_udp.apply.changes import ChangeSet
from kubectl_istio_udp.apply.deletion_order import remove
from kubectl_istio_udp.apply.exact import edit_text
from kubectl_istio_udp.apply.transaction import Transaction
from kubectl_istio_udp.checks.findings import Finding, errors
from kubectl_istio_udp.envoy.validate_option import ensure_accepted
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.deletion import BeingDeleted
from kubectl_istio_udp.model.errors import ClusterError, Interrupted, Refused, Rejected
from kubectl_istio_udp.model.kinds import ObjectRef, Ref, Spec
from kubectl_istio_udp.model.resources import resource_key
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.model.write_options import WriteOptions

Progress = Callable[[str], None]


def _nothing() -> None:
    """Do nothing; the default of Decision.confirm."""


@dataclass(frozen=True)
class Decision:
    """What a run will do: decided and checked, but not written yet.

    Attributes:
        spec: the planned exposure, response or access log.
        before: the current one; None for a new one.
        summary: the decision as one line of text.
        findings: the findings of the checks.
        changes: what to write and remove.
        wait: waits for the proxies; called with the timeout in seconds and a progress function.
            None to not wait.
        confirm: called after the wait; an error from it rolls everything back.
        guard: returns a context that is held during writing and waiting; an error on entering it
            prevents all writes.
    """

    spec: Spec
    before: Spec | None
    summary: str
    findings: tuple[Finding, ...]
    changes: ChangeSet
    wait: Callable[[float, Progress], object] | None = None
    confirm: Callable[[], None] = _nothing
    guard: Callable[[], AbstractContextManager[object]] = nullcontext


@dataclass(frozen=True)
class WriteResult:
    """A write that was made, or would be in a dry run.

    Attributes:
        write: the write.
        changed: whether it changed anything, if known.
        manifest: the resulting object; with a client-side dry run, the one that would be sent.
    """

    write: Write
    changed: bool
    manifest: Mapping[str, Any]


class Report(Protocol):
    """Receives the progress of a run."""

    def decided(self, decision: Decision) -> None:
        """Report the decision, the findings and the changes; if there are errors, they follow."""

    def note(self, text: str) -> None:
        """Report information."""

    def warn(self, text: str) -> None:
        """Report a warning."""

    def waiting(self) -> AbstractContextManager[Progress]:
        """Show progress while the context is open."""

    def written(self, done: Sequence[WriteResult]) -> None:
        """Report the written objects."""

    def removed(self, kind: str, name: str) -> None:
        """Report that an object was deleted, or lost the exposure's ports."""


def apply_decision(
    api: Api,
    decision: Decision,
    writing: WriteOptions,
    report: Report,
    flags: Mapping[str, str],
) -> Sequence[WriteResult]:
    """Carry out a decision: write all objects or none, wait, remove what is no longer wanted.

    Args:
        api: the cluster.
        decision: what to do.
        writing: how to write.
        report: informed about each step.
        flags: the option for each Envoy field, for the message if Envoy rejects it.

    Returns:
        The writes that were made, or would be in a dry run.

    Raises:
        Refused, Rejected or an error of the cluster; everything was rolled back then. After an
            error while removing the writes stay; the same command removes the rest.
    """
    report.decided(decision)
    refuse_errors(decision.findings)
    todo = decision.changes.writes
    ensure_accepted([w.manifest for w in todo], writing.validate, flags, warn=report.warn)
    if writing.dry_run == "client":
        done = [WriteResult(write, True, write.manifest) for write in todo]
    else:
        done = _write_when_free(api, decision, writing, report)
    report.written(done)
    _remove(api, decision.changes, writing, report)
    return done


def refuse_errors(findings: Sequence[Finding]) -> None:
    """Raise an error if a finding prevents the write.

    Raises:
        Refused: nothing was written.
    """
    refusing = errors(findings)
    if refusing:
        worst, *others = refusing
        hints = [worst.remedy()] if worst.remedy() else []
        raise Refused(
            f"{worst}; nothing was written",
            hints=[*hints, *map(str, others), f"see {worst.check.link}"],
        )


def _write_when_free(
    api: Api, decision: Decision, writing: WriteOptions, report: Report
) -> list[WriteResult]:
    """Write; if an object with the same name is being deleted, wait until it is gone.

    Raises:
        BeingDeleted: it still exists at the end of the wait.
    """
    deadline = time.monotonic() + writing.seconds
    while True:
        try:
            return _write(api, decision, writing, report)
        except BeingDeleted as error:
            if not _wait_until_deleted(api, decision, error, deadline, report):
                raise


def _wait_until_deleted(
    api: Api, decision: Decision, error: BeingDeleted, deadline: float, report: Report
) -> bool:
    """Wait until an object that is being deleted is gone; return whether it is."""
    ref, uid = ObjectRef.of(error.manifest), error.manifest["metadata"]["uid"]
    key = (resource_key(error.manifest), ref.namespace, ref.name)
    whole = {write.key for write in decision.changes.writes if write.whole}
    if key not in whole or time.monotonic() >= deadline:
        return False  # Without the gateway's own Service, there is nothing to patch.
    report.note(f"waiting: {error.message}")
    with report.waiting() as progress:
        while time.monotonic() < deadline:
            found = api.find(*key)
            if found is None or found["metadata"]["uid"] != uid:
                return True
            progress(f"{ref} is being deleted")
            time.sleep(api.waits.poll)
    return False


def _write(
    api: Api, decision: Decision, writing: WriteOptions, report: Report
) -> list[WriteResult]:
    dry_run = writing.dry_run == "server"
    done: list[WriteResult] = []
    with (
        nullcontext() if dry_run else decision.guard(),
        Transaction(api, force=writing.force, dry_run=dry_run) as transaction,
    ):
        transaction.read_existing(decision.changes.writes)
        for write in decision.changes.writes:
            applied = transaction.apply(write)
            changed = applied.verb != "unchanged"
            for text in applied.warnings if changed else ():
                # Istio shows this for every EnvoyFilter; the plugin keeps them valid.
                if not text.startswith("EnvoyFilter exposes internal implementation details"):
                    report.warn(text)
            if edit := edit_text(write, applied.manifest):
                report.warn(edit)
            done.append(WriteResult(write, changed, applied.manifest))
        if decision.wait and writing.waits:
            _wait(transaction, decision.spec, partial(decision.wait, writing.seconds), report)
            decision.confirm()
    return done


def _wait(
    transaction: Transaction, spec: Spec, wait: Callable[[Progress], object], report: Report
) -> None:
    """Wait for the proxies; a rejection rolls everything back, a timeout does not.

    Raises:
        Rejected, WaitTimeout, Interrupted: how the wait ended.
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


def _remove(api: Api, changes: ChangeSet, writing: WriteOptions, report: Report) -> None:
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
