"""Run calls in parallel, in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Threads of `for_each`. Most calls query one of a gateway's pods, each over a connection of its own
# with a TLS handshake. Chosen, not measured: most gateways have fewer pods.
_MANY_AT_ONCE = 8


def begun(call: Callable[[], Result]) -> Callable[[], Result]:
    """Start a call; the returned function waits for its result, or raises its error."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(call)
    pool.shutdown(wait=False)
    return future.result


def in_parallel(calls: Iterable[Callable[[], Any]]) -> list[Any]:
    """Run calls in parallel, at most eight at the same time; return their results in order.

    If several fail, the error of the first one in the order of `calls` is raised, after all have
    ended.
    """
    return for_each(lambda call: call(), calls)


def for_each(
    function: Callable[[Item], Result], items: Iterable[Item], at_once: int = _MANY_AT_ONCE
) -> list[Result]:
    """Call a function for all items in parallel; results and errors as in `in_parallel`.

    Args:
        function: what to call.
        items: its arguments.
        at_once: the most calls at the same time.
    """
    items = tuple(items)
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(max_workers=at_once) as pool:
        futures = [pool.submit(function, item) for item in items]
        return [future.result() for future in futures]
