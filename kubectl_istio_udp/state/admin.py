"""Query the admin interface of a gateway pod's Envoy.

Queries use port-forward, as istioctl does: it starts no process in the pod, and a node handles many
at once. If port-forward is not possible, they run `pilot-agent request GET` by exec, which also
works in distroless images without a shell.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.annotation_values import shown
from kubectl_istio_udp.model.errors import (
    ClusterError,
    Forbidden,
    ForwardFailed,
    NoAnswer,
    UpgradeUnavailable,
)
from kubectl_istio_udp.model.gateway import PROXY_CONTAINER

# The sidecar injector and gateways set this port; pilot-agent and istioctl use it.
_PORT = 15000
# Errors from parsing an unexpected response. A tenant can create a pod that poses as a gateway of
# its namespace; its responses must not break an administrator's command about all gateways.
_NOT_ENVOYS = (AttributeError, LookupError, TypeError, ValueError, RecursionError)

Read = TypeVar("Read")


class Admin(AbstractContextManager["Admin"]):
    """The admin interface of one pod's Envoy; all queries share one connection."""

    def __init__(self, api: Api, namespace: str, pod: str, seconds: float | None = None) -> None:
        """Take the pod; no request is sent yet.

        Args:
            api: the cluster.
            namespace, pod: the pod.
            seconds: the timeout of each query; None for `envoy_answer` of the cluster's waits.
        """
        self._api, self._namespace, self._pod = api, namespace, pod
        self._seconds = seconds or api.waits.envoy_answer
        self._http = api.http(namespace, pod, _PORT, self._seconds)
        self._no_forward: ClusterError | None = None

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._http.close()

    def read(self, path: str, parse: Callable[[Any], Read]) -> Read:
        """Query the admin interface and parse the response.

        Args:
            path: the path without its first slash, e.g. `clusters?format=json`.
            parse: parses Envoy's JSON; errors on unexpected data are handled here.

        Raises:
            Forbidden: no permission for port-forward or exec.
            NotFound, Unreachable: the pod does not exist, or the API server cannot be reached.
            ClusterError: there was no response, or not one of Envoy.
        """
        text = self._forwarded(path) if self._no_forward is None else None
        if text is None:
            text = self._executed(path)
        try:
            return parse(json.loads(text))
        except _NOT_ENVOYS as error:
            output = f"the response was {shown(text)}" if text.strip() else ""
            raise self._unanswered(path, output) from error

    def _forwarded(self, path: str) -> str | None:
        """The response by port-forward; None if that is not possible."""
        try:
            return self._http.get(f"/{path}").decode(errors="replace")
        except (Forbidden, ForwardFailed, UpgradeUnavailable) as error:
            # Exec may work if port-forward does not: sandboxed pods (gVisor, Kata).
            self._no_forward = error
            return None
        except NoAnswer as error:
            raise self._unanswered(path, error.message) from error

    def _executed(self, path: str) -> str:
        """The response by exec."""
        command = ["pilot-agent", "request", "GET", path]
        try:
            result = self._api.exec(
                self._namespace, self._pod, PROXY_CONTAINER, command, self._seconds
            )
        except (Forbidden, UpgradeUnavailable) as error:
            raise self._neither(path, error) from error
        if result.exit_code == 0 and result.stdout.strip():
            return result.stdout
        output = (result.error or result.stderr or result.stdout).strip()
        raise self._unanswered(path, output.rpartition("\n")[2])

    def _neither(self, path: str, no_exec: ClusterError) -> ClusterError:
        """The error if neither port-forward nor exec is possible."""
        no_forward = self._no_forward
        if isinstance(no_forward, ForwardFailed):
            return self._unanswered(path, no_forward.message)
        if not isinstance(no_forward, Forbidden) or not isinstance(no_exec, Forbidden):
            return no_exec
        return Forbidden(
            f"no permission to query the Envoy of gateway pod {self._namespace}/{self._pod}: this "
            f"needs port-forward or exec ({no_forward.message}; {no_exec.message})",
            hints=[
                *no_forward.hints,
                *no_exec.hints,
                "these commands need neither: get, describe, delete, expose --no-wait, "
                "direct response --no-wait",
            ],
        )

    def _unanswered(self, path: str, output: str) -> ClusterError:
        namespace, pod = self._namespace, self._pod
        line = output.strip().partition("\n")[0] or "empty response"
        return ClusterError(
            f"could not query {path} from the Envoy of gateway pod {namespace}/{pod}: {line}",
            hints=[f"see its log: kubectl logs -n {namespace} {pod} -c {PROXY_CONTAINER}"],
        )
