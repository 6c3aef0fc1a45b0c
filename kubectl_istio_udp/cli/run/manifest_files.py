"""Read manifests from files, and find the line of every field."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kubectl_istio_udp.model.errors import UsageError

_SUFFIXES = (".yaml", ".yml", ".json")
STDIN = "-"


class _Loader(yaml.SafeLoader):
    """YAML as the API server reads it: dates stay strings."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


@dataclass(frozen=True)
class Place:
    """A position in a file; line and column start at 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        """`FILE:LINE:COLUMN`, as compilers print it."""
        return f"{self.file}:{self.line}:{self.column}"


class Unreadable(Exception):
    """A file that is not YAML, or a document that is not a manifest, with the position."""

    def __init__(self, place: Place, why: str) -> None:
        """Take the position and the reason."""
        super().__init__(f"{place}: {why}")
        self.place, self.why = place, why


@dataclass(frozen=True)
class Document:
    """One manifest from a file.

    Attributes:
        file: the file's name, as given on the command line.
        data: the manifest.
        node: the manifest's YAML node, which has the lines.
    """

    file: str
    data: Mapping[str, Any]
    node: yaml.Node

    def place(self, path: Sequence[str | int]) -> Place:
        """The position of a field; if it does not exist, that of its closest parent."""
        node, mark = self.node, self.node.start_mark
        for part in path:
            found = _child(node, part)
            if found is None:
                break
            mark, node = found
        return Place(self.file, mark.line + 1, mark.column + 1)


def _child(node: yaml.Node, part: str | int) -> tuple[yaml.Mark, yaml.Node] | None:
    """A child of a node and its position: that of a field's name, or of a list entry."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if str(key.value) == str(part):
                return key.start_mark, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark, node.value[part]
    return None


def shown_name(file: str) -> str:
    """The name of a file in messages."""
    return "(standard input)" if file == STDIN else file


def read_documents(filenames: Sequence[str]) -> Iterator[Document | Unreadable]:
    """Read the manifests of all files, in order; the items of a List separately.

    An unreadable file gives an Unreadable, and reading continues with the next one.

    Args:
        filenames: the values of -f: files, directories, or `-`.

    Raises:
        UsageError: a file does not exist or may not be read.
    """
    for name in filenames:
        for file in _files(name):
            yield from _read(file)


def _files(name: str) -> list[str]:
    if name == STDIN or not Path(name).is_dir():
        return [name]
    found = sorted(str(path) for path in Path(name).iterdir() if path.suffix in _SUFFIXES)
    if not found:
        raise UsageError(f"-f {name}: the directory has no file *{', *'.join(_SUFFIXES)}")
    return found


def _text(file: str) -> str:
    try:
        raw = sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"-f {file}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"-f {file}: it is not text in UTF-8 ({error.reason})") from None


def _read(file: str) -> Iterator[Document | Unreadable]:
    text = _text(file)
    if text.lstrip()[:1] in ("{", "["):
        # JSON may be indented with tabs, YAML may not; JSON strings contain no raw tabs.
        text = text.replace("\t", " ")
    named = shown_name(file)
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is not None:
                yield from _documents(named, node, loader.construct_document(node))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(named, mark.line + 1, mark.column + 1) if mark else Place(named, 1, 1)
        yield Unreadable(place, f"this is not YAML: {error.problem or error.context}")
    except (yaml.YAMLError, ValueError) as error:
        yield Unreadable(Place(named, 1, 1), f"this is not YAML: {' '.join(str(error).split())}")
    except RecursionError:
        yield Unreadable(Place(named, 1, 1), "it is nested too deeply")
    finally:
        loader.dispose()


def _documents(file: str, node: yaml.Node, data: Any) -> Iterator[Document | Unreadable]:
    if data is None:
        return
    document = Document(file, data, node)
    twice = _twice(node)
    if twice is not None:
        place = Place(file, twice.start_mark.line + 1, twice.start_mark.column + 1)
        yield Unreadable(place, f"duplicate key {twice.value!r}")
        return
    if not isinstance(data, Mapping) or not isinstance(data.get("kind"), str):
        yield Unreadable(document.place(()), "this is not a Kubernetes object: it has no kind")
        return
    try:
        json.dumps(data, allow_nan=False)
    except (TypeError, ValueError):
        yield Unreadable(document.place(()), "it has values that JSON does not have")
        return
    items = data.get("items")
    if data["kind"].endswith("List") and isinstance(items, list):
        found = _child(node, "items")
        assert found is not None
        for item, below in zip(items, found[1].value, strict=True):
            yield from _documents(file, below, item)
        return
    yield document


def _twice(node: yaml.Node) -> yaml.Node | None:
    """A duplicate key of a mapping; YAML would silently use the last one."""
    parts: list[yaml.Node] = [node]
    done: set[int] = set()
    while parts:
        part = parts.pop()
        if id(part) in done:
            continue
        done.add(id(part))
        if isinstance(part, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in part.value:
                if isinstance(key.value, str) and key.value in seen and key.value != "<<":
                    return key  # type: ignore[no-any-return]
                seen.add(str(key.value))
                parts.append(value)
        elif isinstance(part, yaml.SequenceNode):
            parts += part.value
    return None
