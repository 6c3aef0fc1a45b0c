"""The one error hierarchy: what was wrong, where, and what to type next."""

from __future__ import annotations

from collections.abc import Sequence


class IstioUdpError(Exception):
    """Anything the user is told about instead of a traceback.

    Attributes:
        exit_code: what the process exits with: 2 wrong usage, 3 the cluster refused or cannot
            be reached, 130 interrupted. (0 is done, 1 is "the answer is no"; neither is an
            exception.)
        hints: lines that say what to type next, in the order to try them.
    """

    exit_code = 3

    def __init__(self, message: str, *, hints: Sequence[str] = ()) -> None:
        """Take the message (what was wrong, and where) and the hints."""
        super().__init__(message)
        self.message = message
        self.hints = tuple(hints)

    def format(self) -> str:
        """The text for stderr: `error: ...` and one indented line for each hint."""
        return "\n".join([f"error: {self.message}", *(f"  {hint}" for hint in self.hints)])


class Interrupted(IstioUdpError):
    """SIGINT or SIGTERM ended the command; the hints say what became of it."""

    exit_code = 130


class UsageError(IstioUdpError):
    """The command line must change: a value is malformed or does not fit the Service."""

    exit_code = 2


class ClusterError(IstioUdpError):
    """The cluster refused the request, or its state does not allow it."""


class Unreachable(ClusterError):
    """The API server (or the kubeconfig that leads to it) cannot be used, or timed out."""


class Broken(Unreachable):
    """The connection to the API server ended before its answer did."""


class UpgradeUnavailable(ClusterError):
    """Something on the way to a pod does not let websockets through."""


class ForwardFailed(ClusterError):
    """The node could not connect to a port of a pod, or ended the connection with an error."""


class NoAnswer(ClusterError):
    """A pod answered a request with an error, only in part, or not in time."""


class NotFound(ClusterError):
    """An object that was named does not exist."""


class Unreadable(ClusterError):
    """An object cannot be read: somebody edited it, or it was never one of ours."""


class NotInstalled(ClusterError):
    """The API server does not know such a kind of object: a CRD is not installed."""


class Forbidden(ClusterError):
    """The API server answered 403; carries the `kubectl auth can-i` line to check."""


class ApplyConflict(ClusterError):
    """A server-side apply met fields that another field manager owns."""


class Conflict(ClusterError):
    """The object is there already, or is not any more what the request says it was."""


class Expired(ClusterError):
    """The API server no longer keeps the version that a watch or a list was to go on from."""


class Busy(ClusterError):
    """The API server asks to come later (429, 503).

    Attributes:
        retry_after: seconds it asks to wait; None where it names none.
        untouched: whether the request has certainly not been acted on.
    """

    retry_after: float | None = None
    untouched = True


class Refused(ClusterError):
    """A check found that writing would harm the gateway; nothing was written."""


class Rejected(ClusterError):
    """A gateway's Envoy refused the configuration; what this run wrote was taken back."""


class WaitTimeout(ClusterError):
    """What was applied was not seen in every gateway's Envoy in time; it stays applied."""
