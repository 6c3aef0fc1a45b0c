"""`controller run`: run the controller in this process."""

from __future__ import annotations

import json
import logging
import secrets
import socket
import sys
import time
from dataclasses import replace
from typing import Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.controller import settings
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.mesh import DEFAULT_ROOT_NAMESPACE
from kubectl_istio_udp.plan.sessions import CAREFUL_FILE_LIMIT


@click.command("run")
@settings.gateway_namespaces_option
@settings.root_namespaces_option(DEFAULT_ROOT_NAMESPACE)
@settings.mesh_configs_option("none: Istio's defaults are assumed")
@click.option(
    "--file-limit",
    type=click.IntRange(min=1),
    default=CAREFUL_FILE_LIMIT,
    show_default=True,
    help="Open-file limit of each gateway's Envoy, which limits the sessions of all exposures "
    "together. `install` measures it.",
)
@settings.allow_all_option
@settings.namespace_default_option
@click.option(
    "--leader-elect/--no-leader-elect",
    default=True,
    show_default=True,
    help="Write only while this replica holds the Lease.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port that serves /healthz, /readyz and /metrics; 0 uses any free one.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Lowest level to log. Logs are lines of JSON on stderr.",
)
@options.controller_options
def command(
    *,
    gateway_namespaces: tuple[str, ...],
    root_namespaces: tuple[str, ...],
    mesh_configs: tuple[tuple[str, str], ...],
    file_limit: int,
    allow_all: bool,
    defaults: tuple[tuple[str, str], ...],
    leader_elect: bool,
    port: int,
    log_level: str,
    common: options.Common,
) -> None:
    """Run the controller, inside or outside the cluster, until SIGTERM or SIGINT.

    No request takes longer than 5s, even with a larger --request-timeout: it must end before
    another replica becomes the leader.
    """
    try:
        from kubectl_istio_udp.controller.run import REQUEST_SECONDS, Controller, Settings
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the controller needs {error.name}",
            hints=["install it: pip install 'kubectl-istio-udp[controller]'"],
        ) from error

    asked = common.request_timeout.seconds or REQUEST_SECONDS
    # Its queue retries, and only while this replica leads.
    common = replace(common, request_timeout=Duration(min(asked, REQUEST_SECONDS)), retry=False)
    api = common.connect()
    settings = Settings(
        identity=f"{socket.gethostname()}-{secrets.token_hex(3)}",
        namespace=common.namespace_of(api),
        gateway_namespaces=gateway_namespaces,
        root_namespaces=root_namespaces or (DEFAULT_ROOT_NAMESPACE,),
        file_limit=file_limit,
        allow_all=allow_all,
        defaults=dict(defaults),
        mesh_configs=mesh_configs,
        elect=leader_elect,
        port=port,
    )
    _log_json(log_level)
    controller = Controller(api, settings)
    controller.start()
    try:
        # SIGTERM is handled like SIGINT (cli.main).
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        logging.getLogger(__name__).info("shutting down")
    controller.stop()


class JsonFormatter(logging.Formatter):
    """One line of JSON per record, including its `extra` fields."""

    _USUAL = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None)))

    def format(self, record: logging.LogRecord) -> str:
        """The line; untrusted text cannot start another one."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "thread": record.threadName,
        }
        line |= {k: v for k, v in vars(record).items() if k not in self._USUAL}
        if isinstance(line.get("key"), tuple):
            line["key"] = "/".join(line["key"])
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _log_json(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("kubectl_istio_udp").setLevel(level.upper())
