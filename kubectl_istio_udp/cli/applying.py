"""What every command that writes shares: its options, its findings told, its writes made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.names import MANAGER

if TYPE_CHECKING:
    from kubectl_istio_udp.apply.transaction import Transaction
    from kubectl_istio_udp.checks.findings import Finding
    from kubectl_istio_udp.kube.client import Api
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
    click.option("--force-conflicts", is_flag=True, help="Take over fields that others changed."),
    click.option(
        "--field-manager", default=MANAGER, show_default=True, help="Owner of the fields written."
    ),
)


_NO_FLAGS: Mapping[str, str] = MappingProxyType({})


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


def write_all(
    api: Api,
    todo: Sequence[Write],
    before: Sequence[Mapping[str, Any]],
    applying: Applying,
    wait: Callable[[Transaction], None] | None = None,
    flags: Mapping[str, str] = _NO_FLAGS,
) -> None:
    """Ask Envoy, write all or none, wait, prune what is no longer wanted, say what was done.

    Args:
        api: the cluster.
        todo: the writes, in order.
        before: the thing's objects as they were.
        applying: how.
        wait: waits for the proxies; what it raises takes everything back, unless it told the
            transaction to keep.
        flags: the flag that decides a field of Envoy's, for the message where Envoy refuses it.

    Raises:
        Refused, Rejected and whatever the cluster says; nothing of it is there then.
    """
    from kubectl_istio_udp.apply.deletion import prune
    from kubectl_istio_udp.apply.transaction import Transaction
    from kubectl_istio_udp.cli.validating import ensure_accepted
    from kubectl_istio_udp.output import printing

    ensure_accepted([write.manifest for write in todo], applying.validate, flags)
    if applying.dry_run == "client":
        _show([(write, "serverside-applied") for write in todo], applying, [])
        return
    done: list[tuple[Write, str]] = []
    manifests: list[Mapping[str, Any]] = []
    dry_run = applying.dry_run == "server"
    with Transaction(api, force=applying.force, dry_run=dry_run) as transaction:
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
    tell_gone(prune(api, before, todo, dry_run=dry_run), applying)


def tell_gone(gone: Sequence[tuple[str, str]], applying: Applying) -> None:
    """Kubectl's line for each object that was deleted, (kind, name)."""
    from kubectl_istio_udp.output import printing

    for kind, name in gone:
        line = printing.deleted_line(kind, name, applying.dry_run)
        click.echo(line, err=applying.output is not None)


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
            "interrupted while waiting for the gateway; what was applied stays",
            hints=[f"see how it is: {look}"],
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

    if applying.output in ("yaml", "json"):
        shown = manifests or [write.manifest for write, _ in done]
        click.echo(printing.documents(shown, applying.output), nl=False)
        return
    for write, outcome in done:
        if applying.output == "name":
            click.echo(printing.resource(write.kind, write.name))
        else:
            click.echo(printing.object_line(write.kind, write.name, outcome, applying.dry_run))
