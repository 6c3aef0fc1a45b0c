"""The sessions that exposures at a gateway may have together, and those that they have."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from conftest import Result, Space, get, kubectl, run

# The files that the gateway's Envoy needs besides sessions (docs/limits.md).
RESERVED = 2_000
# Twenty runs at once take 40 s on two cores without other work.
_SLOWEST_SECONDS = 400.0


@dataclass
class Edge:
    """A gateway that only this test uses.

    Attributes:
        space: where it is.
        name: its name.
    """

    space: Space
    name: str = "edge"

    @property
    def ref(self) -> str:
        return f"{self.space.name}/{self.name}"

    def pod(self) -> dict[str, Any]:
        found = get("pods", "-n", self.space.name, "-l", f"app={self.name}")["items"]
        (only,) = [p for p in found if "deletionTimestamp" not in p["metadata"]]
        return dict(only)

    def budget(self) -> int:
        """The sessions that its open-file limit allows."""
        script = (
            'for p in /proc/[0-9]*; do [ "$(cat $p/comm)" = envoy ] && cat $p/limits; done; true'
        )
        name = self.pod()["metadata"]["name"]
        limits = kubectl(
            "exec", "-n", self.space.name, name, "-c", "istio-proxy", "--", "sh", "-c", script
        )
        return int(limits.partition("Max open files")[2].split()[0]) - RESERVED

    def restarts(self) -> int:
        return int(self.pod()["status"]["containerStatuses"][0]["restartCount"])

    def expose(self, name: str, port: int, *more: str) -> Result:
        words = ["kubectl", "istio-udp", "expose", "dns", "-n", self.space.name, "--name", name]
        words += ["-p", f"{port}:53", "--gateway", self.ref, *more]
        return run(*words, seconds=_SLOWEST_SECONDS)

    def filters(self) -> dict[str, int]:
        """The sessions of each EnvoyFilter that adds a listener."""
        found = get("envoyfilters", "-n", self.space.name)["items"]
        return {f["metadata"]["name"]: n for f in found if (n := granted(f))}

    def address(self, name: str) -> tuple[str, int]:
        """Cluster address and port of an exposure's companion Service."""
        labels = f"kubectl-istio-udp/exposure={name}"
        spec = get("service", "-n", self.space.name, "-l", labels)["items"][0]["spec"]
        return spec["clusterIP"], spec["ports"][0]["port"]

    def reservations(self) -> list[str]:
        found = get("envoyfilters", "-n", self.space.name)["items"]
        names = [item["metadata"]["name"] for item in found]
        return [name for name in names if name.startswith("reserved-")]


def granted(envoy_filter: dict[str, Any]) -> int:
    """The sessions that an EnvoyFilter lets Envoy open, over all of its clusters."""
    values = [p["patch"].get("value") or {} for p in envoy_filter["spec"].get("configPatches", ())]
    breakers = [v["circuit_breakers"]["thresholds"][0] for v in values if "circuit_breakers" in v]
    return sum(int(each["max_connections"]) for each in breakers)


@dataclass
class Watched:
    """The sessions that the EnvoyFilters of a namespace granted at any time.

    Attributes:
        most: the most sessions that they granted together.
        changes: how many changes were seen.
    """

    most: int = 0
    changes: int = 0
    _now: dict[str, int] = field(default_factory=dict)

    def see(self, event: dict[str, Any]) -> None:
        found = event["object"]
        sessions = 0 if event["type"] == "DELETED" else granted(found)
        self._now[found["metadata"]["name"]] = sessions
        self.most = max(self.most, sum(self._now.values()))
        self.changes += 1


@contextmanager
def watched(namespace: str) -> Iterator[Watched]:
    """Watch a namespace's EnvoyFilters for as long as the context lasts."""
    words = ["kubectl", "get", "envoyfilters", "-n", namespace, "--watch", "-o", "json"]
    watch = subprocess.Popen(
        [*words, "--output-watch-events"], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    seen = Watched()

    def read() -> None:
        assert watch.stdout
        text, decoder = "", json.JSONDecoder()
        for line in watch.stdout:
            text += line
            try:
                event, end = decoder.raw_decode(text)
            except ValueError:
                continue
            text = text[end:].lstrip()
            seen.see(event)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield seen
    finally:
        watch.terminate()
        watch.wait()
        reader.join()
