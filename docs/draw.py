"""Draw docs/rooms.svg: the rooms, who may import whom, and the way of the data through them.

The rooms and their order come from import-linter's contracts in setup.cfg, their purpose and the
way of `expose` from docs/rooms.md.

python docs/draw.py          write the picture
python docs/draw.py --check  exit 1 if it has drifted
"""

from __future__ import annotations

import configparser
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "rooms.svg"
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
    line = f'x1="{left:.1f}" y1="{height:.1f}" x2="{right - 2:.1f}" y2="{height:.1f}"'
    return f'<line {line} stroke="#445" stroke-width="1.5" marker-end="url(#end)"/>'


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
</style>
<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" \
orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#445"/></marker></defs>
<rect width="100%" height="100%" fill="white"/>
{body}
</svg>
"""


def picture() -> str:
    """The picture as it should be now."""
    page = (ROOT / "docs" / "rooms.md").read_text()
    rooms = Rooms.read((ROOT / "setup.cfg").read_text())
    return draw(rooms, purposes(page), way(page))


def main() -> int:
    """Write or check; 1 if the picture has drifted."""
    wanted = picture()
    if "--check" in sys.argv:
        same = PICTURE.exists() and PICTURE.read_text() == wanted
        if not same:
            print(f"{PICTURE.relative_to(ROOT)} has drifted: python docs/draw.py")
        return 0 if same else 1
    PICTURE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
