"""Small jobs, each on a device: what it finds as numbers, and what it asked of the device."""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "oracle"))
import conftest
import networks

from zopde import WeightOracle, cge, load_classification, run_classification
from zopde.studies.correct import load_config, run_correction

CLASSIFY = [
    "network.sizes={depth=1,width=4}",
    "training.batch=480",
    'training.warmup="1 iteration"',
    "zo.sparsity=0.5",
    "zo.score_directions=8",
    "zo.score_images=3",
    'zo.resample="20 iterations"',
    "zo.directions=12",
    "run.checkpoint_seconds=1000",
    "run.seeds=[0]",
]


def engine(device, folder, way):
    """The gradients of every kind of network by one way."""
    found = {}
    for name, (make, shape) in networks.NETWORKS.items():
        torch.manual_seed(0)
        network, x = make().double(), torch.randn(shape, dtype=torch.float64)
        network, objective = network.to(device), networks.MeanSquare(x.to(device))
        oracle = WeightOracle(network, objective, **json.loads(way))
        found[name] = cge(oracle, mu=1e-4).gradient.tolist()
    return found


def classify(device, folder, label, length="6 iterations"):
    changes = [
        *CLASSIFY,
        f'training.length="{length}"',
        f'run.methods=["{label}"]',
        f'run.device="{device}"',
    ]
    metrics = run_classification(load_classification("quick", None, changes), folder)
    return {"accuracy": metrics["accuracy"][label]["mean"], "queries": metrics["queries"]}


def correct(device, folder, label, length="6 iterations", *more):
    changes = [
        *conftest.TINY,
        "run.checkpoint_seconds=1000",
        "training.init=scratch",
        f'training.length="{length}"',
        f'non.length="{length}"',
        f'run.labels=["SRC","{label}"]',
        f'run.device="{device}"',
        *more,
    ]
    tables = {"solver": {"spec": conftest.TOY}}
    metrics = run_correction(load_config("quick", None, changes, tables), folder)
    return {"mae": metrics["mae"][label]["mean"], "steps": metrics["solver_steps"]}


JOBS = {"engine": engine, "classify": classify, "correct": correct}
