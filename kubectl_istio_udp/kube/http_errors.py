"""Errors for HTTP error responses of the API server: what is wrong, and what to type next."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.kube.json_reader import decoded
from kubectl_istio_udp.model.errors import (
    ApplyConflict,
    Busy,
    ClusterError,
    Conflict,
    Expired,
    Forbidden,
    NotFound,
    NotInstalled,
)
from kubectl_istio_udp.model.resources import GATEWAY_API, Resource


@dataclass(frozen=True)
class Action:
    """A request to the API server, for its error.

    Attributes:
        verb: as RBAC names it: get, list, patch, delete, create.
        of: the kind of object.
        namespace: None for all namespaces.
        name: "" for a list.
        subresource: e.g. `exec`, "" for the object itself.
        user: the impersonated user, None for none.
    """

    verb: str
    of: Resource
    namespace: str | None = None
    name: str = ""
    subresource: str = ""
    user: str | None = None

    @property
    def kind(self) -> str:
        """The kind of object, e.g. `Pod`."""
        return self.of.kind

    @property
    def resource(self) -> str:
        """The resource's full name: `envoyfilters.networking.istio.io`."""
        return self.of.qualified

    @property
    def scope(self) -> str:
        """Kubectl's flag for the namespace, after a space; "" for a cluster-scoped kind."""
        if not self.of.namespaced:
            return ""
        return f" -n {self.namespace}" if self.namespace else " --all-namespaces"

    @property
    def where(self) -> str:
        """The namespace in words, after a space; "" for a cluster-scoped kind."""
        if not self.of.namespaced:
            return ""
        return f" in namespace {self.namespace}" if self.namespace else " in all namespaces"

    @property
    def target(self) -> str:
        """The object: `service istio-system/coredns`."""
        path = "/".join(filter(None, [self.namespace, self.name]))
        return f"{self.kind.lower()} {path}".strip()


_SECONDS = re.compile(r"\+?\d+", re.ASCII)
_CANNOT = re.compile(r"cannot (\w+) resource")
# Admission answers 403 too: Pod Security, quotas, policies, webhooks, a namespace that is deleted.
_NOT_ADMITTED = re.compile(r" is forbidden: |denied (the )?request")


def refusal(status: int, body: bytes, action: Action, headers: Mapping[str, str]) -> ClusterError:
    """The error for an HTTP status of 300 and above; redirects are errors too.

    Args:
        status: the HTTP status.
        body: the response's body: a metav1.Status as JSON, or anything that a proxy sends.
        action: the request.
        headers: the response's headers. As in client-go, every 5xx and 429 with Retry-After asks
            for a retry (Busy).
    """
    answer = _status(body)
    message = answer.get("message")
    if not isinstance(message, str) or not message:
        message = body.decode(errors="replace").strip()[:300] or f"{status}"
    if status == 401:
        return Forbidden(
            "the API server rejected the credentials (401 Unauthorized)",
            hints=["log in again, or choose another context with --context"],
        )
    if status == 403:
        return _forbidden(message, action)
    if status == 404:
        # For a missing object the Status names the object; for an unknown path it does not.
        details = answer.get("details")
        details = details if isinstance(details, dict) else {}
        if details.get("kind") == "namespaces" and action.namespace:
            # The namespace that an object was to be written to.
            return NotFound(
                f"namespace {action.namespace} not found",
                hints=["list namespaces: kubectl get namespaces"],
            )
        return _not_found(action) if details.get("name") else _not_installed(action)
    if status == 409 and action.verb == "patch" and "conflict" in message.lower():
        return ApplyConflict(
            f"{action.target} was changed by someone else: {message}",
            hints=[
                f"see it: kubectl get {action.resource}{action.scope} {action.name} -o yaml "
                "--show-managed-fields",
                "take the fields over: --force-conflicts",
            ],
        )
    text = f"the API server rejected the request to {action.verb} {action.target}: {message}"
    busy = _busy(status, text, headers)
    if status in (429, 503) or (status >= 500 and busy.retry_after is not None):
        return busy
    return {409: Conflict, 410: Expired}.get(status, ClusterError)(text)


def _busy(status: int, message: str, headers: Mapping[str, str]) -> Busy:
    error = Busy(message)
    # With 429 the API server has done nothing. Others may come from a proxy after it has.
    error.untouched = status == 429
    seconds = {name.lower(): value for name, value in headers.items()}.get("retry-after", "")
    error.retry_after = float(seconds) if _SECONDS.fullmatch(seconds.strip()) else None
    return error


def _forbidden(message: str, action: Action) -> Forbidden:
    # The missing right may have another verb: `create` for an apply, `get` for an exec.
    refused = _CANNOT.search(message)
    if not refused and _NOT_ADMITTED.search(message):
        return Forbidden(f"the cluster does not admit {action.target}: {message}")
    verb = refused[1] if refused else action.verb
    parts = [action.of.plural, action.subresource]
    group = action.of.group
    resource = "/".join(filter(None, parts)) + (f".{group}" if group else "")
    check = f"kubectl auth can-i {verb} {action.resource}{action.scope}"
    if action.subresource:
        check += f" --subresource={action.subresource}"
    if action.user:
        check += f" --as {action.user}"
    return Forbidden(
        f"no permission to {verb} {resource}{action.where}: {message}",
        hints=[f"check it: {check}"],
    )


def _not_found(action: Action) -> NotFound:
    return NotFound(
        f"{action.kind.lower()} {action.name} not found{action.where}",
        hints=[f"list them: kubectl get {action.resource}{action.scope}"],
    )


def _not_installed(action: Action) -> NotInstalled:
    group = action.of.group
    whose = "Istio's" if group.endswith("istio.io") else ""
    whose = "the Gateway API's" if group == GATEWAY_API else whose
    why = f": {whose} CRDs are not installed" if whose else ""
    return NotInstalled(
        f"the API server does not serve {action.resource}{why}",
        hints=["check that this is the right cluster: kubectl config current-context"],
    )


def _status(body: bytes) -> Mapping[str, Any]:
    try:
        answer = decoded(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
