"""Requests, from the command line or from annotations."""

from __future__ import annotations

from dataclasses import dataclass, field

from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.exposure import MOST_USEFUL_SESSIONS, Discovery, Options
from kubectl_istio_udp.model.ports import PortRequest
from kubectl_istio_udp.model.response import Answer, ResponseApi, default_name


@dataclass(frozen=True)
class ExposeRequest:
    """A request to expose a Service.

    Attributes:
        namespace, service: the Service.
        name: the exposure's name; None for the Service's name.
        ports: the values of `-p`; empty for all UDP ports of the Service, under the same numbers.
        discovery: None to choose automatically.
        options: the settings.
        automatic_sessions: whether to choose the number of sessions by what the gateway's
            Envoy can hold, instead of options.max_sessions.
        expect_rate: expected new clients per second and port, from which the number of
            sessions is computed; it takes precedence over both.
    """

    namespace: str
    service: str
    name: str | None = None
    ports: tuple[PortRequest, ...] = ()
    discovery: Discovery | None = None
    options: Options = field(default_factory=Options)
    automatic_sessions: bool = True
    expect_rate: float | None = None

    def __post_init__(self) -> None:
        """Reject conflicting settings.

        Raises:
            UsageError: both a number of sessions and a rate are set.
        """
        if self.expect_rate is not None and not self.automatic_sessions:
            raise UsageError(
                "max-sessions and expect-rate both decide how many sessions a port holds",
                hints=["name one of them"],
            )

    @property
    def exposure_name(self) -> str:
        """The name of the exposure."""
        return self.name or self.service

    @property
    def takes_what_is_left(self) -> bool:
        """Whether the number of sessions depends on how many the gateway has left."""
        return self.automatic_sessions and self.expect_rate is None


@dataclass(frozen=True)
class ResponseRequest:
    """A request for a response.

    Attributes:
        namespace: the response's namespace.
        answer: the answer and which requests get it.
        content: the body's bytes.
        name: the name; None to derive it from the path.
        mesh: whether sidecars answer instead of a gateway.
        gateway_port: the port on the gateway.
        api: the API to use; None to choose by version.
        create_gateway: whether to create an Istio Gateway if no server is on that port.
    """

    namespace: str
    answer: Answer
    content: bytes = b""
    name: str | None = None
    mesh: bool = False
    gateway_port: int = 80
    api: ResponseApi | None = None
    create_gateway: bool = False

    @property
    def response_name(self) -> str:
        """The name of the response."""
        return self.name or default_name(self.answer.path)


def rate(text: str) -> float:
    """Read the expected number of new clients per second: `200`, `0.5`.

    Raises:
        UsageError: it is not above 0, or no gateway could hold the sessions.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= MOST_USEFUL_SESSIONS:
        raise UsageError(
            f"{text[:20]!r} is not a number of new clients a second, above 0 and at most "
            f"{MOST_USEFUL_SESSIONS}"
        )
    return value
