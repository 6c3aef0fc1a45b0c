"""Run a command in a configuration of kubeconfig_cases.py, and return its requests."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.kubeconfig_cases import GZIP, Case
from tests.support.recording import Recorders


def place(case: Case, found: Recorders, folder: Path) -> tuple[dict[str, str], list[str]]:
    """Write a case's files; the environment and flags to run a command with."""
    values = _values(found, folder)
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else _yaml(_without_none(content))
        path.write_text(_filled(text, values), encoding=case.encoding)
        if text.startswith("#!"):
            path.chmod(0o755)
    for name, target in case.links.items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(target)
    # KUBECTL_* is that of kubectl's own tests.
    kept = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    environment = {"KUBECONFIG": "$DIR/config", **case.env}
    if case.pod:
        kept |= {"KUBERNETES_SERVICE_HOST": "127.0.0.1"}
        kept |= {"KUBERNETES_SERVICE_PORT": str(found.ports["tls"])}
    values["PATH"] = kept["PATH"]
    return (
        {**kept, **{name: _filled(text, values) for name, text in environment.items()}},
        [_filled(flag, values) for flag in case.flags],
    )


def _yaml(content: Any) -> str:
    """Use libyaml if it is available: pure Python takes a third of each test's time."""
    return str(yaml.dump(content, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))


def _values(found: Recorders, folder: Path) -> dict[str, str]:
    """The values of `$NAME`s, by name."""
    values = {"DIR": str(folder), **found.urls}
    values |= {f"PORT_{name}": str(port) for name, port in found.ports.items()}
    for name, path in found.files.items():
        text = path.read_text(encoding="utf-8")
        values |= {
            f"FILE_{name}": str(path),
            f"DATA_{name}": found.data[name],
            f"PEM_{name}": text,
            # In a here document, a shell makes a newline of neither.
            f"JSON_{name}": json.dumps(text)[1:-1].replace("\\", "\\\\"),
        }
    return values


def filled(text: str, found: Recorders, folder: Path) -> str:
    """A text of a case with the values of its `$NAME`s."""
    return _filled(text, _values(found, folder))


def _without_none(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {k: _without_none(v) for k, v in content.items() if v is not None}
    if isinstance(content, list):
        return [_without_none(each) for each in content]
    return content


def _filled(text: str, values: Mapping[str, str]) -> str:
    # The longest names first: $PORT_tls is part of $PORT_tlsproxy.
    for name in sorted(values, key=len, reverse=True):
        text = text.replace(f"${name}", values[name])
    return text


def expected(case: Case) -> dict[str, Any]:
    """The requests that the recorders must see; {} for none."""
    if not case.server:
        return {}
    return {
        "server": case.server,
        "prefix": case.prefix,
        "headers": (*([GZIP] if case.gzip else []), *case.headers),
        "certificate": case.certificate,
        "name": case.sni,
        "proxied": case.proxied,
    }


def observed(found: Recorders) -> dict[str, Any]:
    """The requests that they received; several requests must be equal."""
    if not found.seen:
        return {}
    kinds = {
        (s.server, s.prefix, tuple(sorted(_plain(s.headers))), s.certificate, s.name)
        for s in found.seen
    }
    assert len(kinds) == 1, kinds
    server, prefix, headers, certificate, name = kinds.pop()
    return {
        "server": server,
        "prefix": prefix,
        "headers": headers,
        "certificate": certificate,
        "name": name,
        "proxied": found.proxied[-1] if found.proxied else "",
    }


def _plain(headers: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    """The headers without a ban on compression."""
    return [
        (name, value) for name, value in headers if (name, value) != ("accept-encoding", "identity")
    ]
