from __future__ import annotations

import threading
from operator import itemgetter
from typing import TypeVar

from kubectl_istio_udp.controller.queue import WorkQueue
from kubectl_istio_udp.kube.watch import Backoff
from kubectl_istio_udp.model.errors import Busy

Given = TypeVar("Given", str, tuple[str, int])


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def opened() -> tuple[WorkQueue[str], Clock]:
    clock = Clock()
    queue: WorkQueue[str] = WorkQueue(clock)
    queue.open()
    return queue, clock


def given(queue: WorkQueue[Given]) -> Given:
    """The key that is given next."""
    taken = queue.take(0)
    assert taken is not None
    return taken[0]


def test_a_key_added_often_is_given_once_and_in_order() -> None:
    queue, clock = opened()
    queue.add("a")
    clock.now += 1
    queue.add("b")
    queue.add("a")
    assert len(queue) == 2
    assert queue.take(0) == ("a", 100.0)
    assert queue.take(0) == ("b", 101.0)
    assert queue.take(0) is None


def test_a_key_is_not_given_to_two_workers_and_again_afterwards() -> None:
    queue, clock = opened()
    queue.add("a")
    assert queue.take(0) == ("a", 100.0)
    clock.now += 1
    queue.add("a")
    clock.now += 1
    queue.add("a")
    assert queue.take(0) is None
    queue.done("a")
    assert queue.take(0) == ("a", 101.0)
    queue.done("a")
    assert queue.take(0) is None


def test_of_two_delays_the_shorter_counts() -> None:
    queue, clock = opened()
    queue.add_later("a", 5)
    queue.add_later("a", 2)
    queue.add_later("a", 9)
    assert queue.take(0) is None
    clock.now += 2
    assert queue.take(0) == ("a", 102.0)
    queue.done("a")
    clock.now += 10
    assert queue.take(0) is None


def test_a_key_whose_delay_ends_is_told_from_one_that_was_added() -> None:
    clock, ended = Clock(), list[str]()
    queue: WorkQueue[str] = WorkQueue(clock, due=ended.append)
    queue.open()
    queue.add_later("a", 2)
    queue.add("a")
    assert queue.take(0) == ("a", 100.0) and not ended
    clock.now += 2
    assert queue.take(0) is None and ended == ["a"]
    queue.done("a")
    assert queue.take(0) == ("a", 102.0) and ended == ["a"]


def test_the_back_off_grows_until_a_success() -> None:
    queue, _ = opened()
    waits = [queue.failed("a") for _ in range(12)]
    assert 0.05 <= waits[0] <= 0.1 and 7.5 <= waits[-1] <= 15
    queue.succeeded("a")
    assert queue.failed("a") <= 0.1
    assert queue.failed("b") <= 0.1


def test_retry_after_is_bounded() -> None:
    busy = Busy("later")
    busy.retry_after = 3.0
    assert Backoff().seconds(busy) >= 3.0
    busy.retry_after = 3600.0
    assert Backoff().seconds(busy) <= 5.0


def test_a_closed_queue_gives_nothing_and_drops_its_keys() -> None:
    queue, clock = opened()
    queue.add("a")
    queue.add("w")
    assert given(queue) == "a"
    queue.add("a")
    queue.add_later("b", 1)
    queue.close()
    queue.done("a")
    clock.now += 2
    assert queue.take(0) is None
    queue.open()
    # Keys from before are dropped.
    assert queue.take(0) is None
    queue.add("w")
    assert given(queue) == "w"


def test_an_ended_queue_releases_waiting_workers() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.open()
    taken: list[object] = []
    worker = threading.Thread(target=lambda: taken.append(queue.take(60)))
    worker.start()
    queue.end()
    worker.join(5)
    assert taken == [None]


def test_groups_take_turns() -> None:
    queue: WorkQueue[tuple[str, int]] = WorkQueue(Clock(), group=itemgetter(0), at_once=2)
    queue.open()
    for number in range(1000):
        queue.add(("loud", number))
    queue.add(("quiet", 0))
    taken = [given(queue) for _ in range(3)]
    assert taken == [("loud", 0), ("quiet", 0), ("loud", 1)]
    # No group has all workers.
    assert queue.take(0) is None
    queue.add(("third", 0))
    assert given(queue) == ("third", 0)
    queue.done(("loud", 0))
    assert given(queue) == ("loud", 2)


def test_a_key_added_repeatedly_waits_for_its_turn() -> None:
    queue: WorkQueue[tuple[str, int]] = WorkQueue(Clock(), group=itemgetter(0))
    queue.open()
    queue.add(("loud", 0))
    queue.add(("quiet", 0))
    assert given(queue) == ("loud", 0)
    queue.add(("loud", 0))
    queue.done(("loud", 0))
    assert queue.pending(("loud", 0)) and not queue.pending(("other", 0))
    assert given(queue) == ("quiet", 0)


def test_a_key_stays_in_its_group_until_it_is_done() -> None:
    groups = {"a": "one"}
    queue: WorkQueue[str] = WorkQueue(Clock(), group=lambda key: groups[key])
    queue.open()
    queue.add("a")
    groups["a"] = "two"
    queue.add("a")
    assert len(queue) == 1 and given(queue) == "a"
    queue.add("a")
    queue.done("a")
    assert queue.pending("a") and given(queue) == "a"
    queue.done("a")
    assert not queue.pending("a") and queue.take(0) is None
