"""The controller's metrics for Prometheus. No label value comes from a tenant's object."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PREFIX = "kubectl_istio_udp_"


class Metrics:
    """The controller's metrics, in a separate registry.

    Attributes:
        reconciles: reconciliations of an exposure, by outcome.
        errors: errors that are retried, by kind.
        writes: write requests to the API server, by verb and kind.
        latency: seconds from receiving a change to the response to the resulting write.
        duration: seconds per reconciliation.
    """

    def __init__(self) -> None:
        """Create all metrics with value zero."""
        self.registry = CollectorRegistry()
        self.reconciles = Counter(
            f"{_PREFIX}reconciles",
            "Reconciliations of an exposure.",
            ["outcome"],
            registry=self.registry,
        )
        self.errors = Counter(
            f"{_PREFIX}errors", "Errors that are retried.", ["kind"], registry=self.registry
        )
        self.writes = Counter(
            f"{_PREFIX}writes",
            "Write requests to the API server.",
            ["verb", "kind"],
            registry=self.registry,
        )
        self.latency = Histogram(
            f"{_PREFIX}change_to_write_seconds",
            "Seconds from receiving a change to the response to the resulting write.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.duration = Histogram(
            f"{_PREFIX}reconcile_seconds",
            "Seconds per reconciliation of an exposure.",
            buckets=_SECONDS,
            registry=self.registry,
        )

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge; `value` is called on each scrape."""
        Gauge(f"{_PREFIX}{name}", text, registry=self.registry).set_function(value)

    def states(self, states: tuple[str, ...], count: Callable[[str], float]) -> None:
        """Add a gauge of exposures by state."""
        gauge = Gauge(
            f"{_PREFIX}exposures", "Exposures, by state.", ["state"], registry=self.registry
        )
        for state in states:
            gauge.labels(state).set_function(partial(count, state))

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
