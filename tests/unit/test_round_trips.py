"""How many requests each command makes: docs/measurements.md states these numbers."""

from __future__ import annotations

import pytest

EXPOSE = ("expose", "coredns", "-p", "5300:53", "--no-wait", "--validate", "none")


@pytest.mark.parametrize(
    ("words", "requests", "execs"),
    [
        (("get", "-A"), 14, 0),
        (("get", "coredns"), 10, 0),
        (EXPOSE, 25, 3),
        (("verify", "coredns"), 9, 7),
        (("delete", "coredns"), 10, 1),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else None,
)
def test_a_command_makes_so_many_requests(run, server, fakes, words, requests, execs):
    assert run(*EXPOSE).code == 0
    server.requests.clear()
    assert run(*words).code == 0
    sent = [str(request) for request in server.requests]
    executed = [request for request in sent if request.endswith("/exec")]
    assert (len(sent) - len(executed), len(executed)) == (requests, execs), "\n".join(sent)
