"""The cache of what was read from texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_istio_udp.model.textcache import TextCache


@given(st.lists(st.text("ab", max_size=6), max_size=40))
def test_a_text_is_read_once_while_the_latest_texts_fit(texts: list[str]) -> None:
    seen: list[str] = []

    def read(text: str) -> str:
        seen.append(text)
        return text.upper()

    cache = TextCache(read, most=12)
    for number, text in enumerate(texts):
        before = list(dict.fromkeys(texts[:number][::-1]))
        since = before[: before.index(text) + 1] if text in before else None
        seen.clear()
        assert cache(text) == text.upper()
        if since is not None and sum(map(len, since)) <= 12:
            assert not seen
        assert cache._length == sum(map(len, cache._made)) <= 12


def test_a_text_that_cannot_be_read_is_read_again() -> None:
    cache = TextCache(int, most=12)
    for _ in range(2):
        with pytest.raises(ValueError, match="invalid literal"):
            cache("x")
    assert cache("7") == 7
