"""What a namespace may expose: the permissions in its annotations, and limits on totals."""

from __future__ import annotations

from collections.abc import Mapping, Set
from functools import lru_cache

from kubectl_istio_udp.controller.outcome import REFUSED, WAITING, Outcome, Refusal
from kubectl_istio_udp.controller.pending import PendingExposures
from kubectl_istio_udp.controller.waits import RETRY_SECONDS
from kubectl_istio_udp.kube.watch import Key
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.ports import bound_as
from kubectl_istio_udp.model.reasons import FORBIDDEN, NOT_TAKEN
from kubectl_istio_udp.model.usage import Holder
from kubectl_istio_udp.plan.sessions import new_share
from kubectl_istio_udp.sources.annotations import Intent
from kubectl_istio_udp.sources.gateways import is_child_of
from kubectl_istio_udp.sources.permission import ALLOWED_ALL, Permission, Use
from kubectl_istio_udp.state.caches import Caches
from kubectl_istio_udp.state.kept import KeptNamespace


class Permissions:
    """The permissions of namespaces, and whether intents comply with them."""

    def __init__(
        self,
        caches: Caches,
        pending: PendingExposures,
        *,
        allow_all: bool,
        defaults: Mapping[str, str],
    ) -> None:
        """Take the caches, and what is written at the moment.

        Args:
            caches, pending: what exists.
            allow_all: whether every namespace may expose every port.
            defaults: defaults for settings that Namespaces do not set, by setting name.
        """
        self._caches, self._pending = caches, pending
        self.allow_all, self._defaults = allow_all, tuple(defaults.items())

    def of(self, namespace: KeptNamespace) -> Permission:
        """The permission of a namespace.

        Raises:
            UsageError: its annotations are not valid.
        """
        if self.allow_all:
            return ALLOWED_ALL
        return _permission(tuple(namespace.annotations.items()), self._defaults)

    def of_intent(
        self, key: Key, requested: Intent | UsageError | None, namespace: KeptNamespace
    ) -> Permission:
        """The permission for an intent of a namespace.

        Args:
            key: the exposure.
            requested: its intent, or the error from reading it; None if there is none.
            namespace: its namespace.

        Raises:
            UsageError: the annotations of the namespace are not valid.
        """
        if not isinstance(requested, Intent):
            return self.of_held(key, namespace)
        permission = self.of(namespace)
        # A gateway for this exposure alone needs no permission.
        return ALLOWED_ALL if requested.own_gateway else permission

    def of_held(self, key: Key, namespace: KeptNamespace) -> Permission:
        """The permission for an exposure as it is, at the gateway where it is.

        Args:
            key: the exposure.
            namespace: its namespace.

        Raises:
            UsageError: the annotations of the namespace are not valid.
        """
        permission, asking = self.of(namespace), self._caches.gateway_of(key)
        # Only a Gateway has a gateway of its own; the exposures of others need not be read.
        held = self._caches.existing(key).held if asking else None
        alone = asking and held and is_child_of(held.gateway, asking.key)
        return ALLOWED_ALL if alone else permission

    def granted(self, key: Key, listener_ports: Set[int]) -> Permission | None:
        """The permission for an intent; None if it is not permitted, or none of some ports is.

        There may be thousands of older intents, so the cheapest checks come first.
        """
        kept = self._caches.namespaces.get("", key[0])
        if kept is None or kept.leaving:
            return None
        try:
            permission = self.of(kept)
            self.check_rank(permission, key)
            intent, existing = self._caches.intent(key), self._caches.existing(key)
            if not isinstance(intent, Intent) or (existing.exists and existing.source is None):
                return None
            check_use(permission, Use.of_request(intent.request, intent.udp_ports))
        except (UsageError, Refusal):
            return None
        wanted = (p for p in intent.gateway_ports if bound_as(p) & listener_ports)
        return None if all(map(permission.forbids, wanted)) else permission

    def check_rank(self, permission: Permission, key: Key) -> None:
        """Raise Refusal if too many older Services of the namespace have requests.

        This does not depend on gateways, and there may be thousands. The caches queue the next one
        when a Service of the namespace withdraws its request.
        """
        most = permission.total_ports
        if not permission.everything and not self._caches.is_within(key, most):
            raise Refusal(
                Outcome(
                    REFUSED,
                    NOT_TAKEN,
                    f"{most} older Services of the namespace already request to be exposed; more "
                    "are not allowed (annotation kubectl-istio-udp/allow-total-ports on the "
                    "Namespace)",
                )
            )

    def check_totals(self, permission: Permission, spec: ExposureSpec, *, shrinks: bool) -> None:
        """Raise Refusal if the namespace's exposures would exceed its limits.

        Args:
            permission: the limits.
            spec: the planned exposure.
            shrinks: whether a new plan takes no more sessions than are left.
        """
        if permission.everything:
            return
        held = self._caches.existing(spec.key).at(spec.gateway).held
        now, before = Holder.of(spec), Holder.of(held) if held else Holder(spec.key, 0, 0)
        others = self._pending.totals(spec.key)
        if shrinks and _is_outdated(now, before, permission.total_sessions - others.sessions):
            raise Refusal(Outcome(WAITING, again=RETRY_SECONDS))
        rows = (
            ("ports", now.ports, before.ports, others.ports, permission.total_ports),
            ("sessions", now.sessions, before.sessions, others.sessions, permission.total_sessions),
        )
        for what, wanted, had, elsewhere, limit in rows:
            total = elsewhere + wanted
            if wanted > had and total > limit:
                raise Refusal(
                    Outcome(
                        WAITING,
                        NOT_TAKEN,
                        f"the namespace's exposures would have {total} {what} in total; "
                        f"{limit} are allowed (annotation "
                        f"kubectl-istio-udp/allow-total-{what} on the Namespace)",
                    )
                )


def _is_outdated(now: Holder, before: Holder, left: int) -> bool:
    """Whether others have taken sessions of the namespace since an exposure was planned.

    Args:
        now: the planned exposure, with a number of sessions that was chosen by what was left.
        before: the current exposure; with 0 sessions if there is none.
        left: the sessions that the namespace has left for it.
    """
    # A new plan cannot take less than one for each port.
    if now.sessions <= max(before.sessions, now.ports):
        return False
    return now.sessions > (left if before.sessions else new_share(left))


def check_use(permission: Permission, use: Use) -> None:
    """Raise Refusal if a permission does not include a use."""
    if objection := permission.objection(use):
        raise Refusal(Outcome(REFUSED, FORBIDDEN, objection))


@lru_cache(maxsize=1024)
def _permission(
    annotations: tuple[tuple[str, str], ...], defaults: tuple[tuple[str, str], ...]
) -> Permission:
    """Read a Namespace's annotations; cached for thousands of Services."""
    return Permission.parse(dict(annotations), dict(defaults))
