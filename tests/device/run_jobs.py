"""Run jobs on the pretend device and on the CPU: python run_jobs.py JSON, a list of [job, ...].

Prints a line of JSON a job: its numbers here and there, and the counts there.
"""

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import jobs
import pretend


def run(job, *settings):
    """One job, first on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        here = jobs.JOBS[job]("cpu", Path(folder) / "here", *settings)
        pretend.COUNTS.clear()
        there = jobs.JOBS[job](f"{pretend.NAME}:0", Path(folder) / "there", *settings)
    return {"here": here, "there": there, **pretend.COUNTS}


if __name__ == "__main__":
    pretend.set_up()
    for line in json.loads(sys.argv[1]):
        try:
            found = run(*line)
        except Exception:
            found = {"error": traceback.format_exc()}
        sys.stdout.write(json.dumps({"job": line, **found}) + "\n")
        sys.stdout.flush()
    # torch's thread for gradients ends with an error where a backend in Python was used.
    os._exit(0)
