"""The options that `controller install` and `controller run` share."""

from __future__ import annotations

from typing import Any

import click

from kubectl_istio_udp.cli.options import NAMESPACE, Decorator
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.names import check_namespaced_name
from kubectl_istio_udp.sources.permission import named_setting

gateway_namespaces_option = click.option(
    "--gateway-namespace",
    "gateway_namespaces",
    type=NAMESPACE,
    multiple=True,
    metavar="NAMESPACE",
    default=("istio-system",),
    show_default=True,
    help="Namespace with gateways; repeatable. The controller writes EnvoyFilters only there.",
)


def root_namespaces_option(default: str) -> Decorator:
    """--root-namespace; `default` describes the value that is used without it."""
    return click.option(
        "--root-namespace",
        "root_namespaces",
        type=NAMESPACE,
        multiple=True,
        metavar="NAMESPACE",
        help="Root namespace of the gateways' mesh; its EnvoyFilters apply to every gateway. "
        f"Repeatable.  [default: {default}]",
    )


class _MeshConfigType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """NAMESPACE/NAME of a ConfigMap."""

    name = "mesh-config"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Parse the value.

        Raises:
            UsageError: it is not NAMESPACE/NAME.
        """
        if isinstance(value, tuple):
            return value
        namespace, _, name = value.partition("/")
        if not namespace or not name or "/" in name:
            raise UsageError(f"--mesh-config {value}: expected NAMESPACE/NAME of a ConfigMap")
        check_namespaced_name(value, "--mesh-config")
        return namespace, name


def mesh_configs_option(default: str) -> Decorator:
    """--mesh-config; `default` describes the value that is used without it."""
    return click.option(
        "--mesh-config",
        "mesh_configs",
        type=_MeshConfigType(),
        multiple=True,
        metavar="NAMESPACE/NAME",
        help="ConfigMap with the mesh's configuration, which decides how endpoints are found and "
        f"which EnvoyFilters apply to a gateway; repeatable.  [default: {default}]",
    )


allow_all_option = click.option(
    "--allow-all",
    is_flag=True,
    help="Allow every namespace to expose every port. Without it, the annotation "
    "kubectl-istio-udp/allow of a Namespace lists the allowed ports.",
)


gateway_api_option = click.option(
    "--gateway-api",
    is_flag=True,
    help="Serve Gateways of the class istio-udp and their UDPRoutes (Kubernetes Gateway API).",
)


class _SettingType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """NAME=VALUE of a setting that Namespaces' annotations override."""

    name = "setting"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Parse the value.

        Raises:
            UsageError: the setting is unknown, or the value is invalid.
        """
        return value if isinstance(value, tuple) else named_setting(value)


namespace_default_option = click.option(
    "--namespace-default",
    "defaults",
    multiple=True,
    type=_SettingType(),
    metavar="NAME=VALUE",
    help="Limit for namespaces without the annotation kubectl-istio-udp/NAME; repeatable. "
    "For example: allow-sessions=2000.",
)
