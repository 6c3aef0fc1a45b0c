"""Draw docs/rooms.svg and docs/gateway-api.svg.

rooms.svg: the rooms, who may import whom, and the way of the data through them. The rooms and their
order come from import-linter's contracts in setup.cfg, their purpose and the way of `expose` from
docs/rooms.md.

gateway-api.svg: a Gateway, its UDPRoute and the way of a datagram, from the example in
docs/gateway-api.md.

python docs/draw.py          write the pictures
python docs/draw.py --check  exit 1 if one has drifted
"""

from __future__ import annotations

import configparser
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "kubectl_istio_udp"

WIDTH, MARGIN, GAP = 960, 20, 14
ROW, BOX = 64, 46
SIDE = 200
STEPS_IN_A_ROW = 4
PURE, OTHER = "#e6f2e6", "#e8edf7"


@dataclass(frozen=True)
class Rooms:
    """What the contracts say.

    Attributes:
        layers: rows of rooms, the highest first; a room may import those of lower rows.
        beside: rooms that no row has, the highest first.
        pure: rooms that may not reach into the cluster.
    """

    layers: tuple[tuple[str, ...], ...]
    beside: tuple[str, ...]
    pure: frozenset[str]

    @classmethod
    def read(cls, setup_cfg: str) -> Rooms:
        """Read the contracts.

        Args:
            setup_cfg: the text of setup.cfg.
        """
        config = configparser.ConfigParser()
        config.read_string(setup_cfg)
        rows = config["importlinter:contract:layers"]["layers"].split("\n")
        layers = tuple(tuple(re.findall(r"\w+", row)) for row in rows if row.strip())
        forbidden = {
            name: _forbidden(config, name)
            for name in ("kube",)
            if f"importlinter:contract:{name}" in config
        }
        # A room is above another one that may not import it.
        beside = tuple(sorted(forbidden, key=lambda n: sum(n in f for f in forbidden.values())))
        pure = _modules(config["importlinter:contract:pure"]["source_modules"])
        return cls(layers, tuple(reversed(beside)), pure)


def _forbidden(config: configparser.ConfigParser, name: str) -> frozenset[str]:
    return _modules(config[f"importlinter:contract:{name}"]["forbidden_modules"])


def _modules(text: str) -> frozenset[str]:
    return frozenset(re.findall(rf"{PACKAGE}\.(\w+)$", text, re.MULTILINE))


def purposes(page: str) -> Mapping[str, str]:
    """Room -> what happens there, from the table of docs/rooms.md."""
    return dict(re.findall(r"^\| `(\w+)/` \| ([^|]+) \|", page, re.MULTILINE))


def way(page: str) -> tuple[str, ...]:
    """The files that `expose` goes through, from docs/rooms.md."""
    found = re.search(r"`expose`, from\s+file\s+to\s+file:\s+((?:`[^`]+`(?:\s*->\s*)?)+)", page)
    return tuple(re.findall(r"`([^`]+)`", found[1])) if found else ()


