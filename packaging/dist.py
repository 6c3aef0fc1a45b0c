"""Build the archive that krew installs, in dist/, and enter its hash in plugin.yaml.

    python packaging/dist.py

The archive holds the wheel, the launcher and the LICENSE; the same sources give the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

from kubectl_istio_udp import __version__

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
# No file of an archive may be older than this for pip and unzip: 1980-01-01.
EPOCH = 315_532_800


def wheel() -> Path:
    """Build the wheel with a fixed time stamp."""
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(EPOCH)}
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(DIST), str(ROOT)]
    subprocess.run(command, check=True, env=environment)
    return DIST / f"kubectl_istio_udp-{__version__}-py3-none-any.whl"


def archive(files: list[Path]) -> bytes:
    """A gzipped tar that depends on names, modes and contents alone."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for file in sorted(files, key=lambda path: path.name):
            entry = tarfile.TarInfo(file.name)
            entry.size = file.stat().st_size
            entry.mtime = EPOCH
            entry.mode = 0o755 if os.access(file, os.X_OK) else 0o644
            with file.open("rb") as content:
                tar.addfile(entry, content)
    return gzip.compress(out.getvalue(), mtime=0)


def main() -> None:
    """Build the archive, and put its hash and version into plugin.yaml."""
    DIST.mkdir(exist_ok=True)
    packed = archive([wheel(), ROOT / "packaging" / "kubectl-istio_udp", ROOT / "LICENSE"])
    target = DIST / f"kubectl-istio_udp-v{__version__}.tar.gz"
    target.write_bytes(packed)
    digest = hashlib.sha256(packed).hexdigest()
    manifest = ROOT / "plugin.yaml"
    text = re.sub(r"(?m)^(\s*sha256:).*$", rf"\1 {digest}", manifest.read_text())
    text = re.sub(r"v\d+\.\d+\.\d+(?=/|\.tar|$)", f"v{__version__}", text, flags=re.MULTILINE)
    manifest.write_text(text)
    print(f"{target.relative_to(ROOT)} {digest}")


if __name__ == "__main__":
    main()
