"""How many requests each command sends, in how many rounds; docs/measurements.md says so too."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import pytest

from tests.support.apiserver import ApiServer, Request
from tests.support.builders import pod
from tests.support.fakes import Fakes
from tests.support.mesh_builders import mesh_config
from tests.unit.conftest import Run

EXPOSE = ("expose", "coredns", "-p", "5300:53", "--no-wait", "--validate", "none")
PAGE = Path(__file__).parents[2] / "docs" / "measurements.md"
QUERY = ("direct", "query", "coredns")
LOG = ("access-log", "--every", "10s", "--validate", "none")
APPLY, REMOVE = (("samples", verb, "-n", "lab") for verb in ("apply", "delete"))
INSTALL = ("controller", "install", "--no-wait")
# The name in the page, the command line, API requests, rounds, port-forwards, execs.
COMMANDS: list[tuple[str, tuple[str, ...], int, int, int, int]] = [
    ("get -A", ("get", "-A"), 9, 2, 0, 0),
    ("get NAME", ("get", "coredns"), 10, 2, 0, 0),
    ("describe NAME", ("describe", "coredns"), 10, 6, 2, 2),
    ("expose --no-wait", EXPOSE, 18, 6, 1, 1),
    ("verify", ("verify", "coredns"), 11, 3, 1, 2),
    ("direct query", QUERY, 5, 3, 0, 1),
    ("delete", ("delete", "coredns"), 10, 8, 1, 0),
    ("access-log", LOG, 9, 5, 0, 0),
    ("controller status", ("controller", "status"), 14, 2, 0, 0),
    ("samples apply --no-wait", (*APPLY, "--no-wait"), 8, 8, 0, 0),
    ("samples delete", REMOVE, 8, 8, 0, 0),
]
# What is run before, besides EXPOSE.
BEFORE = {
    "access-log": LOG,
    "controller status": INSTALL,
    "samples apply --no-wait": (*APPLY, "--no-wait"),
    "samples delete": (*APPLY, "--no-wait"),
}
# What restores the situation for another attempt.
AFTER = {"delete": EXPOSE, "samples delete": (*APPLY, "--no-wait")}
_QUIET_SECONDS = 0.15
_ATTEMPTS = 5


class Rounds:
    """Answers no request until no further one comes, and then all of them: that is a round."""

    def __init__(self) -> None:
        self.count = 0
        self._latest = 0.0
        self._changed = threading.Condition()

    def hold(self, _request: Request) -> None:
        with self._changed:
            mine, self._latest = self.count, time.monotonic()
            while self.count == mine:
                left = self._latest + _QUIET_SECONDS - time.monotonic()
                if left <= 0:
                    self.count += 1
                    self._changed.notify_all()
                else:
                    self._changed.wait(left)


def rounds_of(run: Run, server: ApiServer, words: tuple[str, ...]) -> int:
    rounds, usual = Rounds(), server.seen
    server.seen = rounds.hold
    try:
        done = run(*words)
    finally:
        server.seen = usual
    # No controller runs here.
    assert done.code == (1 if words[0] == "controller" else 0), done.err
    return rounds.count


@pytest.mark.parametrize(
    ("name", "words", "requests", "rounds", "forwards", "execs"),
    COMMANDS,
    ids=[name for name, *_ in COMMANDS],
)
def test_a_command_sends_this_many_requests(
    run: Run,
    server: ApiServer,
    fakes: Fakes,
    name: str,
    words: tuple[str, ...],
    requests: int,
    rounds: int,
    forwards: int,
    execs: int,
) -> None:
    second = pod("coredns-2")
    second["status"]["podIP"] = "10.244.0.21"  # as its EndpointSlice says
    server.put(second, mesh_config(accessLogFile="/dev/stdout"))
    assert run(*EXPOSE).code == 0
    assert run(*BEFORE.get(name, EXPOSE)).code == 0
    # On a busy machine a thread may be late, which looks like one round more, never like one less.
    counts = []
    for _ in range(_ATTEMPTS):
        server.requests.clear()
        counts.append(rounds_of(run, server, words))
        sent = [str(request) for request in server.requests]
        assert run(*AFTER.get(name, ("get",))).code == 0
        if counts[-1] <= rounds:
            break
    forwarded = [request for request in sent if request.endswith("/portforward")]
    executed = [request for request in sent if request.endswith("/exec")]
    others = len(sent) - len(forwarded) - len(executed)
    found = (others, min(counts), len(forwarded), len(executed))
    assert found == (requests, rounds, forwards, execs), "\n".join(sent)


@pytest.mark.parametrize("command", COMMANDS, ids=[name for name, *_ in COMMANDS])
def test_the_page_has_these_numbers(
    command: tuple[str, tuple[str, ...], int, int, int, int],
) -> None:
    name, _, requests, rounds, forwards, execs = command
    table = PAGE.read_text().partition("| command | API requests |")[2]
    row = re.search(rf"^\| `{re.escape(name)}`.*?\|(.*)\|(.*)\|(.*)\|(.*)\|$", table, re.MULTILINE)
    assert row, name
    found = [int(cell.split()[0].rstrip(":")) for cell in row.groups()]
    assert found == [requests, rounds, forwards, execs]
