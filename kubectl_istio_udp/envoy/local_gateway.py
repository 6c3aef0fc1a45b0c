"""A gateway on this machine: a real Envoy on loopback, with the configuration of istiod."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kubectl_istio_udp.envoy import eds
from kubectl_istio_udp.envoy.binary import TEMPORARY_PREFIX, cannot_run
from kubectl_istio_udp.envoy.patches import field, read_patches
from kubectl_istio_udp.model.errors import IstioUdpError

LOOPBACK = "127.0.0.1"
_ANY = {"0.0.0.0": LOOPBACK, "::": "::1"}
_START_SECONDS = 30.0
_POLL_SECONDS = 0.02
_LAST_LINES = 5
_LONGEST_DIRECTORY = 60
_PR_SET_PDEATHSIG = 1


class GatewayFailed(IstioUdpError):
    """The local gateway did not start, ended, or did not accept its configuration."""


def raise_file_limit() -> int:
    """Raise the open-file limit of this process and its children to the maximum; return it.

    Each UDP session is an open file, and an Envoy without free ones crashes.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # macOS reports no limit but does not accept it.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def configuration(
    envoy_filters: Sequence[Mapping[str, Any]], folder: Path
) -> tuple[dict[str, Any], set[str]]:
    """The configuration that istiod generates from EnvoyFilters that add listeners and clusters.

    Listeners bind loopback instead of all addresses, and endpoint lists come from files.

    Args:
        envoy_filters: the manifests.
        folder: the directory for these files and the admin interface's socket.

    Returns:
        Envoy's bootstrap, and the names of the endpoint lists that it needs.
    """
    patches, flaws = read_patches(envoy_filters)
    if flaws:
        raise GatewayFailed(f"{flaws[0].field}: {flaws[0].message}")
    listeners, clusters, wanted = [], [], set()
    for patch in patches:
        if (patch.apply_to, patch.operation) == ("LISTENER", "ADD"):
            listeners.append(_on_loopback(patch.value))
        elif (patch.apply_to, patch.operation) == ("CLUSTER", "ADD"):
            name = field(patch.value, "eds_cluster_config", "service_name")
            clusters.append(
                _from_file(patch.value, folder / file_name(name)) if name else patch.value
            )
            wanted |= {name} if name else set()
        else:
            raise GatewayFailed(
                f"only a gateway in a cluster can apply {patch.operation} of {patch.apply_to}"
            )
    return {
        "node": {"id": "demo", "cluster": "demo"},
        "admin": {"address": {"pipe": {"path": str(folder / "admin")}}},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }, wanted


def file_name(service_name: str) -> str:
    """The file name of an endpoint list."""
    return service_name.replace("|", "_").replace("/", "_") + ".json"


def _on_loopback(listener: Mapping[str, Any]) -> dict[str, Any]:
    socket_address = dict(listener["address"]["socket_address"])
    socket_address["address"] = _ANY.get(socket_address["address"], socket_address["address"])
    if socket_address["address"] != "::1":
        socket_address.pop("ipv4_compat", None)
    return {**listener, "address": {"socket_address": socket_address}}


def _from_file(cluster: Mapping[str, Any], path: Path) -> dict[str, Any]:
    source = {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}
    return {
        **cluster,
        "eds_cluster_config": {**cluster["eds_cluster_config"], "eds_config": source},
    }


