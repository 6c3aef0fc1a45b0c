"""The campaign of bench/campaign.py, shortened: it runs an hour by `make campaign`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.alone
def test_no_tenant_makes_the_victim_lose_an_answer(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "bench.campaign",
        "--seconds",
        "40",
        "--log",
        str(tmp_path / "log"),
    ]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["lost"] == 0 and found["queries"] >= 4000
    assert found["written"] > 30 and found["looks"] > 2
