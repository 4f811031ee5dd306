"""Data and solvers that would give a wrong number without a word, refused or told by a run."""

import warnings

import pytest
import torch

from zopde import Grid, InputError, SolverError, Trajectories, load_config, run_correction
from zopde.data import save_trajectories
from zopde.progress import Silent
from zopde.studies.correct.open import open_sample

SOLVERS = """
import torch
from zopde import Grid

class Halve:
    grid = Grid((8, 8), (8.0, 8.0), 0.1, ("u",))

    def step(self, state, forcing=None):
        return 0.5 * state

class Mixing(Halve):
    def step(self, state, forcing=None):
        return 0.5 * state - 0.1 * state.mean(dim=0, keepdim=True)

class Random(Halve):
    share = 1e-2

    def step(self, state, forcing=None):
        return 0.5 * state + self.share * torch.randn_like(state)

class Trembling(Random):
    share = 1e-5

class Broken(Halve):
    def step(self, state, forcing=None):
        raise ValueError("no such wind")
"""
GRID = Grid((8, 8), (8.0, 8.0), 0.1, ("u",))


class Notes(Silent):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "solvers.py").write_text(SOLVERS)
    start = torch.randn(5, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    moving = start * 0.5 ** torch.arange(9.0).view(1, 9, 1, 1, 1)

    def run(name="Halve", labels=("SRC",), states=moving, dry=False, **tables):
        save_trajectories(Trajectories(GRID, states), tmp_path / "data.nc")
        data = {"path": str(tmp_path / "data.nc"), "train": 3, "test": 2, "coarse": []}
        spec = f"{tmp_path / 'solvers.py'}:{name}"
        chosen = {"solver": {"spec": spec}, "data": data, **tables}
        chosen["run"] = {"labels": list(labels), **tables.get("run", {})}
        small = ["training.unroll=2", 'training.length="3 iterations"', 'non.length="3 iterations"']
        small += ["corrector.sizes={width=2,depth=2}"]
        notes = Notes()
        config = load_config("quick", None, small, chosen)
        if dry:
            open_sample(config, tmp_path / "run", notes)
        else:
            run_correction(config, tmp_path / "run", overwrite=True, progress=notes)
        return notes.lines

    run.states = moving
    run.folder = tmp_path / "run"
    return run


@pytest.mark.parametrize("size", [0.0, 1.0])
def test_data_that_never_change_are_told_in_one_line(run, size):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lines = run(states=size * run.states[:, :1].expand(-1, 9, -1, -1, -1).contiguous())
    assert len([line for line in lines if "never change in time" in line]) == 1
    assert not any("never change" in line for line in run())


@pytest.mark.parametrize("dry", [False, True])
def test_an_unseen_simulation_that_was_seen_raises(run, dry):
    states = run.states.clone()
    states[4] = states[1]
    with pytest.raises(InputError, match="simulation 4, to be unseen, the same as 1 in training"):
        run(states=states, dry=dry)
    assert not run.folder.exists()
    states[4], states[2] = run.states[4], states[1]
    run(states=states, dry=dry)  # twice in training is no claim


def test_a_solver_that_fails_at_once_is_told_by_its_reason_raises(run):
    with pytest.raises(SolverError, match=r"no such wind; run\.failures=retry asks again"):
        run("Broken")


def test_a_share_above_1_raises(run):
    with pytest.raises(InputError, match=r"failure_limit: got 2, expected a number in \(0, 1\]"):
        run(run={"failure_limit": 2})


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize("labels", [("SRC",), ("SRC", "ZO-interface")])
def test_a_solver_that_mixes_the_states_of_a_batch_is_called_so_raises(run, labels, dry):
    with pytest.raises(SolverError, match="depends on the other states of its batch, by"):
        run("Mixing", labels, dry=dry)
    assert not run.folder.exists()


@pytest.mark.parametrize("dry", [False, True])
def test_a_random_solver_is_called_so_where_a_run_should_choose_the_way_raises(run, dry):
    with pytest.raises(InputError, match="'auto' with a random solver, whose"):
        run("Random", ("SRC", "ZO-interface"), dry=dry)
    assert not run.folder.exists()
    assert any("random" in line for line in run("Random", ("SRC", "NOG"), dry=dry))


def test_a_little_noise_is_told_beside_the_way(run):
    (line,) = [x for x in run("Trembling", ("SRC", "ZO-interface")) if "chosen by" in x]
    assert line.endswith("the solver is random: its noise looks like a step that is not local")
