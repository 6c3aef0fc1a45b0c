"""How long commands wait, in one place, so that a caller (as a test) can hand in other times."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Waits:
    """How many seconds a command waits, and for what.

    Attributes:
        poll: between two looks at what is to change in the cluster. istiod hands a change to the
            gateways after 100 ms of quiet, so that looking more often finds nothing sooner.
        pod_start: until a pod that was created for one run is ready.
        balancer_address: until a load balancer has an address. A local cluster's has it at once; a
            cloud's takes minutes, for which `get` is the better place to look.
        envoy_answer: for an answer of a gateway pod's Envoy. By port-forward it takes milliseconds;
            by exec it took more than 10 s on two cores with twenty runs of `expose` (measured).
        kube_proxy: until a Service that does not answer, although the gateway does, counts as
            broken: kube-proxy may not have it yet.
        kube_proxy_poll: between two probes of such a Service.
        endpoints_settle: until endpoints that a gateway lacks count as missing: pods may be moving.
        log_lines: during which an access log of short intervals is watched.
        log_late: for lines that are late. Proxies write their log out once a second, and the
            kubelet takes it from there.
        log_poll: between two looks at a log.
        first_retry, longest_retry: after a connection that broke; each wait is twice as long as
            the one before. client-go always waits a second.
    """

    poll: float = 0.25
    pod_start: float = 60.0
    balancer_address: float = 3.0
    envoy_answer: float = 30.0
    kube_proxy: float = 5.0
    kube_proxy_poll: float = 0.5
    endpoints_settle: float = 1.5
    log_lines: float = 3.0
    log_late: float = 4.0
    log_poll: float = 0.5
    first_retry: float = 0.1
    longest_retry: float = 1.0
