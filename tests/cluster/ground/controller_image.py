"""Writes the controller's image as an OCI layout: LAYOUT BASE_TAR PACKAGES ROOT.

What packaging/Dockerfile makes, without a Docker: the same program, as the same user, by the same
words; below it the cluster's own Debian in place of python:3-slim. Three layers, so that an edit of
the source makes a small one anew.
"""

import sys
from pathlib import Path

from images import LAYER, PATH, Layout, layer_of

HOME = "opt/kubectl-istio-udp"
PROGRAM = "import sys; from kubectl_istio_udp.cli.main import main; main(sys.argv[1:])"


def tree(folder: Path, below: str) -> dict[str, Path]:
    """A folder's files, by their place in the image."""
    return {
        f"{below}/{path.relative_to(folder)}": path
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def main(folder: str, base_tar: str, packages: str, root: str) -> None:
    layout = Layout(Path(folder))
    source = Path(root) / "kubectl_istio_udp"
    layers = [
        layout.put(Path(base_tar).read_bytes(), LAYER),
        layout.put(layer_of(tree(Path(packages), HOME)), LAYER),
        layout.put(layer_of(tree(source, f"{HOME}/kubectl_istio_udp")), LAYER),
    ]
    layout.image(
        "controller",
        layers,
        Env=[PATH, f"PYTHONPATH=/{HOME}", "PYTHONDONTWRITEBYTECODE=1"],
        Entrypoint=["/usr/bin/python3", "-c", PROGRAM],
        Cmd=["controller", "run"],
        User="65532:65532",
    )
    layout.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
