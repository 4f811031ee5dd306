"""The jobs on a second device: the CPU's numbers, no tensor of two devices, few reads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import pretend

pytestmark = pytest.mark.skipif(
    not pretend.available(), reason="torch has no backends in Python (before 2.11)"
)

ENGINE, WIDE = (["engine", json.dumps({"chunk": n, "verify": False})] for n in (16, 256))
SHORT, LONG = "2 iterations", "6 iterations"
# Reads that an iteration takes at most. Each of the two solver steps of an unrolled window takes
# three: whether state, forcing and answer are finite decides which rows the solver is asked for.
UNROLLED = 3 + 3 * 2
MOST = {
    ("classify", "FO"): 3,
    ("correct", "NON"): 3,
    ("correct", "NOG"): UNROLLED,
    ("correct", "ID"): UNROLLED,
}
JOBS = [ENGINE, WIDE] + [[*job, length] for job in MOST for length in (SHORT, LONG)]


@pytest.fixture(scope="module")
def found():
    """What every job found, by a process of its own: torch knows one such device for good."""
    command = [sys.executable, str(Path(__file__).parent / "run_jobs.py"), json.dumps(JOBS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    told = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    rows = [json.loads(line) for line in told.stdout.splitlines() if line.startswith('{"job"')]
    assert len(rows) == len(JOBS), told.stderr
    return {tuple(row["job"]): row for row in rows}


@pytest.mark.parametrize("job", JOBS[2:], ids=" ".join)
def test_a_job_has_the_cpus_numbers_agrees(found, job):
    row = found[tuple(job)]
    assert "error" not in row, row["error"]
    assert row["there"] == row["here"]


def test_every_network_has_the_cpus_gradient_agrees(found):
    row = found[tuple(ENGINE)]
    assert "error" not in row, row["error"]
    for name, values in row["here"].items():
        here, there = torch.tensor(values), torch.tensor(row["there"][name])
        assert (there - here).norm() <= 1e-9 * here.norm(), name


def test_no_probe_pass_reads(found):
    """A gradient of many passes reads as often as one of few."""
    row, wide = found[tuple(ENGINE)], found[tuple(WIDE)]
    assert row["reads"] <= 6 * len(row["here"])
    assert row["reads"] == wide["reads"]


@pytest.mark.parametrize("job", MOST, ids=" ".join)
def test_an_iteration_reads_no_oftener_than_is_known(found, job):
    short, long = (found[(*job, length)] for length in (SHORT, LONG))
    assert 0 < long["reads"] - short["reads"] <= MOST[job] * (6 - 2)
