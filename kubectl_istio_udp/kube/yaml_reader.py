"""Read YAML as kubectl does, for kubeconfigs and the output of credential plugins.

kubectl uses sigs.k8s.io/yaml: YAML 1.1 with the numbers of Go. Dates and numbers of base 60 are
text, and tags of applications are ignored. tests/cluster/test_kubectl.py compares kubectl's results
with these. Messages contain nothing of the text, because it may be a password.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import json
import math
import re
from typing import Any, ClassVar

import yaml
from yaml.constructor import ConstructorError, SafeConstructor

# Go's YAML decoder has this limit.
_DEEPEST = 10_000
_TAG = "tag:yaml.org,2002:"
_NUMBER = re.compile(
    r"""[-+]?(?: 0[bB][01_]+ | 0[oO]?[0-7_]+ | 0[xX][0-9a-fA-F_]+
    | (?: [0-9][0-9_]*(?:\.[0-9_]*)? | \.[0-9_]+ ) (?:[eE][-+]?[0-9]+)?
    | \.(?:inf|Inf|INF) | \.(?:nan|NaN|NAN) )$""",
    re.VERBOSE,
)
_BOOLEAN = re.compile(
    "(?:y|Y|yes|Yes|YES|true|True|TRUE|on|On|ON|n|N|no|No|NO|false|False|FALSE|off|Off|OFF)$"
)
_NULL = re.compile("(?:~|null|Null|NULL|)$")
# By tag: the values that are read without the tag too, and how they begin ("" is an empty value).
_RESOLVED = {
    "float": (_NUMBER, [*"-+.0123456789"]),
    "bool": (_BOOLEAN, [*"yYnNtTfFoO"]),
    "null": (_NULL, ["~", "n", "N", ""]),
    "merge": (re.compile("<<$"), ["<"]),
}
_QUOTED = re.compile("'([^']*)'")


def text_of(data: bytes) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte order mark.

    Raises:
        ValueError: it is neither.
    """
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None


def decoded(text: str) -> Any:
    """Parse the first document of JSON or YAML text; None if there is none.

    Raises:
        ValueError: it is neither JSON nor YAML.
    """
    start = text.lstrip()
    if start.startswith("{"):
        try:
            return json.JSONDecoder().raw_decode(start)[0]
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
        except ValueError:
            pass  # It may be YAML that begins with a flow mapping.
    if _may_be_deep(text) and _depth(text) > _DEEPEST:
        raise ValueError("it is nested too deeply")
    try:
        return next(iter(yaml.load_all(text, _loader())), None)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(_problem(error)) from None


def _problem(error: yaml.YAMLError) -> str:
    """What is wrong with YAML, and where; without the words of the text that it contains."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    where = f"line {mark.line + 1}: " if mark else ""
    return where + (_QUOTED.sub(_hidden, problem) if problem else "it is not valid YAML")


def _hidden(quoted: re.Match[str]) -> str:
    """Quoted punctuation, or dots for words."""
    return "'...'" if re.search(r"\w", quoted[1]) else quoted[0]


def _may_be_deep(text: str) -> bool:
    """Whether YAML has enough brackets and dashes to be nested too deeply.

    Indentation alone would need 50 MB for that.
    """
    return sum(map(text.count, "[{-?")) > _DEEPEST


def _depth(text: str) -> int:
    """The nesting depth of YAML, up to the first syntax error; at most _DEEPEST + 1.

    libyaml builds nested nodes by recursion, without a limit: the process would crash.
    """
    depth = 0
    try:
        for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > _DEEPEST:
                break
    except yaml.YAMLError:
        pass  # The loader reports it.
    return depth


def _loader() -> Any:
    """The loader's class, on top of libyaml's if that is there."""
    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc]
        """A YAML loader with kubectl's rules."""

        yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}
        yaml_constructors: ClassVar[dict[str | None, Any]] = {
            **dict.fromkeys((None, f"{_TAG}str"), _untagged),
            f"{_TAG}binary": _binary,
            f"{_TAG}map": SafeConstructor.construct_yaml_map,
            f"{_TAG}seq": SafeConstructor.construct_yaml_seq,
            **{f"{_TAG}{name}": _scalar for name in ("bool", "float", "int", "null")},
        }

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
            """The mapping, with keys as in JSON."""
            found = super().construct_mapping(node, deep)
            return {key if isinstance(key, str) else json.dumps(key): found[key] for key in found}

    for name, (pattern, begins) in _RESOLVED.items():
        Loader.add_implicit_resolver(f"{_TAG}{name}", pattern, begins)
    return Loader


def _untagged(loader: Any, node: yaml.Node) -> Any:
    """A value with a tag that is ignored; text without a tag too."""
    if isinstance(node, yaml.ScalarNode):
        return node.value
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_mapping(node, deep=True)


def _binary(loader: Any, node: yaml.ScalarNode) -> str:
    try:
        digits = "".join(loader.construct_scalar(node).split())
        return base64.b64decode(digits, validate=True).decode(errors="replace")
    except (binascii.Error, ValueError):
        raise _wrong(node, "base64") from None


def _scalar(loader: Any, node: yaml.ScalarNode) -> Any:
    """A boolean, a number or null."""
    name, text = node.tag.rpartition(":")[2], loader.construct_scalar(node)
    pattern = _NUMBER if name == "int" else _RESOLVED[name][0]
    if not pattern.match(text):
        raise _wrong(node, f"of the type {name}")
    if name == "bool":
        return text[:1] in "yYtT" or text.lower() == "on"
    if name == "null":
        return None
    return _number(node, text)


def _number(node: yaml.Node, text: str) -> int | float | str:
    """A number; text if Go's numbers cannot represent it."""
    digits = text.replace("_", "").lower()
    if digits.endswith(("inf", "nan")):
        raise _wrong(node, "a number of JSON")
    for base in (0, 8):
        try:
            return int(digits, base)
        except ValueError:
            pass
    try:
        found = float(digits)
    except ValueError:
        return text
    return text if math.isinf(found) else found


def _wrong(node: yaml.Node, what: str) -> ConstructorError:
    return ConstructorError(None, None, f"the value is not {what}", node.start_mark)
