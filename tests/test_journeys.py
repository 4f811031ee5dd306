"""How many files a reader walks: those with a function that runs when one thing is done once."""

import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from zopde import UnrolledObjective, WeightOracle, Window, cge
from zopde.studies.correct import load_config, run_correction

ROOT = Path(__file__).parent.parent
WEIGHT_PROBE = 9


@contextmanager
def files_entered():
    """The files under zopde/ and solvers/, without __init__, of every function that is entered."""
    names, files = set(), set()

    def note(frame, event, _):
        if event == "call":
            names.add(frame.f_code.co_filename)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield files
    finally:
        sys.setprofile(before)
        paths = [Path(name) for name in names if name.startswith(str(ROOT))]
        inside = [path.relative_to(ROOT) for path in paths if path.name != "__init__.py"]
        files.update(str(path) for path in inside if path.parts[0] in ("zopde", "solvers"))


def show(title, files):
    """For whoever runs pytest with -s, or looks at a failure."""
    print(f"{title}: {len(files)} files", *sorted(files), sep="\n  ")  # noqa: T201


class Diffusion:
    """A solver as users have them; nothing in it is ours."""

    grid = None

    def step(self, state, forcing=None):
        around = sum(state.roll(shift, axis) for axis in (2, 3) for shift in (-1, 1))
        return state + 0.1 * (around - 4 * state)


class Corrector(nn.Module):
    """Two convolutions."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, state, forcing=None):
        return self.leave(torch.relu(self.enter(state)))


def test_one_weight_probe(gen):
    """The second iteration of training by coordinate-wise probes of the weights."""
    network = Corrector()
    fields = (torch.randn(shape, generator=gen) for shape in ((2, 2, 8, 8), (2, 3, 2, 8, 8)))
    objective = UnrolledObjective(Diffusion(), Window(*fields), torch.ones(2))
    oracle = WeightOracle(network, objective, chunk=64)
    optimiser = torch.optim.SGD(network.parameters(), 1e-3)
    for _ in range(2):
        with files_entered() as files:
            oracle.set_gradient(cge(oracle).gradient)
        optimiser.step()
    show("one weight probe", files)
    assert len(files) <= WEIGHT_PROBE, sorted(files)


class SecondIteration:
    """Notes which files the second iteration of one label's training enters."""

    def __init__(self, label):
        self.label, self.files = label, None

    @contextmanager
    def stage(self, title, total):
        iterations, tracing = 0, files_entered()

        def advance(steps=1, text=""):
            nonlocal iterations
            if title == f"{self.label}, seed 0":
                iterations += 1
                if iterations == 1:
                    self.files = tracing.__enter__()
                elif iterations == 2:
                    tracing.__exit__(None, None, None)

        yield advance

    def note(self, text):
        pass


@pytest.mark.parametrize("label", ["ZO-weights"])
def test_a_run_shows_its_second_iteration(label, toy_spec, tiny, tmp_path):
    """A whole run of `zopde correct`: optimiser, history and checkpoints are in it, too."""
    settings = [*tiny, f'run.labels=["SRC","{label}"]']
    config = load_config("quick", None, settings, {"solver": {"spec": toy_spec}})
    second = SecondIteration(label)
    run_correction(config, tmp_path / "run", progress=second)
    show(f"one iteration of {label} in a run", second.files)
    assert "zopde/oracle/weights.py" in second.files
