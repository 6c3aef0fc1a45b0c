"""How long commands wait, as one object, so that callers (such as tests) can set other times."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Waits:
    """The waits and timeouts of commands, in seconds.

    Attributes:
        poll: between two polls for a change in the cluster. istiod pushes a change to the
            gateways after 100 ms without further ones, so shorter polls are useless.
        pod_start: until a pod that was created for one run is ready.
        balancer_address: until a load balancer has an address. In a local cluster it has one at
            once; in a cloud it takes minutes, and users should run `get` later.
        envoy_answer: for a response of a gateway pod's Envoy. By port-forward it takes
            milliseconds. By exec it took more than 10 s on two cores with twenty runs of `expose`
            (measured).
        kube_proxy: until a Service that does not answer, although the gateway does, counts as
            broken: kube-proxy may not have it yet.
        kube_proxy_retry: until a Service counts as broken after its last write. kube-proxy usually
            applies it within a second. On a busy node it took more than 5 s (measured), and
            kube-proxy waits 30 s after an attempt that failed (its `syncPeriod`).
        kube_proxy_poll: between two probes of such a Service.
        endpoints_settle: until endpoints that a gateway lacks count as missing: pods may be moving.
        log_lines: how long an access log with short intervals is watched.
        log_late: additional time for late lines. Proxies flush their log once a second, and then
            the kubelet reads it.
        log_poll: between two reads of a log.
        first_retry, longest_retry: after a broken connection; each wait doubles the one before.
            client-go always waits one second.
    """

    poll: float = 0.25
    pod_start: float = 60.0
    balancer_address: float = 3.0
    envoy_answer: float = 30.0
    kube_proxy: float = 5.0
    kube_proxy_retry: float = 35.0
    kube_proxy_poll: float = 0.5
    endpoints_settle: float = 1.5
    log_lines: float = 3.0
    log_late: float = 4.0
    log_poll: float = 0.5
    first_retry: float = 0.1
    longest_retry: float = 1.0
