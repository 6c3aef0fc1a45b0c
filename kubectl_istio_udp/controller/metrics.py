"""What the controller counts, for Prometheus. No label has a value that a tenant chooses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PREFIX = "kubectl_istio_udp_"


class Metrics:
    """The controller's metrics, in a registry of their own.

    Attributes:
        reconciles: looks at an exposure, by outcome.
        errors: failures that are tried again, by kind.
        writes: requests to the API server that change something, by verb and kind.
        latency: seconds from hearing of a change to the answer to the write it led to.
        duration: seconds that a look took.
    """

    def __init__(self) -> None:
        """All at zero."""
        self.registry = CollectorRegistry()
        self.reconciles = Counter(
            f"{_PREFIX}reconciles", "Looks at an exposure.", ["outcome"], registry=self.registry
        )
        self.errors = Counter(
            f"{_PREFIX}errors", "Failures, tried again.", ["kind"], registry=self.registry
        )
        self.writes = Counter(
            f"{_PREFIX}writes", "Requests that write.", ["verb", "kind"], registry=self.registry
        )
        self.latency = Histogram(
            f"{_PREFIX}change_to_write_seconds",
            "From hearing of a change to the answer to the write that it led to.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.duration = Histogram(
            f"{_PREFIX}reconcile_seconds",
            "A look at an exposure.",
            buckets=_SECONDS,
            registry=self.registry,
        )

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A value that is asked for whenever somebody looks."""
        Gauge(f"{_PREFIX}{name}", text, registry=self.registry).set_function(value)

    def states(self, states: tuple[str, ...], count: Callable[[str], float]) -> None:
        """The exposures by state."""
        gauge = Gauge(
            f"{_PREFIX}exposures", "Exposures, by state.", ["state"], registry=self.registry
        )
        for state in states:
            gauge.labels(state).set_function(partial(count, state))

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)
