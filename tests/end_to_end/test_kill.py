"""`kill -9` at any instant, as often as one likes: the training ends with the very same weights."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import ENVIRONMENT
from stories import write_stories

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "kill_test.py"


@pytest.mark.slow
def test_a_training_killed_five_times_ends_with_the_same_bits(tmp_path):
    source = write_stories(tmp_path / "a.txt", 120)
    command = [sys.executable, SCRIPT, "--times", "5", "--steps", "40", "--longest", "0.3", "--source", source]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^kill +\d+: ", done.stdout, re.MULTILINE)) == 5
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["same"] is True
    digests = re.findall(r"^(?:undisturbed|killed) +([0-9a-f]{64})$", done.stdout, re.MULTILINE)
    assert len(digests) == 2
    assert set(digests) == {facts["sha256"]}