def draw(rooms: Rooms, purpose: Mapping[str, str], steps: Sequence[str]) -> str:
    """The picture as SVG."""
    parts = [
        _text(MARGIN, 34, "Rooms: each may import the ones below it", "title"),
        *_layers(rooms, purpose),
    ]
    top = 60 + len(rooms.layers) * ROW + 34
    parts.append(_text(MARGIN, top, "The way of the data in expose", "title"))
    parts += _steps(rooms, steps, top + 18)
    rows = -(-len(steps) // STEPS_IN_A_ROW)
    return _document("\n".join(parts), top + 18 + rows * ROW + MARGIN)


def _layers(rooms: Rooms, purpose: Mapping[str, str]) -> list[str]:
    parts = []
    inner = WIDTH - 2 * MARGIN - SIDE - GAP
    for number, row in enumerate(rooms.layers):
        width = (inner - GAP * (len(row) - 1)) / len(row)
        for place, room in enumerate(row):
            left = MARGIN + place * (width + GAP)
            parts.append(_box(rooms, left, 60 + number * ROW, width, room, purpose.get(room, "")))
    # Beside the rows, just above the last one: everything but the model may stand on them.
    first = len(rooms.layers) - 1 - len(rooms.beside)
    for number, room in enumerate(rooms.beside, first):
        left = WIDTH - MARGIN - SIDE
        parts.append(_box(rooms, left, 60 + number * ROW, SIDE, room, purpose.get(room, "")))
    legend = WIDTH - MARGIN - SIDE
    parts.append(_swatch(legend, 60, PURE, "pure: no I/O"))
    parts.append(_swatch(legend, 86, OTHER, "reads, writes or prints"))
    return parts


def _steps(rooms: Rooms, steps: Sequence[str], top: float) -> list[str]:
    parts = []
    width = (WIDTH - 2 * MARGIN - 2 * GAP * (STEPS_IN_A_ROW - 1)) / STEPS_IN_A_ROW
    for number, step in enumerate(steps):
        row, place = divmod(number, STEPS_IN_A_ROW)
        left, high = MARGIN + place * (width + 2 * GAP), top + row * ROW
        room = step.partition("/")[0]
        parts.append(_rectangle(left, high, width, PURE if room in rooms.pure else OTHER))
        parts.append(_text(left + width / 2, high + BOX / 2 + 5, f"{number + 1}. {step}", "step"))
        if place and number:
            parts.append(_arrow(left - 2 * GAP, left, high + BOX / 2))
    return parts


def _box(rooms: Rooms, left: float, top: float, width: float, room: str, purpose: str) -> str:
    fill = PURE if room in rooms.pure else OTHER
    name = _text(left + width / 2, top + BOX / 2 + 6, f"{room}/", "room")
    title = f"<title>{escape(purpose)}</title>"
    return f"<g>{title}{_rectangle(left, top, width, fill)}{name}</g>"


def _rectangle(left: float, top: float, width: float, fill: str) -> str:
    place = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{BOX}"'
    return f'<rect {place} rx="6" fill="{fill}" stroke="#8895a7"/>'


def _swatch(left: float, top: float, fill: str, text: str) -> str:
    box = f'<rect x="{left}" y="{top}" width="16" height="16" fill="{fill}" stroke="#8895a7"/>'
    return box + _text(left + 24, top + 13, text, "note")


def _text(left: float, top: float, text: str, style: str) -> str:
    return f'<text x="{left:.1f}" y="{top:.1f}" class="{style}">{escape(text)}</text>'


def _arrow(left: float, right: float, height: float) -> str:
    return _line_to(left, height, right - 2, height)


def _document(body: str, height: float) -> str:
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img">
<!-- Written by docs/draw.py. -->
<style>
text {{ font-family: sans-serif; fill: #223; }}
.title {{ font-size: 17px; font-weight: bold; }}
.room {{ font-size: 16px; text-anchor: middle; }}
.step {{ font-size: 13px; text-anchor: middle; }}
.note {{ font-size: 13px; }}
.small {{ font-size: 12px; text-anchor: middle; fill: #556; }}
</style>
<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" \
orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#445"/></marker></defs>
<rect width="100%" height="100%" fill="white"/>
{body}
</svg>
"""


def example(page: str) -> Mapping[str, Any]:
    """The manifests of the first example on docs/gateway-api.md, by kind."""
    found = re.search(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert found, "docs/gateway-api.md has no example"
    return {each["kind"]: each for each in yaml.safe_load_all(found[1])}


def draw_class(manifests: Mapping[str, Any]) -> str:
    """The picture of a Gateway with one listener, and its UDPRoute, as SVG."""
    gateway, route = manifests["Gateway"], manifests["UDPRoute"]
    (listener,) = gateway["spec"]["listeners"]
    (rule,) = route["spec"]["rules"]
    target = gateway["metadata"]["annotations"]["kubectl-istio-udp/gateway"]
    port = f"{listener['port']}/{listener['protocol']}"
    backends = rule["backendRefs"]
    total = sum(each["weight"] for each in backends)
    columns, (narrow, wide) = (MARGIN, 220, 450, 720), (170, 220)
    top, way_top = 60.0, 60.0 + 2.4 * ROW
    parts = [
        _text(MARGIN, 34, "What the controller makes of a Gateway and a UDPRoute", "title"),
        _labelled(columns[0], top, narrow, f"Gateway {_name(gateway)}", f"listener {port}", PURE),
        _labelled(columns[1], top, narrow, f"UDPRoute {_name(route)}", "weights", PURE),
        _line_to(columns[1], top + BOX / 2, columns[0] + narrow + 2, top + BOX / 2),
        _arrow(columns[1] + narrow, columns[2], top + BOX / 2),
        _labelled(columns[2], top, wide, "controller", "reads them, writes conditions", OTHER),
        _line_to(columns[2] + wide / 2, top + BOX, columns[2] + wide / 2, way_top - 2),
        _text(columns[2] + wide / 2 + 10, top + 1.55 * ROW, "EnvoyFilter, ServiceEntry,", "note"),
        _text(columns[2] + wide / 2 + 10, top + 1.8 * ROW, "Service", "note"),
        _text(MARGIN, way_top - 14, "The way of a datagram", "title"),
        _labelled(columns[0], way_top, narrow, "client", "any port", OTHER),
        _arrow(columns[0] + narrow, columns[1], way_top + BOX / 2),
        _labelled(columns[1], way_top, narrow, "Service", f"address, port {port}", OTHER),
        _arrow(columns[1] + narrow, columns[2], way_top + BOX / 2),
        _labelled(columns[2], way_top, wide, target, "Envoy: listener, clusters", OTHER),
    ]
    for number, backend in enumerate(backends):
        high = way_top + number * ROW
        share = f"{100 * backend['weight'] // total}% of the clients"
        name = f"{backend['name']}:{backend['port']}"
        parts.append(_labelled(columns[3], high, wide, name, share, OTHER))
        parts.append(_line_to(columns[2] + wide, way_top + BOX / 2, columns[3] - 2, high + BOX / 2))
    return _document("\n".join(parts), way_top + len(backends) * ROW + MARGIN)


def _name(manifest: Mapping[str, Any]) -> str:
    return f"{manifest['metadata']['namespace']}/{manifest['metadata']['name']}"


def _labelled(left: float, top: float, width: float, name: str, about: str, fill: str) -> str:
    """A box with a name, and smaller what is said of it."""
    middle = left + width / 2
    return "".join(
        [
            _rectangle(left, top, width, fill),
            _text(middle, top + 19, name, "step"),
            _text(middle, top + 37, about, "small"),
        ]
    )


def _line_to(left: float, top: float, right: float, bottom: float) -> str:
    """An arrow from one point to another."""
    line = f'x1="{left:.1f}" y1="{top:.1f}" x2="{right:.1f}" y2="{bottom:.1f}"'
    return f'<line {line} stroke="#445" stroke-width="1.5" marker-end="url(#end)"/>'


def pictures() -> Mapping[Path, str]:
    """The pictures as they should be now."""
    docs = ROOT / "docs"
    page = (docs / "rooms.md").read_text()
    rooms = Rooms.read((ROOT / "setup.cfg").read_text())
    of_class = example((docs / "gateway-api.md").read_text())
    return {
        docs / "rooms.svg": draw(rooms, purposes(page), way(page)),
        docs / "gateway-api.svg": draw_class(of_class),
    }


def main() -> int:
    """Write or check; 1 if a picture has drifted."""
    drifted = [
        path
        for path, wanted in pictures().items()
        if not path.exists() or path.read_text() != wanted
    ]
    for path in drifted:
        if "--check" in sys.argv:
            print(f"{path.relative_to(ROOT)} has drifted: python docs/draw.py")
        else:
            path.write_text(pictures()[path])
    return 1 if drifted and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
