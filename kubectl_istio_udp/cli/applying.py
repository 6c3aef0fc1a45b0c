"""What every command that writes shares: its options, its findings told, its writes made."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import ClusterError
from kubectl_istio_udp.model.names import MANAGER

if TYPE_CHECKING:
    from kubectl_istio_udp.apply.changes import ChangeSet
    from kubectl_istio_udp.apply.transaction import Transaction
    from kubectl_istio_udp.checks.findings import Finding
    from kubectl_istio_udp.kube.client import Api
    from kubectl_istio_udp.model.kinds import Spec
    from kubectl_istio_udp.model.write import Write


@dataclass(frozen=True)
class Applying:
    """The values of the flags that say how to write.

    Attributes:
        seconds: how long to wait for the proxies; 0 does not wait.
        dry_run: none, client or server.
        output: yaml, json, name; None for a line an object.
        force: whether to take over fields that others changed.
        manager: the field manager.
        validate: whether a real Envoy is asked first: auto, envoy or none.
    """

    seconds: float
    dry_run: str
    output: str | None
    force: bool
    manager: str
    validate: str

    @property
    def waits(self) -> bool:
        """Whether the proxies are to be asked afterwards."""
        return bool(self.seconds) and self.dry_run == "none"


def applying_options(*, waiting: bool) -> options.Decorator:
    """--validate, --dry-run, -o, and whose fields (and --wait, --timeout), as `applying`."""

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


_NO_FLAGS: Mapping[str, str] = MappingProxyType({})
_NO_GUARD: AbstractContextManager[object] = nullcontext()


def refuse_or_tell(findings: Sequence[Finding], first: str) -> None:
    """Refuse where a finding says that writing would harm; else tell the decision and the others.

    Args:
        findings: what the rules found.
        first: the line that says what was decided.

    Raises:
        Refused: nothing was written.
    """
    from kubectl_istio_udp.checks.findings import Severity, errors
    from kubectl_istio_udp.model.errors import Refused
    from kubectl_istio_udp.output.printing import note, warn

    refusing = errors(findings)
    if refusing:
        worst, *others = refusing
        raise Refused(
            f"{worst}; nothing was written",
            hints=[*_hints(worst), *(str(finding) for finding in others)],
        )
    note(first)
    for finding in findings:
        tell = warn if finding.severity is Severity.WARNING else note
        tell(str(finding))
        for hint in _hints(finding):
            note(f"  {hint}")


def _hints(finding: Finding) -> list[str]:
    return [finding.hint] if finding.hint else []


def tell_changes(before: Spec, after: Spec) -> None:
    """Show each setting that changes of what exists, before it is written."""
    from kubectl_istio_udp.model.settings import differences, settings_of
    from kubectl_istio_udp.output.printing import note

    changed = differences(settings_of(before), settings_of(after))
    if changed:
        note(f"changes of {after.kind.words} {after.name}:")
    for line in changed:
        note(f"  {line}")


def write_all(
    api: Api,
    changes: ChangeSet,
    applying: Applying,
    wait: Callable[[Transaction], None] | None = None,
    flags: Mapping[str, str] = _NO_FLAGS,
    guard: AbstractContextManager[object] = _NO_GUARD,
) -> None:
    """Ask Envoy, write all or none, wait, remove what is not wanted, say what was done.

    Args:
        api: the cluster.
        changes: what to write and to remove.
        applying: how.
        wait: waits for the proxies; what it raises takes everything back, unless it told the
            transaction to keep.
        flags: the flag that decides a field of Envoy's, for the message where Envoy refuses it.
        guard: held while it is written and waited for; what it raises comes before any write.

    Raises:
        Refused, Rejected and whatever the cluster says; nothing of it is there then. An error
            while removing leaves what was written; the same command removes the rest.
    """
    from kubectl_istio_udp.apply.transaction import Transaction
    from kubectl_istio_udp.cli.validating import ensure_accepted
    from kubectl_istio_udp.output import printing

    todo = changes.writes
    ensure_accepted([write.manifest for write in todo], applying.validate, flags)
    if applying.dry_run == "client":
        _show([(write, "serverside-applied") for write in todo], applying, [])
        _remove(api, changes, applying)
        return
    done: list[tuple[Write, str]] = []
    manifests: list[Mapping[str, Any]] = []
    dry_run = applying.dry_run == "server"
    with (
        guard if not dry_run else _NO_GUARD,
        Transaction(api, force=applying.force, dry_run=dry_run) as transaction,
    ):
        for write in todo:
            applied = transaction.apply(write)
            for text in applied.warnings if applied.verb != "unchanged" else ():
                # Istio says this of every EnvoyFilter; keeping it sound is what we are for.
                if not text.startswith("EnvoyFilter exposes internal implementation details"):
                    printing.warn(text)
            same = applied.verb == "unchanged"
            done.append((write, "unchanged" if same else "serverside-applied"))
            manifests.append(applied.manifest)
        if wait and applying.waits:
            wait(transaction)
    _show(done, applying, manifests)
    _remove(api, changes, applying)


def _remove(api: Api, changes: ChangeSet, applying: Applying) -> None:
    from kubectl_istio_udp.apply.deletion import remove
    from kubectl_istio_udp.output import printing

    try:
        warnings = remove(
            api,
            changes,
            timeout=applying.seconds,
            dry_run=applying.dry_run,
            report=lambda kind, _, name: click.echo(
                printing.deleted_line(kind, name, applying.dry_run),
                err=applying.output is not None,
            ),
        )
    except ClusterError as error:
        error.hints = (
            *error.hints,
            "the new state is applied; run the command again to remove the rest of the old one",
        )
        raise
    for text in warnings:
        printing.warn(text)


def kept_while_waiting(
    transaction: Transaction, wait: Callable[[Callable[[str], None]], object], look: str
) -> None:
    """Wait with a line of progress; a refusal takes everything back, a timeout nothing.

    Args:
        transaction: what was written.
        wait: waits, given where to show progress.
        look: the command that shows how it is.

    Raises:
        Rejected, WaitTimeout, Interrupted: as it ended.
    """
    from kubectl_istio_udp.model.errors import Interrupted, Rejected
    from kubectl_istio_udp.output.printing import Progress

    progress = Progress()
    try:
        wait(progress)
    except Rejected:
        raise
    except KeyboardInterrupt:
        transaction.keep()
        raise Interrupted(
            "interrupted while waiting for the gateway; the objects stay applied",
            hints=[f"see their state: {look}"],
        ) from None
    except BaseException:
        transaction.keep()
        raise
    finally:
        progress.clear()


def _show(
    done: Sequence[tuple[Write, str]],
    applying: Applying,
    manifests: Sequence[Mapping[str, Any]],
) -> None:
    from kubectl_istio_udp.output import printing

    if applying.output is None:
        for write, outcome in done:
            click.echo(printing.object_line(write.kind, write.name, outcome, applying.dry_run))
        return
    # What is printed is applied, kept in a repository or deleted by other tools, whole objects at
    # a time. A Service that others keep must never be among it.
    shown = manifests or [write.manifest for write, _ in done]
    ours = [manifest for (write, _), manifest in zip(done, shown, strict=True) if write.whole]
    if applying.output == "name":
        for manifest in ours:
            click.echo(printing.resource(manifest["kind"], manifest["metadata"]["name"]))
    else:
        click.echo(printing.documents(ours, applying.output), nl=False)
    for write, _ in done:
        if not write.whole:
            _tell_left_out(write, applying)


def _tell_left_out(write: Write, applying: Applying) -> None:
    """Say that a Service of others is not among the manifests, and how its port is added."""
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
    # Not by `kubectl apply --server-side`: where the Service was applied client-side, that hands
    # all of its fields to the new field manager, and those that are not named go (measured).
    note("  to add the port: run the command without --dry-run and -o")
    note(f"  or add it to the manifest of this Service: {ports}")
