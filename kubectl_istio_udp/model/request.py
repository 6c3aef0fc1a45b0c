"""What is asked for, whoever asks: the command line or a Service's annotations."""

from __future__ import annotations

from dataclasses import dataclass, field

from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.exposure import MOST_USEFUL_SESSIONS, Discovery, Options
from kubectl_istio_udp.model.ports import PortRequest


@dataclass(frozen=True)
class ExposeRequest:
    """What the user asked `expose` for.

    Attributes:
        namespace, service: the Service.
        name: the exposure's name; None takes the Service's.
        ports: the `-p`s; empty means all UDP ports of the Service under their own numbers.
        discovery: None lets the facts decide.
        options: the limits and choices.
        automatic_sessions: whether the number of sessions is to be chosen from what the
            gateway's Envoy can hold, in place of the one in options.
        expect_rate: new client ports a second, at each port, that the number of sessions is to
            suffice for; it goes before both.
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
        """Refuse two answers to one question.

        Raises:
            UsageError: it names a number of sessions and a rate.
        """
        if self.expect_rate is not None and not self.automatic_sessions:
            raise UsageError(
                "max-sessions and expect-rate both decide how many sessions a port holds",
                hints=["name one of them"],
            )

    @property
    def exposure_name(self) -> str:
        """The exposure's name."""
        return self.name or self.service


def rate(text: str) -> float:
    """Read how many new clients are expected a second: `200`, `0.5`.

    Raises:
        UsageError: it is no number above 0, or one that no gateway could hold sessions for.
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
