"""`verify` for anything that exists: each kind has a test of its own."""

from __future__ import annotations

from collections.abc import Sequence

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import ClusterError, UsageError
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.state.ownership import Existing
from kubectl_istio_udp.verify import sending
from kubectl_istio_udp.verify.options import ProbeOptions
from kubectl_istio_udp.verify.toolpod import ToolPod


def verify_all(
    api: Api,
    namespace: str,
    found: Sequence[Existing],
    to: str | None,
    probe_settings: ProbeOptions,
    tool_search: sending.Tool,
) -> list[sending.Verification]:
    """Test exposures, responses and access logs from one network-tool pod, in order.

    Args:
        api: the cluster.
        namespace: the namespace for the pod.
        found: what to test.
        to: the Service that an access log is tested with; None to choose one.
        probe_settings: the options for probes.
        tool_search: the result of `sending.start_tool_search`.

    Raises:
        ClusterError, UsageError: there is no pod; or the only test was not possible. Of several
            tests, such a one has the error as its result.
    """
    in_mesh = any(map(_needs_sidecar, found))
    with sending.tool(api, namespace, probe_settings, tool_search, in_mesh=in_mesh) as pod:
        if len(found) == 1:
            return [verify_existing(api, pod, found[0], to, probe_settings)]
        return [_verify_or_error(api, pod, existing, to, probe_settings) for existing in found]


def _needs_sidecar(existing: Existing) -> bool:
    """Whether the network-tool pod needs a sidecar for the test."""
    if existing.kind is Kind.RESPONSE:
        from kubectl_istio_udp.model.response import ResponseSpec

        return isinstance(existing.spec, ResponseSpec) and existing.spec.mesh
    return existing.kind is Kind.ACCESS_LOG


def _verify_or_error(
    api: Api, pod: ToolPod, existing: Existing, to: str | None, probe_settings: ProbeOptions
) -> sending.Verification:
    """Like the function below, but errors become results, so that the others are still tested."""
    try:
        return verify_existing(api, pod, existing, to, probe_settings)
    except (ClusterError, UsageError) as error:
        return sending.Verification(False, error.message)


def verify_existing(
    api: Api, pod: ToolPod, existing: Existing, to: str | None, probe_settings: ProbeOptions
) -> sending.Verification:
    """Test one exposure, response or access log.

    Raises:
        ClusterError, UsageError: the test was not possible.
    """
    spec = existing.spec
    if spec is None:
        raise ClusterError(f"{existing.kind.words} {existing.name}: {existing.problem}")
    if isinstance(spec, ExposureSpec) and not spec.service:
        from kubectl_istio_udp.verify.routes import verify_routes

        return verify_routes(api, pod, existing, spec, probe_settings)
    if isinstance(spec, ExposureSpec):
        from kubectl_istio_udp.verify.exposure import verify_exposure

        return verify_exposure(api, pod, existing, spec, probe_settings)
    if existing.kind is Kind.RESPONSE:
        from kubectl_istio_udp.model.response import ResponseSpec
        from kubectl_istio_udp.verify.response import verify_response

        assert isinstance(spec, ResponseSpec)
        return verify_response(api, pod, existing, spec, probe_settings)
    from kubectl_istio_udp.model.accesslog import AccessLogSpec
    from kubectl_istio_udp.verify.accesslog import verify_access_log

    assert isinstance(spec, AccessLogSpec)
    return verify_access_log(api, pod, spec, to, probe_settings)
