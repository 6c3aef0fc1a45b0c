"""Writes the cluster's images as one OCI layout: images.py LAYOUT BASE_TAR BIN ISTIO_BIN.

Each image is at most two layers: the Debian root file system that they share, and its own
programs. What needs no shell and no libraries gets no Debian, as upstream's image of it has none.
"""

import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOTSTRAP = "var/lib/istio/envoy/envoy_bootstrap_tmpl.json"


class Layout:
    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.folder = folder
        self.blobs = folder / "blobs" / "sha256"
        self.blobs.mkdir(parents=True)
        self.manifests: list[dict[str, Any]] = []

    def put(self, data: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (self.blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def put_json(self, value: dict[str, Any], media_type: str) -> dict[str, Any]:
        return self.put(json.dumps(value).encode(), media_type)

    def image(self, name: str, layers: list[dict[str, Any]], **config: object) -> None:
        stored = self.put_json(
            {
                "architecture": ARCHITECTURE,
                "os": "linux",
                "config": {"Env": [PATH], **config},
                "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
            },
            CONFIG,
        )
        manifest = self.put_json(
            {"schemaVersion": 2, "mediaType": MANIFEST, "config": stored, "layers": layers},
            MANIFEST,
        )
        self.manifests.append(
            {**manifest, "annotations": {"org.opencontainers.image.ref.name": name}}
        )

    def close(self) -> None:
        index = {"schemaVersion": 2, "manifests": self.manifests}
        (self.folder / "index.json").write_text(json.dumps(index))
        (self.folder / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))


def layer_of(files: dict[str, Path]) -> bytes:
    """A tar that depends on the files' bytes alone: an unchanged program is an unchanged layer."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for target, source in sorted(files.items()):
            entry = tarfile.TarInfo(target)
            entry.size = source.stat().st_size
            entry.mode = 0o755 if os.access(source, os.X_OK) else 0o644
            with source.open("rb") as content:
                tar.addfile(entry, content)
    return out.getvalue()


def main(folder: str, base_tar: str, bin_: str, istio_bin: str) -> None:
    layout = Layout(Path(folder))
    base = layout.put(Path(base_tar).read_bytes(), LAYER)

    def programs(*paths: Path, extra: dict[str, Path] | None = None) -> dict[str, Any]:
        files = {f"usr/local/bin/{path.name}": path for path in paths}
        return layout.put(layer_of(files | (extra or {})), LAYER)

    here, istio = Path(bin_), Path(istio_bin)
    layout.image("pause", [programs(here / "pause")], Entrypoint=["/usr/local/bin/pause"])
    layout.image("coredns", [programs(here / "coredns")], Entrypoint=["/usr/local/bin/coredns"])
    layout.image("network-tool", [base], Entrypoint=["/bin/sleep", "infinity"])
    layout.image(
        "pilot",
        [base, programs(istio / "pilot-discovery")],
        Entrypoint=["/usr/local/bin/pilot-discovery"],
        User="1337:1337",
    )
    layout.image(
        "proxyv2",
        [
            base,
            programs(
                istio / "pilot-agent",
                here / "envoy",
                extra={BOOTSTRAP: istio / "envoy_bootstrap_tmpl.json"},
            ),
        ],
        Entrypoint=["/usr/local/bin/pilot-agent"],
    )
    layout.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
