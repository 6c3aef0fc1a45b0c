"""Writes an OCI layout with the suite's echo server: image.py LAYOUT PROGRAM."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "cluster" / "ground"))

from images import LAYER, Layout, layer_of

layout = Layout(Path(sys.argv[1]))
program = Path(sys.argv[2])
files = layout.put(layer_of({program.name: program}), LAYER)
layout.image(program.name, [files], Entrypoint=[f"/{program.name}"])
layout.close()
