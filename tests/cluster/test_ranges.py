"""Ranges of ports, as media servers have them."""

from __future__ import annotations

import json
import time

from conftest import Space, dns_server

FIRST, COUNT = 20_000, 32


def test_a_range_is_exposed_verified_and_deleted(space: Space) -> None:
    ports = tuple(range(FIRST, FIRST + COUNT))
    space.apply(*dns_server("media", ports=ports))
    begun = time.monotonic()
    wanted = f"{FIRST}-{ports[-1]}"
    told = space.expose("media", "-p", wanted, "--max-sessions", "20").out
    exposed = time.monotonic() - begun
    assert f"clients reach media:{wanted} at" in told and f"media:{FIRST} " not in told
    assert exposed < 30
    assert f"{wanted}:{wanted}/UDP" in space.plugin("get", "media").out

    verified = space.plugin("verify", "media", "--tool-pod", space.tool, "-o", "json")
    assert verified.code == 0, verified.both
    (shown,) = json.loads(verified.out)
    hops = [row for row in shown["probes"] if row["answered"]]
    assert {int(row["target"].rpartition(":")[2]) for row in hops} >= set(ports)
    print(f"{COUNT} ports: exposed in {exposed:.1f} s, {len(hops)} hops verified")

    deleted = space.plugin("delete", "media")
    assert deleted.code == 0, deleted.both
