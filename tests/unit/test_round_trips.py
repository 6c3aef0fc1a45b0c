"""How many requests each command makes: docs/measurements.md states these numbers."""

from __future__ import annotations

import pytest

from tests.unit.apiserver import ApiServer
from tests.unit.conftest import Run
from tests.unit.fakes import Fakes

EXPOSE = ("expose", "coredns", "-p", "5300:53", "--no-wait", "--validate", "none")


@pytest.mark.parametrize(
    ("words", "requests", "forwards", "execs"),
    [
        (("get", "-A"), 14, 0, 0),
        (("get", "coredns"), 10, 0, 0),
        (EXPOSE, 25, 1, 1),
        (("verify", "coredns"), 9, 1, 5),
        (("delete", "coredns"), 10, 1, 0),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else None,
)
def test_a_command_makes_so_many_requests(
    run: Run,
    server: ApiServer,
    fakes: Fakes,
    words: tuple[str, ...],
    requests: int,
    forwards: int,
    execs: int,
) -> None:
    assert run(*EXPOSE).code == 0
    server.requests.clear()
    assert run(*words).code == 0
    sent = [str(request) for request in server.requests]
    forwarded = [request for request in sent if request.endswith("/portforward")]
    executed = [request for request in sent if request.endswith("/exec")]
    others = len(sent) - len(forwarded) - len(executed)
    assert (others, len(forwarded), len(executed)) == (requests, forwards, execs), "\n".join(sent)
