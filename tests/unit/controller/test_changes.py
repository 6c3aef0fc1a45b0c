"""What has changed about a queued exposure."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kubectl_istio_udp.controller.changes import Changes

KEY, OTHER, SERVICES = ("team", "a"), ("team", "b"), [("apps", "x"), ("apps", "y")]


@given(st.lists(st.sampled_from([None, *SERVICES])), st.lists(st.sampled_from([None, *SERVICES])))
def test_only_endpoints_changed_if_nothing_else_was_reported(
    changes: list[tuple[str, str] | None], of_another: list[tuple[str, str] | None]
) -> None:
    found = Changes()
    for key, reported in ((KEY, changes), (OTHER, of_another)):
        for service in reported:
            if service is None:
                found.anything(key)
            else:
                found.endpoints(key, service)
    whole = not changes or None in changes
    assert found.take(KEY) == (None if whole else set(changes))
    # A key that was queued without a change, e.g. by a timer, is reconciled as a whole.
    assert found.take(KEY) is None
