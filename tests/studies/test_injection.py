import pytest
import torch
import xarray as xr
from safetensors.torch import load_file

from zopde import CorrectedSolver, InputError, load_corrector, load_solver, rollout
from zopde.progress import Silent
from zopde.studies.correct import load_config, run_correction
from zopde.studies.correct.check import check_gradient
from zopde.studies.correct.labels import check_first_guess

SIZES = ["data.coarse=[8,8]", "training.unroll=4", "interface.way=coloured"]
LABELS = ["SRC", "ID", "ZO-weights", "ZO-interface", "SOL"]


def config_of(spec, tiny, inject, *changes):
    changes = [*tiny, *SIZES, f"corrector.inject={inject}", *changes]
    return load_config("quick", None, changes, {"solver": {"spec": spec}})


class Notes(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


def test_a_parameter_needs_a_first_guess():
    """No factor changes a zero, and none changes a sign."""
    guesses = torch.full((2, 3, 2, 8), 0.1)
    assert check_first_guess(("viscosity", "drag"), guesses) == ""
    guesses[:, :, 1, :2] = -1.0
    said = check_first_guess(("viscosity", "drag"), guesses)
    assert (
        said
        == "drag is 0 or negative in 25 % of its numbers: a factor changes neither 0 nor the sign"
    )
    guesses[:, :, 1] = 0.0
    with pytest.raises(InputError, match="drag is 0 everywhere in the data"):
        check_first_guess(("viscosity", "drag"), guesses)


@pytest.fixture(scope="module", params=["before", "forcing"])
def finished(request, tmp_path_factory, toy_spec, tiny):
    """A tiny run of the preset's labels."""
    folder, notes = tmp_path_factory.mktemp("injection") / "run", Notes()
    metrics = run_correction(config_of(toy_spec, tiny, request.param), folder, progress=notes)
    return request.param, folder, metrics, notes.lines


def test_a_preset_keeps_what_has_a_gradient(finished):
    inject, _, metrics, notes = finished
    assert metrics["labels"] == LABELS
    assert metrics["inject"] == inject
    assert metrics["init"] == {"SRC": "none", **dict.fromkeys(LABELS[1:], "scratch")}
    assert len([line for line in notes if "NON, NOG and PUSH have no gradient" in line]) == 1


def test_every_step_asks_the_solver_exact(finished, toy_spec, tiny, tmp_path, forecast):
    """12 iterations of 2 windows of 4 steps; colours for the state: 2 x 16, the forcing: 2.

    The state's influence is asked for at each step but the first where the network feeds the
    forcing, and at the first, too, where it feeds the state.
    """
    inject, _, metrics, notes = finished
    active = max(1, round(0.1 * metrics["parameters"]))
    of_state = 4 if inject == "before" else 3
    of_forcing = 0 if inject == "before" else 4
    probes = 2 * (of_state * 32 + of_forcing * 2)
    reach = 64 if inject == "before" else 128
    assert metrics["solver_steps"] == {
        "SRC": 0,
        "ID": 12 * 8,
        "ZO-weights": 12 * (active + 1) * 8,
        "ZO-interface": reach + 12 * (8 + probes),
        "SOL": 12 * 8,
    }
    planned = forecast(config_of(toy_spec, tiny, inject), tmp_path / "none.nc")
    assert {row.label: row.solver_steps for row in planned[1:]} == metrics["solver_steps"]
    told = [line for line in notes if "forcing: radius 0 x 0 cells, 2 solver steps" in line]
    assert len(told) == (inject == "forcing")


def test_the_interface_ends_where_the_twin_does(finished):
    _, folder, _, _ = finished
    weights = [
        torch.cat([v.flatten() for _, v in sorted(load_file(place).items())])
        for place in (folder / f"{name}/seed-0/model.safetensors" for name in LABELS[1:])
    ]
    _, by_weights, by_interface, sol = weights
    assert (by_interface - sol).norm() < 0.01 * (by_weights - sol).norm()


def test_a_saved_corrector_knows_its_place(finished, toy_spec):
    inject, folder, metrics, _ = finished
    place = folder / "ZO-interface" / "seed-0"
    network = load_corrector(place / "model.safetensors")
    assert network.inject == inject
    solver = load_solver(toy_spec).at((8, 8))
    with xr.open_dataset(next(folder.parent.glob("*.nc"))) as file:
        data = file.load()
    names = ["velocity_y", "velocity_x", "force_y", "force_x"]
    fields = torch.from_numpy(data[names].to_dataarray().values)[:, 3:]
    state, forcing = fields[:2].permute(1, 2, 0, 3, 4), fields[2:].permute(1, 2, 0, 3, 4)
    found = rollout(CorrectedSolver(solver, network), state[:, 0], 12, lambda t: forcing[:, t])
    with xr.open_dataset(place / "rollout.nc") as file:
        saved = torch.from_numpy(file[names[:2]].to_dataarray().values).permute(1, 2, 0, 3, 4)
    assert torch.equal(found, saved)
    error = (found - state)[:, 1:].abs().mean(dim=(1, 2, 3, 4))
    runs = torch.tensor(metrics["mae"]["ZO-interface"]["runs"][0])
    torch.testing.assert_close(error, runs.float(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", ["dense", "random"])
def test_other_ways_to_ask_know_the_forcing(kind, toy_spec, tiny, tmp_path):
    changes = [f"interface.way={kind}", 'run.labels=["SRC","ZO-interface"]']
    config = config_of(toy_spec, tiny, "forcing", *changes)
    metrics = run_correction(config, tmp_path / "run")
    each = 64 if kind == "random" else 128
    assert metrics["solver_steps"]["ZO-interface"] == 12 * 2 * (4 + 7 * each)


def test_a_watched_bank_asks_what_was_planned(toy_spec, tiny, tmp_path, forecast):
    """2 snapshots of 128 entries; what 3 of 12 iterations look at is counted apart."""
    bank = "interface={way='bank',snapshots=2,watch_every=4}"
    config = config_of(toy_spec, tiny, "before", bank, 'run.labels=["SRC","ZO-interface"]')
    planned = {row.label: row.solver_steps for row in forecast(config, tmp_path / "none.nc")}
    found = run_correction(config, tmp_path / "run")["solver_steps"]["ZO-interface"]
    assert found == planned["ZO-interface"] == 2 * 128 + 12 * 2 * 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (['run.labels=["SRC","NON","NOG","SOL"]'], "run.labels: got NON, NOG with .*: they have"),
        (['run.labels=["SRC","NON"]'], "some of SRC, ID, EMU, CV, ZO-weights, ZO-weights-s"),
        (["training.init=non"], "training.init: got 'non' with .*; --set training.init=scratch"),
        (["corrector.inject=during"], "corrector.inject: got 'during', expected one of"),
    ],
)
def test_what_has_no_gradient_is_refused_by_name(changes, words, toy_spec, tiny):
    with pytest.raises(InputError, match=words) as caught:
        config_of(toy_spec, tiny, "before", *changes)
    assert "\n" not in str(caught.value)


def test_a_solver_without_a_forcing_is_refused(tmp_path, tiny):
    (tmp_path / "still.py").write_text(
        "from zopde import Grid\n\n\nclass Still:\n"
        "    grid = Grid((8, 8), (1.0, 1.0), 0.1, ('heat',))\n\n"
        "    def step(self, state, forcing=None):\n        return state\n"
    )
    config = config_of(f"{tmp_path / 'still.py'}:Still", tiny, "forcing")
    with pytest.raises(InputError, match="no forcing channels"):
        run_correction(config, tmp_path / "run")


def test_a_run_of_before_there_was_a_choice_resumes(finished, toy_spec, tiny, tmp_path):
    changes = ['run.labels=["SRC","NON"]', f'data.path="{next(finished[1].parent.glob("*.nc"))}"']
    config = config_of(toy_spec, tiny, "after", *changes)
    metrics = run_correction(config, tmp_path / "run")
    record = tmp_path / "run" / "config.toml"
    old = record.read_text().replace('inject = "after"\n', "")
    assert old != record.read_text()
    record.write_text(old)
    again = run_correction(config, tmp_path / "run", resume=True)
    assert again["mae"] == metrics["mae"]


def test_the_gradient_can_be_checked(toy_spec, tiny):
    changes = ["run.dtype=float64", "zo.mu=1e-6"]
    found = check_gradient(config_of(toy_spec, tiny, "forcing", *changes))
    assert found.check.against == "autograd"
    assert found.check.warnings == ()
    assert all(layer.cosine > 0.9999 for layer in found.check.layers)
