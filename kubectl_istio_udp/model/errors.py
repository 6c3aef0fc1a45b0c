"""The error hierarchy. Each error says what is wrong, where, and what to type next."""

from __future__ import annotations

from collections.abc import Sequence


class IstioUdpError(Exception):
    """Base class of all errors shown to the user as text, without a traceback.

    Attributes:
        exit_code: the exit code of the process: 2 invalid command line, 3 the cluster rejected
            the request or could not be reached, 130 interrupted. (0 success and 1 a check or probe
            failed are not exceptions.)
        hints: lines that say what to type next, the best first.
    """

    exit_code = 3

    def __init__(self, message: str, *, hints: Sequence[str] = ()) -> None:
        """Take the message (what is wrong, and where) and the hints."""
        super().__init__(message)
        self.message = message
        self.hints = tuple(hints)

    def format(self) -> str:
        """The text for stderr: `error: ...` and one indented line for each hint."""
        return "\n".join([f"error: {self.message}", *(f"  {hint}" for hint in self.hints)])


class Interrupted(IstioUdpError):
    """SIGINT or SIGTERM ended the command; the hints say what it left in the cluster."""

    exit_code = 130


class UsageError(IstioUdpError):
    """Invalid command line: a value is malformed or does not fit the Service."""

    exit_code = 2


class ClusterError(IstioUdpError):
    """The cluster rejected the request, or its state does not allow it."""


class Unreachable(ClusterError):
    """The API server could not be reached (or the kubeconfig cannot be used), or timed out."""


class Broken(Unreachable):
    """The connection to the API server broke before the response was complete."""


class UpgradeUnavailable(ClusterError):
    """A proxy or load balancer between here and the pod does not support websockets."""


class ForwardFailed(ClusterError):
    """The node could not connect to the pod's port, or closed the connection with an error."""


class NoAnswer(ClusterError):
    """A pod's response was an error or incomplete, or it timed out."""


class NotFound(ClusterError):
    """A named object does not exist."""


class Unreadable(ClusterError):
    """An object cannot be read: it was edited by hand, or the plugin did not create it."""


class NotInstalled(ClusterError):
    """The API server does not serve this kind of object: a CRD is not installed."""


class Forbidden(ClusterError):
    """The API server responded 403; for a missing right the hints have a command to check it."""


class ApplyConflict(ClusterError):
    """A server-side apply conflicts with fields that another field manager owns."""


class Conflict(ClusterError):
    """The object already exists, or was modified concurrently."""


class Expired(ClusterError):
    """The resourceVersion of a watch or list is too old for the API server."""


class Busy(ClusterError):
    """The API server asks the client to retry later (429, 503, or 5xx with Retry-After).

    Attributes:
        retry_after: how many seconds to wait; None if the server sent no Retry-After.
        untouched: whether the server has certainly not executed the request.
    """

    retry_after: float | None = None
    untouched = True


class Refused(ClusterError):
    """A check found that writing would do damage; nothing was written."""


class Rejected(ClusterError):
    """A gateway's Envoy rejected the configuration; the objects of this run were rolled back."""


class WaitTimeout(ClusterError):
    """Not every gateway Envoy had the configuration in time; the objects stay applied."""
