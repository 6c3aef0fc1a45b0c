"""How a user chooses a gateway."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kubectl_istio_udp.model.names import check_namespaced_name

# The options of commands are described with this, and do not need the rest.
if TYPE_CHECKING:
    from kubectl_istio_udp.model.gateway import GatewayRef


@dataclass(frozen=True)
class GatewayChoice:
    """How a gateway is chosen on the command line.

    Attributes:
        name: `--gateway`: `NAME` or `NAMESPACE/NAME`; None for the only gateway.
        selector: `--gateway-selector`: pod labels; empty to find gateways by Istio's labels.
        known: the exposure's current gateway, used if the command line names none.
        root_namespace: `--root-namespace`, for a mesh whose configuration cannot be read.
    """

    name: str | None = None
    selector: tuple[tuple[str, str], ...] = ()
    known: GatewayRef | None = None
    root_namespace: str | None = None

    def __post_init__(self) -> None:
        """Reject an invalid name.

        Raises:
            UsageError: `--gateway` is neither NAME nor NAMESPACE/NAME.
        """
        if self.name is not None:
            check_namespaced_name(self.name, "--gateway")

    @property
    def namespace(self) -> str | None:
        """The namespace in the choice; None to search all namespaces."""
        if self.known:
            return self.known.namespace
        return (self.name or "").rpartition("/")[0] or None

    @property
    def is_named(self) -> bool:
        """Whether the command line names a gateway, by its name or by labels."""
        return bool(self.name or self.selector)

    def or_known(self, gateway: GatewayRef) -> GatewayChoice:
        """The same choice, with the exposure's current gateway as default."""
        return self if self.is_named else replace(self, known=gateway)

    def or_named(self, name: str | None) -> GatewayChoice:
        """The same choice, with a gateway's name as default."""
        return self if self.is_named else replace(self, name=name)
