"""`delete`: check the names, delete and print."""

from __future__ import annotations

from kubectl_istio_udp.apply.deleting import delete
from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.applying import Applying
from kubectl_istio_udp.cli.run.cluster import connect, namespace_of
from kubectl_istio_udp.cli.run.printed import Printed
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.names import MANAGER


def run(
    *,
    names: tuple[str, ...],
    all_names: bool,
    ignore_not_found: bool,
    wait: bool,
    timeout: Duration,
    gateway_namespaces: tuple[str, ...],
    dry_run: str,
    common: options.Common,
) -> None:
    """Run `delete`, with the values of its options."""
    if bool(names) == all_names:
        raise UsageError(
            "name what to delete, or use --all",
            hints=[common.list_hint],
        )
    api = connect(common)
    applying = Applying(
        seconds=timeout.seconds if wait else 0,
        dry_run=dry_run,
        output=None,
        force=False,
        manager=MANAGER,
        validate="none",
    )
    namespace = namespace_of(common, api)
    delete(
        api,
        namespace,
        names,
        applying,
        Printed(applying),
        missing_ok=ignore_not_found,
        gateways=gateway_namespaces,
    )
