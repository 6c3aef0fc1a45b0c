"""Write docs/commands.md from the commands' own --help, and README.md's overview with it.

python docs/generate.py          write both
python docs/generate.py --check  exit 1 where either has drifted
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from kubectl_istio_udp.cli.main import cli

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 100
BEGIN, END = "<!-- overview: begin -->\n", "<!-- overview: end -->\n"


def help_of(command: click.Command, name: str) -> str:
    """The text that `NAME --help` prints, at a fixed width."""
    context = click.Context(
        command,
        info_name=name,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        help_option_names=["-h", "--help"],
    )
    return command.get_help(context).rstrip() + "\n"


def walk(command: click.Command, name: str) -> list[tuple[str, click.Command]]:
    """A command and all below it, with the words that call each."""
    found = [(name, command)]
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=name)
        for verb in command.list_commands(context):
            below = command.get_command(context, verb)
            if below is not None:
                found += walk(below, f"{name} {verb}")
    return found


def block(text: str) -> str:
    """A code block."""
    return f"```\n{text}```\n"


def commands_page() -> str:
    """docs/commands.md."""
    parts = [
        "# Commands\n\nMade from `--help` by `python docs/generate.py`; a test keeps it true.\n"
    ]
    for name, command in walk(cli, "kubectl istio-udp"):
        parts.append(f"## {name}\n\n{block(help_of(command, name))}")
    return "\n".join(parts)


def readme_page(current: str) -> str:
    """README.md with its overview made anew."""
    before, _, rest = current.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + block(help_of(cli, "kubectl istio-udp")) + END + after


def main() -> int:
    """Write or check; 1 where a page has drifted."""
    readme = ROOT / "README.md"
    pages = {
        ROOT / "docs" / "commands.md": commands_page(),
        readme: readme_page(readme.read_text()),
    }
    drifted = [
        path for path, text in pages.items() if not path.exists() or path.read_text() != text
    ]
    if "--check" in sys.argv:
        for path in drifted:
            print(f"{path.relative_to(ROOT)} has drifted: python docs/generate.py")
        return 1 if drifted else 0
    for path in drifted:
        path.write_text(pages[path])
    return 0


if __name__ == "__main__":
    sys.exit(main())
