"""Choose the gateway of a command or an intent."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from kubectl_istio_udp.model.errors import NotFound, UsageError
from kubectl_istio_udp.model.gateway import GATEWAYS_LABEL, ISTIO_LABEL, Gateway, GatewayRef
from kubectl_istio_udp.model.mesh import DEFAULT_ROOT_NAMESPACE

# Part of the labels `istio` and `app` of ingress gateways (istioctl: ingressgateway;
# `helm install istio-ingress istio/gateway`: ingress; Azure: aks-istio-ingressgateway-external).
_INGRESS = "ingress"


def choose_gateway(
    gateways: Sequence[Gateway],
    name: str | None,
    *,
    kind: str = "",
    selector_given: bool = False,
    namespaces: Collection[str] | None = None,
    before: GatewayRef | None = None,
) -> Gateway:
    """Select the gateway for a command.

    Without a namespace in `name` only gateways in expected places count: in the namespaces that
    the administrator labelled. Without such labels: in istio-system, and wherever istiod injected
    the proxies and there is a Service.

    Args:
        gateways: all gateways found.
        name: the user's `--gateway`, `NAME` or `NAMESPACE/NAME`, or None.
        kind: the kind of the object with this name, as in `Gateway.is_of`; "" for any.
        selector_given: whether `--gateway-selector` found them; then any gateway counts.
        namespaces: the namespaces that the administrator labelled; None if there are none.
        before: the exposure's current gateway, which wins if several match.

    Raises:
        NotFound: there is no gateway, or none with that name.
        UsageError: several gateways match (the message lists them), or no label distinguishes
            its pods from another gateway's.
    """
    namespace, _, plain = (name or "").rpartition("/")
    known = [g for g in gateways if namespace or selector_given or _belongs(g, namespaces)]
    if name:
        here = [g for g in known if namespace in ("", g.ref.namespace)]
        matching = [g for g in here if g.is_of(kind, plain)] if kind else _named(here, plain)
    else:
        matching = [g for g in known if selector_given or _is_ingress(g)]
    if before and len(matching) > 1:
        matching = [g for g in matching if g.is_at(before)] or matching
    if len(matching) == 1:
        return _require_distinct(matching[0]).fronted_by(plain)
    if matching:
        listed = ", ".join(map(str, matching))
        hints = ["choose one: --gateway NAMESPACE/NAME, or --gateway-selector KEY=VALUE,..."]
        if not namespaces and len({g.ref.namespace for g in matching}) > 1:
            # Anybody who may create pods can make one look like a gateway.
            hints.append(
                "or label the namespaces of real gateways, to find only those: "
                f"kubectl label namespace NAMESPACE {GATEWAYS_LABEL}=true"
            )
        raise UsageError(f"found several gateways: {listed}", hints=hints)
    raise _no_gateway(gateways, name, kind)


def _named(gateways: Sequence[Gateway], name: str) -> list[Gateway]:
    """The gateways with a name, or else with an object or a label of this name."""
    return (
        [g for g in gateways if g.ref.name == name]
        or [g for g in gateways if g.answers_to(name)]
        or [g for g in gateways if g.is_labelled(name)]
    )


def _belongs(gateway: Gateway, namespaces: Collection[str] | None) -> bool:
    if namespaces:
        return gateway.ref.namespace in (*namespaces, DEFAULT_ROOT_NAMESPACE)
    return gateway.ref.namespace == DEFAULT_ROOT_NAMESPACE or gateway.by_istiod


def _require_distinct(gateway: Gateway) -> Gateway:
    """Return the gateway if its selector selects no other gateway's pods.

    Raises:
        UsageError: an EnvoyFilter for it would also apply to other gateways' pods.
    """
    if not gateway.also_selected:
        return gateway
    selector = ",".join(f"{key}={value}" for key, value in sorted(gateway.ref.selector.items()))
    raise UsageError(
        f"no label distinguishes the pods of gateway {gateway} from "
        f"{', '.join(gateway.also_selected)}: an EnvoyFilter would apply to both",
        hints=[
            "give the pods of one gateway a label that the pods of the other gateway do not have",
            f"or use all of them as one gateway: --gateway-selector {selector}",
        ],
    )


def _no_gateway(gateways: Sequence[Gateway], name: str | None, kind: str) -> NotFound:
    wanted = "no Istio ingress gateway has a running pod"
    if name:
        wanted = f"no gateway named {name} has a running pod"
    if kind:
        wanted = f"{kind} {name} has no running gateway pod"
    if not gateways:
        return NotFound(
            wanted,
            hints=[
                "list candidate pods: kubectl get pods -A -l istio; "
                "name them with --gateway-selector KEY=VALUE"
            ],
        )
    return NotFound(
        wanted,
        hints=[
            f"pods that may be a gateway: {', '.join(map(str, gateways))}; "
            "choose with --gateway NAMESPACE/NAME"
        ],
    )


def _is_ingress(gateway: Gateway) -> bool:
    labels = gateway.pods[0].labels if gateway.pods else {}
    return gateway.api or any(_INGRESS in labels.get(key, "") for key in (ISTIO_LABEL, "app"))
