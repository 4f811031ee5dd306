"""A hundred kills, at any moment and in the middle of any write, and twenty of single workers."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file

from zopde.studies.correct import load_config, run_correction

# One process imports everything once, and forks: a child makes the run and its report.
CHAIN = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
import zopde.studies.report.page, zopde.studies.correct.study
from zopde import write_report

root, seed, *given = sys.argv[1:]
root, draw = Path(root), random.Random(int(seed))
folder, log = root / "run", root / "killed.txt"
JOB

def job():
    if not (folder / "metrics.json").exists():
        run(resume=(folder / "config.toml").exists())
    write_report([folder])

def die_at(what, count):
    left = count
    def counted(call):
        def act(*given, **named):
            nonlocal left
            fd = given[0]
            path = os.readlink(f"/proc/self/fd/{fd}") if isinstance(fd, int) else str(given[-1])
            left -= what in path
            if left == 0:
                with log.open("a") as file:
                    file.write(f"{call.__name__} {path}\\n")
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*given, **named)
        return act
    os.fsync, os.replace, os.rename = map(counted, (os.fsync, os.replace, os.rename))

def attempt(seconds=None, write=None):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if write:
                die_at(*write)
            job()
            code = 0
        finally:
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    report = folder / "report.html"
    assert not report.exists() or report.read_text().endswith("</html>\\n")
    return status != 0

done = 0
for what, most in PLAN.items() if int(seed) else ():  # in the order in which a run writes them
    for _ in range(3):
        done += attempt(write=(what, draw.randint(1, most)))
        if draw.random() < 0.4:
            done += attempt(seconds=draw.expovariate(1 / 0.7))
for count in (1, 2, 1) if int(seed) else ():
    done += attempt(write=("report.html", count))
assert not attempt()
print(done)
"""
CORRECT = """
from zopde import load_config, run_correction
spec, *changes = given
def run(resume):
    config = load_config("quick", None, changes, {"solver": {"spec": spec}})
    run_correction(config, folder, resume=resume)
PLAN = {".nc": 2, "checkpoint.pt": 9, "model": 2, ".jacobians": 9, ".png": 2, "metrics.json": 2}
"""
DEFEND = """
import zopde.studies.defend.study
from zopde import run_defence
sys.path.append(given[0])
from test_defence import few, tiny
def run(resume):
    run_defence(tiny(), folder, images=few(), resume=resume)
PLAN = {"checkpoint.pt": 9, "model": 3, "config.toml": 1, "metrics.json": 2, "checksums": 1}
"""
CERTIFY = """
import zopde.studies.certify.study
from zopde import CertifyConfig, run_certification
sys.path.append(given[0])
from test_defence import few
(root.parent / "mine.py").write_text('''
import time, torch
def scores(x):
    time.sleep(0.03)
    level = x.mean(dim=(1, 2, 3))
    return torch.stack([-40 * (level - at).abs() for at in (0.4, 0.5, 0.6)], dim=1)
''')
def run(resume):
    config = CertifyConfig(f"{root.parent}/mine.py:scores", sigma=0.3, n0=10, n=100, batch=16)
    run_certification(config, folder, images=few(), resume=resume)
PLAN = {"config.toml": 1, "certificates.tsv": 1, ".png": 1, "metrics.json": 2, "checksums": 1}
"""
STUDIES = Path(__file__).parents[1] / "studies"


def chain(root, job, seed, *given):
    """How many kills there were until run and report were done; none with the seed 0."""
    root.mkdir()
    script = CHAIN.replace("JOB\n", job, 1)
    command = [sys.executable, "-c", script, str(root), str(seed), *map(str, given)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout)


def results(folder):
    """Figures and weights of a run, without times."""
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics.pop("seconds", None)
    models = {
        str(path.relative_to(folder)): {k: v.tolist() for k, v in load_file(path).items()}
        for path in sorted(folder.rglob("model.safetensors"))
    }
    return metrics, models


def bank(tiny):
    changes = [change for change in tiny if not change.startswith("interface.")]
    labels = 'run.labels=["SRC","NON","ZO-weights","ZO-interface"]'
    return [*changes, labels, "interface.way=bank", "zo.chunk=16"]


