"""Questions to the admin interface of a gateway pod's Envoy.

They go by port-forward, as istioctl's: it starts no process in the pod, and a node answers many at
once. Where that is not possible, `pilot-agent request GET` asks by exec; it works in distroless
images, where there is no shell.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import (
    ClusterError,
    Forbidden,
    ForwardFailed,
    NoAnswer,
    UpgradeUnavailable,
)
from kubectl_istio_udp.model.gateway import PROXY_CONTAINER
from kubectl_istio_udp.model.values import shown

# Where the sidecar injector and gateways put it, and where pilot-agent and istioctl ask.
_PORT = 15000
# What reading an answer of another shape ends in. A tenant can make a pod that says it is a gateway
# of its namespace, and such an answer must not end what an administrator asks of all.
_NOT_ENVOYS = (AttributeError, LookupError, TypeError, ValueError, RecursionError)

Read = TypeVar("Read")


class Admin(AbstractContextManager["Admin"]):
    """The admin interface of one pod's Envoy; several questions go over one connection."""

    def __init__(self, api: Api, namespace: str, pod: str) -> None:
        """Take the pod; nothing is sent yet."""
        self._api, self._namespace, self._pod = api, namespace, pod
        self._http = api.http(namespace, pod, _PORT, api.waits.envoy_answer)
        self._no_forward: ClusterError | None = None

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._http.close()

    def read(self, path: str, parse: Callable[[Any], Read]) -> Read:
        """What the answer to a question says.

        Args:
            path: the path without its first slash, e.g. `clusters?format=json`.
            parse: reads what Envoy answers, from JSON; it need not expect anything else.

        Raises:
            Forbidden: no permission for port-forward, and none for exec.
            NotFound, Unreachable: there is no such pod, or no way to the API server.
            ClusterError: it did not answer, or not as Envoy does.
        """
        text = self._forwarded(path) if self._no_forward is None else None
        if text is None:
            text = self._executed(path)
        try:
            return parse(json.loads(text))
        except _NOT_ENVOYS as error:
            said = f"it answered {shown(text)}" if text.strip() else ""
            raise self._unanswered(path, said) from error

    def _forwarded(self, path: str) -> str | None:
        """The answer by port-forward; None where that is not possible."""
        try:
            return self._http.get(f"/{path}").decode(errors="replace")
        except (Forbidden, ForwardFailed, UpgradeUnavailable) as error:
            # A node that cannot connect may still run commands: sandboxed pods (gVisor, Kata).
            self._no_forward = error
            return None
        except NoAnswer as error:
            raise self._unanswered(path, error.message) from error

    def _executed(self, path: str) -> str:
        """The answer by exec."""
        command = ["pilot-agent", "request", "GET", path]
        try:
            seconds = self._api.waits.envoy_answer
            result = self._api.exec(self._namespace, self._pod, PROXY_CONTAINER, command, seconds)
        except (Forbidden, UpgradeUnavailable) as error:
            raise self._neither(path, error) from error
        if result.exit_code == 0 and result.stdout.strip():
            return result.stdout
        said = (result.error or result.stderr or result.stdout).strip()
        raise self._unanswered(path, said.rpartition("\n")[2])

    def _neither(self, path: str, no_exec: ClusterError) -> ClusterError:
        """The error where neither port-forward nor exec is possible."""
        no_forward = self._no_forward
        if isinstance(no_forward, ForwardFailed):
            return self._unanswered(path, no_forward.message)
        if not isinstance(no_forward, Forbidden) or not isinstance(no_exec, Forbidden):
            return no_exec
        return Forbidden(
            f"no permission to ask the Envoy of gateway pod {self._namespace}/{self._pod}: it "
            f"takes port-forward or exec ({no_forward.message}; {no_exec.message})",
            hints=[
                *no_forward.hints,
                *no_exec.hints,
                "without both work: get, describe, delete, expose --no-wait, "
                "direct response --no-wait",
            ],
        )

    def _unanswered(self, path: str, said: str) -> ClusterError:
        namespace, pod = self._namespace, self._pod
        line = said.strip().partition("\n")[0] or "it answered nothing"
        return ClusterError(
            f"the Envoy of gateway pod {namespace}/{pod} could not be asked for {path}: {line}",
            hints=[f"look at it: kubectl logs -n {namespace} {pod} -c {PROXY_CONTAINER}"],
        )
