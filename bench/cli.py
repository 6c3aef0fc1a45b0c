"""The duration of commands on a real cluster, compared with the same by hand with kubectl.

    make bench-cli ARGS='--rounds 20'

The plugin is the one on PATH; `make` installs it as users do. Exposes a sample DNS server, and runs
each command and its kubectl counterpart in turn. Prints the medians, and with
`--write` enters them in docs/measurements.md. Exits 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "measurements.md"
BEGIN, END = "<!-- bench-cli: begin -->\n", "<!-- bench-cli: end -->\n"
PLUGIN = ("kubectl", "istio-udp")
PORT = 19_999
COMPLETION_CPU_MS = 120


@dataclass(frozen=True)
class Pair:
    """A command, the command to compare it with, and how much slower it may be."""

    name: str
    command: Sequence[str]
    by_hand: Sequence[Sequence[str]]
    in_words: str
    most: float


@dataclass(frozen=True)
class Usage:
    """The cost of a process: milliseconds, milliseconds of CPU, peak megabytes."""

    wall: float
    cpu: float
    memory: float


def run(words: Sequence[str], environment: Mapping[str, str]) -> Usage:
    """Run a command that must succeed."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode:
        sys.exit(f"{' '.join(words)}: {errors.decode()}")
    return Usage(wall * 1000, (used.ru_utime + used.ru_stime) * 1000, used.ru_maxrss / 1024)


def pairs(namespace: str, manifest: Path, gateway: str, backend: str) -> list[Pair]:
    """The commands to compare."""
    get = ("kubectl", "get")
    gateway_namespace = gateway.partition("/")[0]
    exec_ = ("kubectl", "exec", "-n", namespace, "network-tool", "--", "dig", "+short")
    return [
        Pair(
            "`get -A`",
            (*PLUGIN, "get", "-A"),
            [(*get, "envoyfilters", "-A")],
            "`kubectl get envoyfilters -A`",
            2.2,
        ),
        Pair(
            "`expose --no-wait`, unchanged",
            (*PLUGIN, *expose(namespace, gateway)),
            [
                (*get, "service", "coredns", "-n", namespace),
                (*get, "pods", "-n", gateway_namespace, "-l", "istio=ingressgateway"),
                ("kubectl", "apply", "-f", str(manifest)),
            ],
            "`kubectl get`, `get`, `apply` by hand",
            1.2,
        ),
        Pair(
            "`verify`",
            (*PLUGIN, "verify", "coredns", "-n", namespace),
            [(*exec_, f"@{backend}", "foo.bar.com")] * 2,
            "two `kubectl exec ... dig` by hand",
            1.2,
        ),
        Pair("`--help`", (*PLUGIN, "--help"), [("kubectl", "--help")], "`kubectl --help`", 1.0),
        Pair(
            "`kubectl-istio_udp --help`, without the start of kubectl before it",
            ("kubectl-istio_udp", "--help"),
            [("kubectl", "--help")],
            "`kubectl --help`",
            1.0,
        ),
    ]


def expose(namespace: str, gateway: str) -> tuple[str, ...]:
    """The words of `expose`."""
    return (
        *("expose", "coredns", "-n", namespace, "-p", f"{PORT}:53", "--gateway", gateway),
        *("--no-wait", "--validate", "none", "--max-sessions", "500"),
    )


@contextlib.contextmanager
def exposed(environment: Mapping[str, str], gateway: str) -> Iterator[str]:
    """A namespace with an exposed DNS server and a network tool."""
    namespace = f"bench{secrets.token_hex(3)}"
    run(["kubectl", "create", "namespace", namespace], environment)
    try:
        run([*PLUGIN, "samples", "apply", "-n", namespace, "--timeout", "120s"], environment)
        run([*PLUGIN, *expose(namespace, gateway)], environment)
        yield namespace
    finally:
        run([*PLUGIN, "delete", "--all", "-n", namespace], environment)
        run(["kubectl", "delete", "namespace", namespace, "--wait=false"], environment)


def output(words: Sequence[str], environment: Mapping[str, str]) -> str:
    """What a command prints."""
    return subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout


