from __future__ import annotations

import shutil
import subprocess

import pytest

from kubectl_istio_udp.kube.exec import ExecResult
from kubectl_istio_udp.verify.grouped_exec import grouped, joined, results

SHELLS = [
    [path, *applet]
    for name, *applet in (["dash"], ["bash", "--posix"], ["busybox", "sh"])
    if (path := shutil.which(name))
]
COMMANDS = [
    ["printf", "%s", "no line break at the end"],
    ["sh", "-c", "echo out; echo err >&2; echo more; exit 3"],
    ["printf", "%s!", 'it\'s "quoted" $HOME `date` \\n; & |'],
    ["no-such-program"],
    ["sh", "-c", 'sleep 0.2; echo "  late  "'],
    ["sh", "-c", "for i in 0 1 2 3 4 5 6 7 8 9; do echo $i; done; exit 0", "sh", "a\nb"],
    ["true"],
]


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_a_shell_runs_all_commands_and_their_outputs_are_separate(shell: list[str]) -> None:
    words = [*shell, *joined(COMMANDS)[1:]]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=10)
    found = results(ExecResult(done.stdout, done.stderr, 0), len(COMMANDS))
    assert found is not None
    for number in (0, 1, 2, 4, 5, 6):
        alone = subprocess.run(COMMANDS[number], capture_output=True, text=True, check=False)
        expected = ExecResult(
            alone.stdout.rstrip("\n") + "\n" if alone.stdout else "",
            alone.stderr,
            alone.returncode,
        )
        assert found[number] == expected
    assert found[3].exit_code == 127
    assert "not found" in found[3].stderr


def test_without_a_shell_no_command_was_started() -> None:
    assert results(ExecResult("", "", None, "exec: sh: executable file not found"), 2) is None


def test_commands_that_were_cut_off_have_the_error() -> None:
    cut = ExecResult("0o answer\n0x 0\n1o half\n", "", None, "timed out")
    assert results(cut, 3) == [
        ExecResult("answer\n", "", 0),
        ExecResult("half\n", "", None, "timed out"),
        ExecResult("", "", None, "timed out"),
    ]


def test_groups_are_small() -> None:
    assert [len(group) for group in grouped([["dig"]] * 20)] == [8, 8, 4]
    assert [len(group) for group in grouped([["x" * 3000], ["x" * 3000], ["y"]])] == [1, 2]
    assert list(grouped([])) == []
