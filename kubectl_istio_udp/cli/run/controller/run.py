"""`controller run`: run the controller until SIGTERM or SIGINT."""

from __future__ import annotations

import gc
import json
import logging
import secrets
import socket
import sys
import time
from dataclasses import replace
from typing import Any

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.run.cluster import connect, namespace_of
from kubectl_istio_udp.controller.run import Controller, Settings
from kubectl_istio_udp.controller.writing import REQUEST_SECONDS
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.mesh import DEFAULT_ROOT_NAMESPACE


def run(
    *,
    gateway_namespaces: tuple[str, ...],
    root_namespaces: tuple[str, ...],
    mesh_configs: tuple[tuple[str, str], ...],
    file_limit: int,
    allow_all: bool,
    defaults: tuple[tuple[str, str], ...],
    gateway_api: bool,
    leader_elect: bool,
    port: int,
    log_level: str,
    common: options.Common,
) -> None:
    """Run `controller run`, with the values of its options."""
    asked = common.request_timeout.seconds or REQUEST_SECONDS
    # Its queue retries, and only while this replica leads.
    common = replace(common, request_timeout=Duration(min(asked, REQUEST_SECONDS)), retry=False)
    api = connect(common)
    settings = Settings(
        identity=f"{socket.gethostname()}-{secrets.token_hex(3)}",
        namespace=namespace_of(common, api),
        gateway_namespaces=gateway_namespaces,
        root_namespaces=root_namespaces or (DEFAULT_ROOT_NAMESPACE,),
        file_limit=file_limit,
        allow_all=allow_all,
        defaults=dict(defaults),
        gateway_api=gateway_api,
        mesh_configs=mesh_configs,
        elect=leader_elect,
        port=port,
    )
    _log_json(log_level)
    # The command line does not collect garbage (cli/main.py), but this command runs for months.
    gc.enable()
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
