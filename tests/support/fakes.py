"""Answers exec in the fake cluster: the gateways' Envoys, and a pod with dig."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.support.apiserver import ApiServer, Exec

ANSWERS = Path(__file__).parent / "answers"
MARK = "kubectl-istio-udp"


def answer(name: str) -> Exec:
    """Recorded output of a real dig, from answers/."""
    texts: dict[str, Any] = {}
    for stream in ("stdout", "stderr"):
        path = ANSWERS / f"{name}.{stream}.txt"
        texts[stream] = path.read_text(encoding="utf-8") if path.exists() else ""
    return Exec(**texts, code=9 if name in ("timeout", "closed") else 0)


def page(status: int, body: str = "", **headers: str) -> Exec:
    """The output of an HTTP probe's command for an answer."""
    head = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items())]
    text = "\r\n".join([*head, "", ""]) + body
    return Exec(stdout=text.encode().hex(" "), stderr="took 0.012\n")


@dataclass
class Fakes:
    """Envoys that immediately have the configuration of the server's EnvoyFilters, and a dig.

    Attributes:
        refuses: the error of Envoys that reject a listener, by its name.
        former: listeners that Envoys keep in place of those that they refuse, by name.
        without: pods whose Envoy has got nothing yet.
        stuck: whether Envoys do not hear of anything new (kept: what they had then).
        deaf: pods whose Envoy cannot be asked, and why.
        hosts: whether clusters get their endpoints.
        dig: name of the captured answer by `address:port`; else `default`.
        file_limit: what Envoys' pods say of it; file_limits: of one pod.
        stats: those that Envoys have.
        sockets: what /proc/net has in gateways' pods, one time after the other.
        http: what curl gets by `address:port` or host; else the answer that the server's
            VirtualServices and EnvoyFilters say.
        istio: the version that proxies say of themselves.
        ignored: namespaces whose EnvoyFilters Envoys do not get.
    """

    server: ApiServer
    refuses: dict[str, str] = field(default_factory=dict)
    former: dict[str, Any] = field(default_factory=dict)
    without: set[str] = field(default_factory=set)
    stuck: bool = False
    deaf: dict[str, Exec] = field(default_factory=dict)
    hosts: bool = True
    bound: list[tuple[str, int]] = field(default_factory=list)
    live: list[dict[str, Any]] = field(default_factory=list)
    dig: dict[str, str] = field(default_factory=dict)
    default: str = "noerror"
    file_limit: str = "1048576\n"
    file_limits: dict[str, str] = field(default_factory=dict)
    stats: dict[str, int] = field(
        default_factory=lambda: {"server.concurrency": 2, "cluster_manager.active_clusters": 20}
    )
    sockets: list[Exec] = field(default_factory=list)
    http: dict[str, Exec] = field(default_factory=dict)
    istio: str = "1.31.0"
    ignored: frozenset[str] = frozenset()
    commands: list[list[str]] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    _kept: list[dict[str, Any]] = field(default_factory=list)

    def run(self, namespace: str, pod: str, container: str, command: list[str]) -> Exec:
        if command[0] == "sh" and command[2].endswith("\nwait"):
            return self._together(namespace, pod, container, command[2])
        self.commands.append(command)
        if command[0] == "dig":
            target = f"{command[1].removeprefix('@')}:{command[3]}"
            name = self.dig.get(target, self.default)
            return Exec(error=name) if " " in name else answer(name)
        if command[0] == "sh" and "curl" in command[2]:
            return self._get(command[4:])
        if container == "istio-proxy":
            if pod in self.deaf:
                return self.deaf[pod]
            if command[0] == "cat":
                return self.sockets.pop(0) if self.sockets else Exec(error="no cat")
            if command[:3] == ["pilot-agent", "request", "GET"]:
                nothing = pod in self.without
                return Exec(stdout=json.dumps({} if nothing else self._admin(command[3])))
            return Exec(stdout=self.file_limits.get(pod, self.file_limit))
        return Exec(stdout=" 68 69\n")

    def _together(self, namespace: str, pod: str, container: str, script: str) -> Exec:
        """The output of a script that runs several commands at once."""
        lines: list[str] = []
        for start in re.split(r"^(?=run \d+ )", script, flags=re.MULTILINE)[1:]:
            _, number, *command = shlex.split(start.removesuffix("wait").rstrip().removesuffix("&"))
            done = self.run(namespace, pod, container, command)
            if done.error or done.cut or done.status:
                lines += [f"{number}e {done.error}", f"{number}x 127"]
                continue
            lines += [f"{number}o {line}" for line in done.stdout.splitlines()]
            lines += [f"{number}e {line}" for line in done.stderr.splitlines()]
            lines.append(f"{number}x {done.code}")
        return Exec(stdout="".join(f"{line}\n" for line in lines))

    def _admin(self, path: str) -> Any:
        if path.startswith("listeners"):
            resources = [*self._resources("LISTENER"), *self.live]
            found = [(r["name"], _port(r)) for r in resources] + self.bound
            self.history.append(f"listeners {sorted(name for name, _ in found)}")
            statuses = [
                {"name": name, "local_address": {"socket_address": {"port_value": port}}}
                for name, port in found
            ]
            return {"listener_statuses": [*statuses, {"name": "odd", "local_address": {}}]}
        if path.startswith("stats"):
            return {"stats": [{"name": n, "value": v} for n, v in self.stats.items()]}
        if path == "server_info":
            return {"node": {"metadata": {"ISTIO_VERSION": self.istio}}}
        pattern = re.compile(unquote(path.rpartition("=")[2]))
        if path.startswith("config_dump?resource=dynamic_listeners&"):
            listeners = [r for r in self._resources("LISTENER") if pattern.fullmatch(r["name"])]
            live = [r for r in self.live if pattern.fullmatch(r["name"])]
            active = [{"active_state": {"listener": r}} for r in live]
            return {"configs": [*map(self._listener, listeners), *active]}
        if path == "config_dump?resource=dynamic_route_configs":
            routes = [{"name": name} for name, _ in self._routes()]
            return {"configs": [{"route_config": {"virtual_hosts": [{"routes": routes}]}}, {}]}
        if path.startswith("config_dump"):
            listeners = [r for r in self._resources("LISTENER") if pattern.match(r["name"])]
            clusters = [r for r in self._resources("CLUSTER") if pattern.match(r["name"])]
            return {
                "configs": [
                    {"dynamic_listeners": [self._listener(r) for r in listeners]},
                    {"dynamic_active_clusters": [{"cluster": r} for r in clusters]},
                ]
            }
        return {
            "cluster_statuses": [
                {"name": r["name"], "host_statuses": self._hosts(r)}
                for r in self._resources("CLUSTER")
                if pattern.match(r["name"])
            ]
        }

    def _resources(self, kind: str) -> list[dict[str, Any]]:
        if not self.stuck:
            self._kept = self.server.all("EnvoyFilter")
        return [
            patch["patch"]["value"]
            for each in self._kept
            if each["metadata"]["namespace"] not in self.ignored
            for patch in each["spec"].get("configPatches") or ()
            if patch["applyTo"] == kind and "value" in patch["patch"]
        ]

    def _routes(self) -> list[tuple[str, dict[str, Any]]]:
        """(name, route in the form of a VirtualService); those of EnvoyFilters come first."""
        if self.stuck:
            return []
        patched = [
            (route["name"], _in_words(route))
            for each in self.server.all("EnvoyFilter")
            for patch in each["spec"].get("configPatches") or ()
            if patch["applyTo"] == "HTTP_ROUTE"
            for route in [patch["patch"]["value"]]
        ]
        services = self.server.all("VirtualService")
        return patched + [(r.get("name", ""), r) for s in services for r in s["spec"]["http"]]

    def _get(self, words: list[str]) -> Exec:
        """The output of curl."""
        _, _, authority, path = words[-1].split("/", 3)
        target = authority
        if "--connect-to" in words:
            target = words[words.index("--connect-to") + 1].removeprefix("::")
        if target in self.http or authority in self.http:
            return self.http.get(target) or self.http[authority]
        for _, route in self._routes():
            uri = route["match"][0]["uri"] if "match" in route else {"prefix": "/"}
            exact = uri.get("exact") == f"/{path}"
            if exact or f"/{path}".startswith(uri.get("prefix", "none")):
                direct = route.get("directResponse") or {"status": 503}
                headers = ((route.get("headers") or {}).get("response") or {}).get("set") or {}
                body = (direct.get("body") or {}).get("string", "")
                return page(direct["status"], body, **headers)
        return page(404)

    def _listener(self, resource: dict[str, Any]) -> dict[str, Any]:
        name = resource["name"]
        if name in self.refuses:
            error = {"details": self.refuses[name], "failed_configuration": resource}
            active = {"active_state": {"listener": self.former[name]}} if self.former else {}
            return {"name": name, "error_state": error, **active}
        return {"name": name, "active_state": {"listener": resource}}

    def _entry(self, cluster: dict[str, Any]) -> dict[str, Any] | None:
        """The ServiceEntry with the endpoints of a cluster, if there is one."""
        host = cluster["eds_cluster_config"]["service_name"].split("|")[3]
        found = (e for e in self.server.all("ServiceEntry") if host in e["spec"]["hosts"])
        return next(found, None)

    def _target(self, cluster: dict[str, Any]) -> int | None:
        """The pods' port in a cluster's endpoint list; None if no entry has it."""
        entry = self._entry(cluster)
        if entry is None:
            return None
        port = entry["spec"]["ports"][0]
        return int(port.get("targetPort", port["number"]))

    def _listed(self, cluster: dict[str, Any]) -> list[dict[str, Any]]:
        """The addresses that the ServiceEntry of a route's backend lists."""
        entry = self._entry(cluster) if "." in cluster["name"] else None
        return [
            {"socket_address": {"address": each["address"], "port_value": self._target(cluster)}}
            for each in (entry or {"spec": {}})["spec"].get("endpoints", ())
        ]

    def _hosts(self, cluster: dict[str, Any]) -> list[dict[str, Any]]:
        """The addresses in the cluster itself, else all ready ones of the EndpointSlices."""
        if not self.hosts:
            return []
        pieces = (cluster.get("load_assignment") or {}).get("endpoints") or ()
        sockets = [e["endpoint"]["address"] for piece in pieces for e in piece["lb_endpoints"]]
        sockets = sockets or self._listed(cluster)
        if not sockets:
            sockets = [
                {"socket_address": {"address": e["addresses"][0], "port_value": port["port"]}}
                for piece in self.server.all("EndpointSlice")
                for port in piece["ports"]
                if self._target(cluster) in (None, port["port"])
                for e in piece["endpoints"]
            ]
        return [{"address": socket} for socket in sockets]


def _port(listener: dict[str, Any]) -> int:
    number: int = listener["address"]["socket_address"]["port_value"]
    return number


def _in_words(route: dict[str, Any]) -> dict[str, Any]:
    """A route of Envoy in the form of a VirtualService."""
    direct = route["direct_response"]
    uri = {"exact" if key == "path" else key: value for key, value in route["match"].items()}
    added = [each["header"] for each in route.get("response_headers_to_add") or ()]
    return {
        "match": [{"uri": uri}],
        "directResponse": {
            "status": direct["status"],
            "body": {"string": (direct.get("body") or {}).get("inline_string", "")},
        },
        "headers": {"response": {"set": {each["key"]: each["value"] for each in added}}},
    }
