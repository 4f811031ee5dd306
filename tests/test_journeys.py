"""How many files a reader walks: those with a function that runs when one thing is done once."""

import os
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from zopde import UnrolledObjective, WeightOracle, Window, cge
from zopde.studies.correct import load_config, run_correction

ROOT = Path(__file__).parent.parent
WEIGHT_PROBE, INTERFACE_ITERATION, SETTING = 10, 15, 6


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


def second_iteration(label, changes, spec, folder):
    """Files of the second iteration in a whole run, of its optimiser and its history, too."""
    changes = [*changes, f'run.labels=["SRC","{label}"]', "run.checkpoint_seconds=10"]
    second = SecondIteration(label)
    config = load_config("quick", None, changes, {"solver": {"spec": spec}})
    run_correction(config, folder, progress=second)
    return second.files


def test_one_iteration_by_queries_at_the_interface(toy_spec, tiny, tmp_path):
    """Coloured, the way by default, on the toy solver; from one update to the next."""
    changes = [change for change in tiny if not change.startswith("interface.")]
    changes += ["data.coarse=[8,8]", "training.look_every=100"]
    files = second_iteration("ZO-interface", changes, toy_spec, tmp_path / "run")
    assert "zopde/interface/coloured.py" in files
    assert len(files) <= INTERFACE_ITERATION, sorted(files)


def test_the_trace_sees_the_weight_cut_in_a_run(toy_spec, tiny, tmp_path):
    files = second_iteration("ZO-weights", tiny, toy_spec, tmp_path / "run")
    assert {"zopde/oracle/weights.py", "zopde/zo/cge.py", "zopde/training/loop.py"} <= files


_HERE = f"{ROOT}{os.sep}"


class Visits:
    """Files, in order, with a function that handles a setting: by value, or by its name.

    Args:
        name: The setting, without its table.
        value: One that nothing else in the run has.
        acts: The file where it acts; there the walk ends.
    """

    def __init__(self, name, value, acts):
        self.name, self.value, self.acts, self.files = name, value, acts, []

    def __call__(self, frame, event, arg):
        if not frame.f_code.co_filename.startswith(_HERE):  # first, for thousands of calls
            return
        file = Path(frame.f_code.co_filename)
        if file.name == "__init__.py":
            return
        place = file.relative_to(ROOT)
        if event != ("call" if str(place) == self.acts else "return"):
            return
        if place.parts[0] not in ("zopde", "solvers") or str(place) in self.files:
            return
        values = [*frame.f_locals.values(), arg]
        named = self.name in (*frame.f_code.co_names, *frame.f_code.co_varnames)
        if any(self._holds(value, 4) or (named and self._bears(value)) for value in values):
            self.files.append(str(place))
            if self.acts == str(place):
                sys.setprofile(None)

    def _holds(self, value, depth):
        """Whether it is the value, or a plain tree or text with it."""
        if isinstance(value, dict):
            return depth > 0 and any(self._holds(inner, depth - 1) for inner in value.values())
        if isinstance(value, (list, tuple)):
            return depth > 0 and any(self._holds(inner, depth - 1) for inner in value)
        if isinstance(value, str):
            return f"{self.name}={self.value}" in value
        return type(value) is type(self.value) and value == self.value

    def _bears(self, value):
        """Whether it is an object with that setting, or with a table that has it."""
        inner = [value, *getattr(value, "__dict__", {}).values()]
        return any(self._holds(getattr(owner, self.name, None), 0) for owner in inner)


@pytest.mark.parametrize(
    ("key", "value", "acts"),
    [
        ("training.lr", 0.00123, "zopde/training/descent.py"),
        ("training.clip", 0.0777, "zopde/training/descent.py"),
        ("zo.mu", 0.00321, "zopde/zo/cge.py"),
        ("interface.mu", 0.00231, "zopde/studies/correct/problem.py"),  # scale_of gives it units
        ("interface.states", 413, "zopde/interface/directions.py"),
    ],
)
def test_a_setting_visits_few_files(key, value, acts, tmp_path, toy_spec, tiny):
    visits = Visits(key.rpartition(".")[2], value, acts)
    label = "ZO-weights" if key == "zo.mu" else "ZO-interface"
    changes = [*tiny, f'run.labels=["SRC","{label}"]', "training.init=scratch", "zo.chunk=8"]
    sys.setprofile(visits)
    try:
        changes += [f"{key}={value}"]
        config = load_config("quick", None, changes, {"solver": {"spec": toy_spec}})
        run_correction(config, tmp_path / "run")
    finally:
        sys.setprofile(None)
    assert visits.files[-1] == acts, visits.files
    assert "zopde/studies/settings.py" in visits.files
    assert len(visits.files) <= SETTING, visits.files