def measure(rounds: int, gateway: str) -> tuple[list[str], bool]:
    """Run everything; rows of the page's table, and whether all goals are met."""
    environment = dict(os.environ)
    with (
        exposed(environment, gateway) as namespace,
        tempfile.TemporaryDirectory() as folder,
    ):
        manifest = Path(folder) / "by-hand.yaml"
        manifest.write_text(
            output(
                [
                    *("kubectl", "create", "configmap", "by-hand", "-n", namespace, "-o", "yaml"),
                    *("--from-literal=a=b", "--dry-run=client"),
                ],
                environment,
            )
        )
        backend = output(
            [
                *("kubectl", "get", "pods", "-n", namespace, "-l", "app=coredns"),
                *("-o", "jsonpath={.items[0].status.podIP}"),
            ],
            environment,
        )
        rows, good = [], True
        for pair in pairs(namespace, manifest, gateway, backend):
            ours, theirs = [], []
            for _ in range(rounds):
                ours.append(run(pair.command, environment).wall)
                theirs.append(sum(run(words, environment).wall for words in pair.by_hand))
            mine, other = statistics.median(ours), statistics.median(theirs)
            good &= mine <= pair.most * other
            rows.append(
                f"| {pair.name} | {mine:.0f} ms | {pair.in_words}: {other:.0f} ms | "
                f"{mine / other:.2f} | {pair.most} |"
            )
        rows += floors(rounds, environment)
        direct = [run(["kubectl-istio_udp", "get", "-A"], environment) for _ in range(5)]
        kubectl = [run(["kubectl", "get", "envoyfilters", "-A"], environment) for _ in range(5)]
        mine, other = (statistics.median(u.memory for u in each) for each in (direct, kubectl))
        good &= mine <= other
        rows.append(
            f"| memory of `get -A` | {mine:.0f} MB | `kubectl get`: {other:.0f} MB | "
            f"{mine / other:.2f} | 1.0 |"
        )
        words = ["kubectl_complete-istio_udp", "expose", "--gatew"]
        cpu = statistics.median(run(words, environment).cpu for _ in range(rounds))
        good &= cpu <= COMPLETION_CPU_MS
        rows.append(f"| completion, CPU | {cpu:.0f} ms | | | {COMPLETION_CPU_MS} ms |")
        return rows, good


# The minimum for any plugin, and the cost of this one's libraries.
FLOORS = {
    "a plugin that does nothing (`/bin/sh`)": "#!/bin/sh\n",
    "a plugin in Python that does nothing": "#!{python}\n",
    "the same with click": "#!{python}\nimport click\n",
    "the same with click, urllib3 and PyYAML": "#!{python}\nimport click, urllib3, yaml\n",
}


def floors(rounds: int, environment: Mapping[str, str]) -> list[str]:
    """The rows of what `get -A` and `--help` would take without any code of the plugin."""
    python = Path(shutil.which("kubectl-istio_udp") or sys.executable).with_name("python")
    with tempfile.TemporaryDirectory() as folder:
        for number, text in enumerate(FLOORS.values()):
            file = Path(folder) / f"kubectl-floor{number}"
            file.write_text(text.format(python=python))
            file.chmod(0o755)
        on_path = {**environment, "PATH": f"{folder}:{environment['PATH']}"}
        commands = [
            *(("kubectl", f"floor{number}") for number in range(len(FLOORS))),
            ("kubectl", "get", "envoyfilters", "-A"),
            ("kubectl", "--help"),
        ]
        times: list[list[float]] = [[] for _ in commands]
        for _ in range(rounds):
            for words, found in zip(commands, times, strict=True):
                found.append(run(words, on_path).wall)
    *plugins, get, help_ = map(statistics.median, times)
    others = f"`kubectl get envoyfilters -A`: {get:.0f} ms; `kubectl --help`: {help_:.0f} ms"
    return [
        f"| {name} | {mine:.0f} ms | {others} | {mine / get:.2f}; {mine / help_:.2f} | |"
        for name, mine in zip(FLOORS, plugins, strict=True)
    ]


def write(rows: Sequence[str]) -> None:
    """Enter the table in docs/measurements.md."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + table(rows) + END + after, encoding="utf-8")


def table(rows: Sequence[str]) -> str:
    """The rows with their heads."""
    head = "| command | median | compared with | ratio | goal |\n|---|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--gateway", default="istio-system/istio-ingressgateway")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    rows, good = measure(asked.rounds, asked.gateway)
    print(table(rows), end="")
    if asked.write:
        write(rows)
    sys.exit(not good)


if __name__ == "__main__":
    main()
