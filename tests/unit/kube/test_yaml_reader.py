"""YAML errors have the place and no part of the text, with and without libyaml."""

from __future__ import annotations

import pytest
import yaml

from kubectl_istio_udp.kube.yaml_reader import decoded, text_of

INVALID = [
    "*s3cret", "!!int s3cret", "!!float s3cret", "!!bool s3cret", "!!null s3cret",
    "!!binary s3cret*", "!s3cret!x t", "s3cret: x", '"s3cret\\q"', "'s3cret", "@s3cret",
    "[s3cret", "{s3cret", "&s3cret &s3cret x", "%s3cret", "|s3cret", "!<s3cret", "s3cret\0",
    "!!map s3cret", "!!seq s3cret",
]  # fmt: skip


@pytest.fixture(params=["libyaml", "pure Python"])
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "pure Python":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize("value", INVALID)
def test_an_error_contains_nothing_of_the_text(value: str) -> None:
    with pytest.raises(ValueError, match=r"^(line \d+: |it is not valid YAML$)") as caught:
        decoded(f"a: 1\npassword: {value}\n")
    assert "s3" not in str(caught.value) and "cret" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.usefixtures("loader")
def test_values_are_those_of_go() -> None:
    text = "[0x1F, 017, 089, 1_0, -0b11, 1e3, .5, y, off, ~, 1:30, !x 5, !x [a], !!set {b}, {7: c}]"
    assert decoded(text) == [
        31, 15, 89.0, 10, -3, 1000.0, 0.5, True, False, None, "1:30", "5", ["a"], {"b": None},
        {"7": "c"},
    ]  # fmt: skip
    assert decoded("") is None


def test_text_is_utf_8_or_utf_16() -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert text_of("ä".encode(encoding)) == "ä"
    with pytest.raises(ValueError, match="it is not UTF-8 text"):
        text_of(b"s3cret\xff")
