"""Shell completion: kubectl runs it as `kubectl_complete-istio_udp` when Tab is pressed.

kubectl passes the words after the plugin's name, the last of them incomplete. It reads lines of
`value<TAB>description` and a final directive, in the format of Cobra's completion.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from click.shell_completion import ShellComplete

from kubectl_istio_udp.cli.main import cli

# Cobra's ShellCompDirectiveNoFileComp and Default: whether the shell should not, or should, offer
# files.
_NO_FILES, _FILES = ":4", ":0"


def complete(words: Sequence[str]) -> list[str]:
    """The completions of an incomplete command line, as lines.

    Args:
        words: the words after the plugin's name; the last one is completed, and may be "".
    """
    *before, unfinished = list(words) or [""]
    found = ShellComplete(cli, {}, "kubectl istio-udp", "").get_completions(before, unfinished)
    lines = [
        f"{item.value}\t{item.help}" if item.help else str(item.value)
        for item in found
        if item.type == "plain"
    ]
    wants_files = any(item.type in ("file", "dir") for item in found)
    return [*lines, _FILES if wants_files else _NO_FILES]


def main() -> None:
    """Complete the process's own arguments."""
    print("\n".join(complete(sys.argv[1:])))
