"""kubectl's ways to write flags that click does not know: `-o=json`, `-n team get`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import click

# The words that Go's strconv.ParseBool accepts.
_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))

_LONGEST_SENTENCE = 200


class Command(click.Command):
    """A command whose flags can be written as kubectl's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments after rewriting flags for click."""
        return super().parse_args(ctx, list(_rewritten(args, self.get_params(ctx))))

    def get_short_help_str(self, limit: int = 45) -> str:
        """The first sentence of the help, also if it is longer than click's limit."""
        return super().get_short_help_str(max(limit, _LONGEST_SENTENCE))


class Group(click.Group):
    """A group whose command may follow the flags that all commands with a cluster share."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments in the order that click requires."""
        return super().parse_args(ctx, self.arranged(ctx, args))

    def arranged(self, ctx: click.Context, args: list[str]) -> list[str]:  # noqa: ARG002 - of `direct`
        """The arguments with such flags behind the command."""
        return _behind_command(args)


def _behind_command(words: list[str]) -> list[str]:
    """`get -n team` for `-n team get`; the same words if they begin with something else."""
    if not words or not words[0].startswith("-"):
        return words
    # Imported here because few command lines begin with a flag.
    from kubectl_istio_udp.cli.options import connection_flags

    options = _by_name(connection_flags())
    place = 0
    while place < len(words) and words[place].startswith("-"):
        word = words[place]
        name, equals, _ = word.partition("=")
        if name in options:
            place += 1 if equals or options[name].is_flag else 2
        elif word[:2] in options and not options[word[:2]].is_flag:
            place += 1
        else:
            return words
    return [*words[place : place + 1], *words[:place], *words[place + 1 :]]


def _by_name(params: Iterable[click.Parameter]) -> dict[str, click.Option]:
    return {
        name: param
        for param in params
        if isinstance(param, click.Option)
        for name in (*param.opts, *param.secondary_opts)
    }


def _rewritten(words: Iterable[str], params: Iterable[click.Parameter]) -> Iterator[str]:
    """The words with `-o=json` as `-o json`, `--all=true` as `--all`, and without `--all=false`.

    The values of other options, and words after `--`, stay as they are.
    """
    options = _by_name(params)
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        option = options.get(name)
        if word == "--":
            yield from (word, *rest)
        elif option is None:
            yield word
        elif not equals:
            yield word
            if not option.is_flag:
                yield from islice(rest, 1)
        elif option.is_flag:
            yield from _switch(option, name, value, word)
        elif name.startswith("--"):
            yield word
        else:
            yield from (name, value)


def _switch(option: click.Option, name: str, value: str, word: str) -> Iterator[str]:
    """A boolean flag with a value; a value that is not a boolean stays, and click rejects it."""
    if value not in _TRUE | _FALSE:
        yield word
    elif (value in _TRUE) == (name in option.opts):
        yield option.opts[0]
    else:
        # Flags without an opposite are off unless they are named.
        yield from option.secondary_opts[:1]
