"""Texts that people read use the words of docs/glossary.md, and none that were given up."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Former wording -> what to write instead.
INSTEAD = {
    r"\bof ours\b|\bones of ours\b": "exposures, responses and access logs; or: of the plugin",
    r"\bgo(es)? together\b|\bgoes? with (it|a)\b": "cannot be combined with",
    r"\btaken? back\b|\btakes back\b": "undone, undo",
    r"\ball the same\b": "anyway, although",
    r"\bin place of\b": "instead of",
    r"\bthose there are\b|\bthere is nothing of\b": "this namespace has: ...; not found",
    r"\bwithout a word\b": "silently",
    r"\bprove(s|d)?\b": "verify, test",
    r"\bwish(es|ed)?\b": "request",
    r"\bsay (it|so|which)\b": "name it: --option",
    r"\bfor ever\b": "no limit",
    r"\bours?\b": "the plugin's, the controller's, the exposure's",
    r"\banew\b": "again",
    r"\bask(s|ed)? (the |an |every )?(Envoys?|gateway|proxy|proxies)\b": "query",
    r"\bwithout number\b|\bby chance\b": "any number of, random",
}


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The string literals of a module that have spaces, without docstrings.

    Docstrings of commands are help texts, so those of decorated functions in cli/ count.
    """
    tree = ast.parse(path.read_text())
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            command = isinstance(node, ast.FunctionDef) and node.decorator_list
            if ast.get_docstring(node) and not (command and "cli" in path.parts):
                skipped.add(ast.get_docstring(node, clean=False))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if " " in node.value and node.value not in skipped:
            yield node.lineno, " ".join(node.value.split())


def test_no_text_uses_an_abandoned_wording() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}\n    write instead: {better}"
        for path in sorted((ROOT / "kubectl_istio_udp").rglob("*.py"))
        for line, text in texts(path)
        for given_up, better in INSTEAD.items()
        if re.search(given_up, text)
    ]
    assert found == []