class LocalGateway:
    """An Envoy that runs inside a `with` block; its files are removed afterwards."""

    def __init__(
        self,
        envoy: Path,
        envoy_filters: Sequence[Mapping[str, Any]],
        endpoints: Mapping[str, Iterable[eds.Address]],
    ) -> None:
        """Take the program and its configuration.

        Args:
            envoy: the program.
            envoy_filters: the EnvoyFilters with its listeners and clusters.
            endpoints: endpoint lists, as from eds.published.
        """
        self._envoy, self._filters, self._endpoints = envoy, envoy_filters, endpoints
        self._version = 0
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted: set[str] = set()

    @property
    def pid(self) -> int:
        """The process id of the Envoy."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> LocalGateway:
        """Start Envoy, and wait until it is live and has its endpoints.

        Raises:
            GatewayFailed: it did not start.
            NoEnvoy: the program does not run on this machine.
        """
        try:
            self._temporary = tempfile.TemporaryDirectory(
                prefix=TEMPORARY_PREFIX, dir=_directory(tempfile.gettempdir())
            )
            folder = Path(self._temporary.name)
            bootstrap, self._wanted = configuration(self._filters, folder)
            self._check_ports(bootstrap["static_resources"]["listeners"])
            self._write(self._endpoints)
            (folder / "envoy.json").write_text(json.dumps(bootstrap), encoding="utf-8")
            self._start(folder)
            self._wait("did not start", lambda: self._get("/ready").startswith("LIVE"))
            self.serve(self._endpoints)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Kill Envoy and remove its files."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._temporary is not None:
            self._temporary.cleanup()

    def serve(self, endpoints: Mapping[str, Iterable[eds.Address]]) -> None:
        """Replace the endpoint lists, as istiod would, and wait until Envoy has them.

        Raises:
            GatewayFailed: it ended, or did not accept them.
        """
        self._write(endpoints)
        expected = {name: sorted(endpoints.get(name, ())) for name in self._wanted}
        self._wait("did not get its endpoints", lambda: self._hosts() == expected)

    def _write(self, endpoints: Mapping[str, Iterable[eds.Address]]) -> None:
        """Write the endpoint lists; Envoy watches for files that are moved into place."""
        assert self._temporary is not None
        self._version += 1
        for name in self._wanted:
            target = Path(self._temporary.name) / file_name(name)
            new = target.with_suffix(".new")
            message = eds.response(name, endpoints.get(name, ()), self._version)
            new.write_text(json.dumps(message), encoding="utf-8")
            new.replace(target)

    def _check_ports(self, listeners: Iterable[Mapping[str, Any]]) -> None:
        """Check that the listeners' ports are free: Envoy would share a used one (SO_REUSEPORT).

        Raises:
            GatewayFailed: a port is in use.
        """
        for listener in listeners:
            address = listener["address"]["socket_address"]
            family = socket.AF_INET6 if ":" in address["address"] else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                try:
                    probe.bind((address["address"], address["port_value"]))
                except OSError as error:
                    raise GatewayFailed(
                        f"{address['address']}:{address['port_value']}/UDP cannot be used: "
                        f"{error.strerror}",
                        hints=["choose another port at the gateway: -p GATEWAY_PORT:SERVICE_PORT"],
                    ) from None

    def _start(self, folder: Path) -> None:
        raise_file_limit()
        command = [
            str(self._envoy), "-c", str(folder / "envoy.json"), "--disable-hot-restart",
            "--log-level", "warning", "--log-path", str(folder / "log"), "--concurrency", "2",
        ]  # fmt: skip
        try:
            with (folder / "stderr").open("wb") as stderr:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    # Only this process handles Ctrl-C, and then ends Envoy. If it is killed, Linux
                    # ends Envoy.
                    start_new_session=True,
                    preexec_fn=_ends_with(os.getpid()),
                )
        except (OSError, subprocess.SubprocessError) as error:
            raise cannot_run(self._envoy, error) from None

    def _wait(self, failure: str, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            assert self._process is not None
            if self._process.poll() is not None:
                raise GatewayFailed(f"Envoy ended: {self._last_message()}")
            with suppress(OSError, http.client.HTTPException, ValueError):
                if reached():
                    return
            if time.monotonic() > deadline:
                raise GatewayFailed(f"Envoy {failure}: {self._last_message()}")
            time.sleep(_POLL_SECONDS)

    def _last_message(self) -> str:
        assert self._temporary is not None
        text = ""
        for name in ("log", "stderr"):
            with suppress(OSError):
                text += (Path(self._temporary.name) / name).read_text(errors="replace")
        return " ".join(" ".join(text.splitlines()[-_LAST_LINES:]).split())[-500:] or "no message"

    def _get(self, path: str) -> str:
        assert self._temporary is not None
        connection = _Admin(str(Path(self._temporary.name) / "admin"))
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def statistics(self, pattern: str) -> dict[str, int]:
        """The counters and gauges with names that match a regular expression."""
        found = json.loads(self._get(f"/stats?format=json&filter={pattern}"))["stats"]
        return {each["name"]: each["value"] for each in found if "value" in each}

    def _hosts(self) -> dict[str, list[eds.Address]]:
        """The addresses in each endpoint list."""
        found = json.loads(self._get("/clusters?format=json")).get("cluster_statuses", ())
        return {
            cluster["eds_service_name"]: sorted(
                (host["address"]["socket_address"]["address"],
                 host["address"]["socket_address"]["port_value"])
                for host in cluster.get("host_statuses", ())
            )
            for cluster in found
            if cluster.get("eds_service_name")
        }  # fmt: skip


def _directory(usual: str) -> str:
    """A directory for a Unix socket, whose path can have at most 104 bytes."""
    return usual if len(usual) < _LONGEST_DIRECTORY else "/tmp"  # noqa: S108 - the caller makes a directory in it


class _Admin(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _ends_with(parent: int) -> Callable[[], None] | None:
    """A function for a child process, so that the kernel ends it with its parent (prctl; Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return ask
