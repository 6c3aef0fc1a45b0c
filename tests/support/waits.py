"""Short waits for tests."""

from __future__ import annotations

from kubectl_istio_udp.model.waits import Waits

QUICK = Waits(
    poll=0.01,
    balancer_address=0.05,
    kube_proxy=0.05,
    kube_proxy_retry=0.05,
    kube_proxy_poll=0.01,
    endpoints_settle=0.01,
    log_lines=0.2,
    log_late=0.2,
    log_poll=0.02,
    first_retry=0.001,
    longest_retry=0.001,
)
