"""Shares of clients, as an annotation stores them."""

from __future__ import annotations

import pytest

from kubectl_istio_udp.model.ports import Backend, ExposedPort
from kubectl_istio_udp.model.shares import MOST_SHARES, Share, read_shares, write_shares

BACKENDS = tuple(Backend(53, service=("team", name)) for name in "ab")


def test_the_text_is_read_again() -> None:
    shares = (Share(9, 1), Share(8, None), Share(0, 0))
    assert write_shares(shares) == "9:1 8 0:0"
    assert read_shares("9:1 8 0:0") == shares


@pytest.mark.parametrize(
    "text", [None, "", 5, "0:0 ", "x", "0:-1", "-1:0", "0:0:0", "0:٣", "9" * 9, "0 " * 999]
)
def test_other_texts_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_shares(text)


@pytest.mark.parametrize(
    "shares",
    [
        (Share(1, 0),),
        (Share(0, 2),),
        (Share(5, 0), Share(5, 1), Share(0, 0)),
        (Share(0, 0), Share(5, 1)),
        (Share(2**24, 0), Share(0, 1)),
        tuple(Share(number, 0) for number in range(MOST_SHARES, -1, -1)),
    ],
)
def test_shares_that_do_not_divide_the_clients_are_refused(shares: tuple[Share, ...]) -> None:
    with pytest.raises(ValueError, match="do not divide"):
        ExposedPort(5300, 5300, BACKENDS, shares=shares)
