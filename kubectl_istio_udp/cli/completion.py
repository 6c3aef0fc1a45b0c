"""Shell completion: what kubectl runs as `kubectl_complete-istio_udp` when Tab is pressed.

kubectl asks with the words after the plugin's name, the last of them unfinished, and reads lines of
`value<TAB>description` and at the end a directive, as Cobra's completion prints them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from click.shell_completion import ShellComplete

from kubectl_istio_udp.cli.main import cli

# Cobra's ShellCompDirectiveNoFileComp: the shell is not to offer files of its own; Default: it is.
_NO_FILES, _FILES = ":4", ":0"


def complete(words: Sequence[str]) -> list[str]:
    """The lines for an unfinished command line.

    Args:
        words: those after the plugin's name; the last one is to be completed, and may be "".
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
    """Complete the process's own words."""
    print("\n".join(complete(sys.argv[1:])))
