"""What an HTTP error of the API server means to the user, and what to type next."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
from kubectl_istio_udp.model.resources import Resource


@dataclass(frozen=True)
class Action:
    """What was asked of the API server.

    Attributes:
        verb: as RBAC names it: get, list, patch, delete, create.
        of: the kind of object.
        namespace: None for all namespaces.
        name: "" for a list.
        subresource: e.g. `exec`, "" for the object itself.
        user: whom the request impersonates, None for nobody.
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
        """As kubectl takes it: `envoyfilters.networking.istio.io`."""
        return self.of.qualified

    @property
    def scope(self) -> str:
        """Kubectl's flag for where."""
        return f"-n {self.namespace}" if self.namespace else "--all-namespaces"

    @property
    def where(self) -> str:
        """The same in words."""
        return f"in namespace {self.namespace}" if self.namespace else "in all namespaces"

    @property
    def target(self) -> str:
        """The object: `service istio-system/coredns`."""
        path = "/".join(filter(None, [self.namespace, self.name]))
        return f"{self.kind.lower()} {path}".strip()


_CANNOT = re.compile(r"cannot (\w+) resource")


def refusal(status: int, body: bytes, action: Action, headers: Mapping[str, str]) -> ClusterError:
    """The error for an HTTP status of 400 and above.

    Args:
        status: the HTTP status.
        body: what came with it: a metav1.Status as JSON, or anything.
        action: what was asked.
        headers: those of the answer; Retry-After counts.
    """
    answer = _status(body)
    message = answer.get("message") or body.decode(errors="replace").strip()[:300] or f"{status}"
    if status == 401:
        return Forbidden(
            "the API server does not know these credentials",
            hints=["log in again, or choose another context with --context"],
        )
    if status == 403:
        return _forbidden(message, action)
    if status == 404:
        # The server names the object that it misses; a path that it does not know it cannot name.
        known = (answer.get("details") or {}).get("name")
        return _not_found(action) if known else _not_installed(action)
    if status == 409 and action.verb == "patch" and "conflict" in message.lower():
        return ApplyConflict(
            f"{action.target} was changed by someone else: {message}",
            hints=[
                f"see it: kubectl get {action.resource} {action.scope} {action.name} -o yaml "
                "--show-managed-fields",
                "take the fields over: --force-conflicts",
            ],
        )
    text = f"the API server refused to {action.verb} {action.target}: {message}"
    if status in (429, 503):
        return _busy(status, text, headers)
    return {409: Conflict, 410: Expired}.get(status, ClusterError)(text)


def _busy(status: int, message: str, headers: Mapping[str, str]) -> Busy:
    error = Busy(message)
    # The API server answers 429 before it does anything; 503 may be a front's, after it did.
    error.untouched = status == 429
    seconds = {name.lower(): value for name, value in headers.items()}.get("retry-after", "")
    error.retry_after = float(seconds) if seconds.isdigit() else None
    return error


def _forbidden(message: str, action: Action) -> Forbidden:
    # The verb that the server missed may be another: `create` for an apply, `get` for an exec.
    refused = _CANNOT.search(message)
    verb = refused[1] if refused else action.verb
    parts = [action.of.plural, action.subresource]
    group = action.of.group
    resource = "/".join(filter(None, parts)) + (f".{group}" if group else "")
    check = f"kubectl auth can-i {verb} {action.resource} {action.scope}"
    if action.subresource:
        check += f" --subresource={action.subresource}"
    if action.user:
        check += f" --as {action.user}"
    return Forbidden(
        f"no permission to {verb} {resource} {action.where}: {message}",
        hints=[f"check it: {check}"],
    )


def _not_found(action: Action) -> NotFound:
    return NotFound(
        f"there is no {action.kind.lower()} {action.name} {action.where}",
        hints=[f"see what there is: kubectl get {action.resource} {action.scope}"],
    )


def _not_installed(action: Action) -> NotInstalled:
    istio = action.of.group.endswith("istio.io")
    why = ": Istio's CRDs are not installed there" if istio else ""
    return NotInstalled(
        f"the cluster does not know {action.resource}{why}",
        hints=["is this the right cluster? kubectl config current-context"],
    )


def _status(body: bytes) -> Mapping[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
