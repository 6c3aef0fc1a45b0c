"""What is offered when Tab is pressed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kubectl_istio_udp.cli.completion import complete
from kubectl_istio_udp.cli.main import VERBS


def values(*words: str) -> list[str]:
    *lines, directive = complete(words)
    assert directive == ":4"
    return [line.partition("\t")[0] for line in lines]


def test_verbs_have_descriptions() -> None:
    assert values("") == list(VERBS)
    assert complete(["ver"])[0].startswith("verify\t")
    assert complete([]) == complete([""])


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["dir"], "direct"),
        (["direct", "q"], "query"),
        (["expose", "--gatew"], "--gateway"),
        (["expose", "coredns", "--dry-run", "s"], "server"),
        (["get", "-o", "js"], "json"),
    ],
)
def test_completes(words: list[str], value: str) -> None:
    assert value in values(*words)


@pytest.mark.parametrize("words", [["nonsense", ""], ["expose", "--nonsense", ""]])
def test_a_wrong_line_has_no_completion_and_no_error(words: list[str]) -> None:
    assert complete(words)[-1] == ":4"


def test_completion_is_a_separate_command() -> None:
    code = "from kubectl_istio_udp.cli.completion import main; main()"
    words = [sys.executable, "-c", code, "ver"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].startswith("verify\t")
    assert done.stdout.splitlines()[-1] == ":4"
