"""Several commands in one exec: each exec starts a process on the node, which costs more than dig.

A shell runs the commands in parallel. Each line of output starts with the number of its command and
its stream: `0o` is stdout, `0e` stderr, and `0x` the exit code.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence

from kubectl_istio_udp.kube.exec import ExecResult

Command = Sequence[str]

# More at once would be a burden for the pod; the request's path must stay short enough for a proxy.
_MOST_COMMANDS = 8
_MOST_CHARACTERS = 4_000
_STDOUT, _STDERR, _EXIT = "o", "e", "x"
_PRELUDE = """
exec 4>&1
lines() { while IFS= read -r line || [ -n "$line" ]; do printf '%s %s\\n' "$1" "$line"; done; }
run() {
n=$1; shift
{ { "$@" 4>&-; echo "${n}x $?" >&4; } 2>&1 >&3 3>&- | lines "${n}e" >&4; } 3>&1 | lines "${n}o" >&4
}
"""


def grouped(commands: Iterable[Command]) -> Iterator[list[Command]]:
    """Split commands into groups, in order; each group can run in one exec."""
    group: list[Command] = []
    size = 0
    for command in commands:
        length = len(shlex.join(command))
        if group and (len(group) == _MOST_COMMANDS or size + length > _MOST_CHARACTERS):
            yield group
            group, size = [], 0
        group.append(command)
        size += length
    if group:
        yield group


def joined(commands: Sequence[Command]) -> list[str]:
    """The command that runs all commands of a group."""
    starts = [f"run {number} {shlex.join(command)} &" for number, command in enumerate(commands)]
    return ["sh", "-c", "\n".join([_PRELUDE, *starts, "wait"])]


def results(whole: ExecResult, count: int) -> list[ExecResult] | None:
    """The result of each command of a group.

    Args:
        whole: the result of the exec.
        count: how many commands it ran.

    Returns:
        None if no command was started, because the pod has no shell.
    """
    if whole.exit_code is None and not whole.stdout and "timed out" not in whole.error:
        return None
    streams: dict[str, list[str]] = {}
    for line in whole.stdout.split("\n"):
        mark, _, text = line.partition(" ")
        streams.setdefault(mark, []).append(text)

    def text_of(mark: str) -> str:
        return "".join(f"{line}\n" for line in streams.get(mark, ()))

    found = []
    for number in range(count):
        ended = text_of(f"{number}{_EXIT}").strip()
        code = int(ended) if ended.isdecimal() else None
        error = "" if code is not None else whole.error or "it was interrupted"
        stdout, stderr = text_of(f"{number}{_STDOUT}"), text_of(f"{number}{_STDERR}")
        found.append(ExecResult(stdout, stderr, code, error))
    return found