@pytest.mark.slow
def test_a_hundred_kills_change_nothing(toy_spec, tiny, tmp_path):
    """Data, bank, checkpoints, models, pictures and the report; by the clock and in a write."""
    chain(tmp_path / "whole", CORRECT, 0, toy_spec, *bank(tiny))
    expected = results(tmp_path / "whole" / "run")
    assert len(expected[1]) == 3
    kills, seed, inside = 0, 0, []
    while kills < 100:
        seed += 1
        root = tmp_path / f"killed-{seed}"
        kills += chain(root, CORRECT, seed, toy_spec, *bank(tiny))
        assert results(root / "run") == expected, f"seed {seed}"
        inside += (root / "killed.txt").read_text().splitlines()
    for what in (".jacobians", "report.html", "checkpoint.pt", ".nc", ".png", "metrics.json"):
        assert [line for line in inside if what in line], f"no kill in a write of {what}"


@pytest.mark.slow
@pytest.mark.parametrize(("job", "least"), [(DEFEND, 12), (CERTIFY, 8)], ids=["defend", "certify"])
def test_kills_of_a_defence_and_of_a_certification_change_nothing(job, least, tmp_path):
    """By the clock and in a write: checkpoints, models, certificates, figures, their checksums."""
    chain(tmp_path / "whole", job, 0, STUDIES)
    expected = *results(tmp_path / "whole" / "run"), certificates(tmp_path / "whole" / "run")
    assert expected[2]
    kills = 0
    for seed in (1, 2):
        root = tmp_path / f"killed-{seed}"
        kills += chain(root, job, seed, STUDIES)
        assert (*results(root / "run"), certificates(root / "run")) == expected, f"seed {seed}"
    assert kills >= least


def certificates(folder):
    """All certificates of a run, without times."""
    return {
        str(path.relative_to(folder)): [
            line.rsplit("\t", 1)[0] for line in path.read_text().splitlines()
        ]
        for path in sorted(folder.rglob("certificates.tsv"))
    }


class Reaper:
    """Kills one worker in the middle of every other iteration, as long as kills are left."""

    def __init__(self, kills):
        self.left, self.draw = kills, random.Random(0)

    @contextmanager
    def stage(self, title, total):
        iterations = 0

        def advance(steps=1, text=""):
            nonlocal iterations
            iterations += 1
            if title == "ZO-weights, seed 0" and iterations % 2 and self.left:
                self.left -= 1
                threading.Timer(self.draw.uniform(0, 0.1), self.kill).start()

        yield advance

    def kill(self):
        children = [child for child in multiprocessing.active_children() if child.is_alive()]
        if children:  # a cluster may be starting the one that was killed anew
            os.kill(self.draw.choice(children).pid, signal.SIGKILL)

    def note(self, text):
        pass


@pytest.mark.slow
def test_twenty_single_workers_are_killed_and_nothing_changes(toy_spec, tiny, tmp_path):
    changes = [*tiny, 'run.labels=["SRC","ZO-weights"]', "zo.chunk=16", "run.workers=2"]
    config = load_config(
        "quick", None, [*changes, 'training.length="45 iterations"'], {"solver": {"spec": toy_spec}}
    )
    run_correction(config, tmp_path / "whole")
    reaper = Reaper(20)
    run_correction(config, tmp_path / "killed", progress=reaper)
    assert reaper.left == 0
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Dask's own, of processes that were killed
def test_dask_workers_that_are_killed_in_a_run_change_nothing(toy_spec, tiny, tmp_path):
    pytest.importorskip("distributed")
    changes = [*tiny, 'run.labels=["SRC","ZO-weights"]', "zo.chunk=16", "run.workers=2"]
    config = load_config(
        "quick", None, [*changes, "run.executor=dask"], {"solver": {"spec": toy_spec}}
    )
    run_correction(config, tmp_path / "whole")
    reaper = Reaper(2)
    run_correction(config, tmp_path / "killed", progress=reaper)
    assert reaper.left == 0
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
