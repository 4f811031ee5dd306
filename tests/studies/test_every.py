"""Runs in which one of several solver steps is corrected."""

import json
from dataclasses import replace

import pytest
import torch
import xarray as xr
from safetensors import safe_open
from safetensors.torch import load_file

from zopde import (
    ConvCorrector,
    CorrectedSolver,
    InputError,
    Normalised,
    Trajectories,
    load_corrector,
    load_solver,
    rollout,
    save_trajectories,
    write_report,
)
from zopde.progress import Silent
from zopde.studies.correct import load_config, run_correction, save_corrector
from zopde.studies.correct.check import check_gradient, check_solver
from zopde.studies.correct.open import open_sample
from zopde.studies.correct.table import notes_of

EVERY, UNROLL, STEPS = 3, 2, 14
SIZES = [f"data.steps={STEPS}", f"training.unroll={UNROLL}", f"corrector.every={EVERY}"]
LABELS = ["SRC", "ID", "ZO-weights", "ZO-interface", "SOL"]
NAMES = ["velocity_y", "velocity_x", "force_y", "force_x"]


def config_of(spec, tiny, inject="after", *changes):
    chosen = [f"run.labels={json.dumps(LABELS)}", f"corrector.inject={inject}"]
    if inject != "after":
        chosen.append("training.init=scratch")
    changes = [*tiny, *SIZES, *chosen, *changes]
    return load_config("quick", None, changes, {"solver": {"spec": spec}})


@pytest.fixture(
    scope="module",
    params=[
        "after",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("before", "forcing", "parameter")),
    ],
)
def finished(request, tmp_path_factory, toy_spec, tiny):
    folder = tmp_path_factory.mktemp("every") / "run"
    return request.param, folder, run_correction(config_of(toy_spec, tiny, request.param), folder)


def test_every_step_is_counted_and_was_planned_exact(finished, toy_spec, tiny, tmp_path, forecast):
    """12 iterations of 2 windows of 2 x 3 steps, of which 3 are known after the step.

    Of each state 32 entries are moved, of each forcing as many.
    """
    inject, _, metrics = finished
    active = max(1, round(0.1 * metrics["parameters"]))
    asked = EVERY * (UNROLL - 1) if inject == "after" else EVERY * UNROLL
    of_state = asked - (inject in ("forcing", "parameter"))
    of_forcing = asked if inject in ("forcing", "parameter") else 0
    expected = {
        "SRC": 0,
        **dict.fromkeys(("ID", "SOL"), 12 * 2 * asked),
        "ZO-weights": 12 * (active + 1) * 2 * asked,
        "ZO-interface": 12 * 2 * (asked + 32 * (of_state + of_forcing)),
    }
    assert metrics["solver_steps"] == expected
    planned = forecast(config_of(toy_spec, tiny, inject), tmp_path / "none.nc")
    assert {row.label: row.solver_steps for row in planned[1:]} == metrics["solver_steps"]
    later = 13 + 12 if inject == "after" else 0
    assert metrics["stored_solver_steps"] == 3 * (14 + later)


def test_the_interface_ends_where_the_twin_does(finished):
    _, folder, _ = finished
    start, zo, sol = (
        torch.cat([v.flatten() for _, v in sorted(load_file(place).items())])
        for place in (
            folder / f"{name}/seed-0/model.safetensors" for name in ("ID", "ZO-interface", "SOL")
        )
    )
    assert (zo - sol).norm() < 0.02 * (start - sol).norm()


def test_rollouts_lie_at_the_times_of_the_corrections(finished):
    """Four corrections of three steps; the last two steps of the data are left over."""
    _, folder, metrics = finished
    assert (metrics["every"], metrics["steps"]) == (3, 12)
    assert metrics["time"]["length"] == pytest.approx(12 * 0.1)
    assert any("One in 3 steps is corrected" in note for note in notes_of(metrics))
    times = (folder / "error_over_time.csv").read_text().split("\n")[1:-1]
    found = [float(line.split(",")[0]) for line in times]
    assert found == pytest.approx([0.3, 0.6, 0.9, 1.2])
    with xr.open_dataset(next(folder.parent.glob("*.nc"))) as file:
        data = file.load()
    with xr.open_dataset(folder / "reference.nc") as file:
        assert torch.equal(states_of(file), states_of(data)[3:, :13:3])
        assert file["time"].values == pytest.approx(data["time"].values[:13:3])


def states_of(dataset, names=NAMES[:2]):
    return torch.from_numpy(dataset[names].to_dataarray().values).permute(1, 2, 0, 3, 4)


def test_a_saved_corrector_knows_how_often_and_rolls_out_to_the_saved_rollout(finished, toy_spec):
    inject, folder, metrics = finished
    place = folder / "ZO-interface" / "seed-0"
    network, solver = load_corrector(place / "model.safetensors"), load_solver(toy_spec).at((4, 4))
    assert (network.inject, network.every) == (inject, EVERY)
    with xr.open_dataset(next(folder.parent.glob("*.nc"))) as file:
        data = file.load()
    state, forcing = states_of(data)[3:], states_of(data, NAMES[2:])[3:]
    corrected = CorrectedSolver(solver, network)
    assert corrected.grid.dt == pytest.approx(0.3)
    found = rollout(corrected, state[:, 0], 4, lambda t: forcing[:, 3 * t : 3 * t + 3])
    with xr.open_dataset(place / "rollout.nc") as file:
        assert torch.equal(found, states_of(file))
    error = (found - state[:, :13:3])[:, 1:].abs().mean(dim=(1, 2, 3, 4))
    runs = torch.tensor(metrics["mae"]["ZO-interface"]["runs"][0])
    torch.testing.assert_close(error, runs.float(), rtol=1e-5, atol=0)
    alone = rollout(solver, state[:, 0], 12, lambda t: forcing[:, t])[:, ::3]
    with xr.open_dataset(folder / "SRC" / "seed-0" / "rollout.nc") as file:
        assert torch.equal(alone, states_of(file))


def test_a_model_file_of_every_step_is_as_it_ever_was(tmp_path):
    """What does not name the number, as all earlier files, corrects every step."""
    sizes, path = {"width": 3, "depth": 2}, tmp_path / "model.safetensors"
    for every in (1, EVERY):
        body = ConvCorrector(4, 2, **sizes)
        network = Normalised(body, torch.ones(2), torch.ones(2), every=every)
        save_corrector(network, "conv", sizes, "toy", path)
        with safe_open(path, framework="pt") as file:
            assert ("every" in json.loads(file.metadata()["corrector"])) == (every > 1)
        assert load_corrector(path).every == every


@pytest.mark.slow
def test_a_page_has_the_times_of_the_corrections(finished):
    """Also where the data file has to serve for the reference of the folder."""
    _, folder, _ = finished
    (folder / "reference.nc").rename(folder / "away.nc")
    page = write_report([folder]).read_text()
    (folder / "away.nc").rename(folder / "reference.nc")
    assert "unseen runs of 12 steps" in page
    assert "from t = 0 to t = 1.2," in page


@pytest.mark.parametrize(
    "way",
    [
        "coloured",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("tangent", "bank", "random", "regressed")
        ),
    ],
)
def test_every_way_measures_single_steps(way, toy_spec, tiny, tmp_path, forecast):
    """A single step reaches one cell; three steps would reach three."""
    more = ["data.coarse=[8,8]", "interface.snapshots=2", "interface.budget=160", "interface.fit=5"]
    more += ["interface.watch_every=0", 'run.labels=["SRC","ZO-interface"]']
    config = config_of(toy_spec, tiny, "after", f"interface.way={way}", *more)
    planned = {row.label: row.solver_steps for row in forecast(config, tmp_path / "none.nc")}
    found = run_correction(config, tmp_path / "run")["solver_steps"]["ZO-interface"]
    once = {"coloured": 64, "bank": 2 * 128, "tangent": 160, "random": 0, "regressed": 64}[way]
    each = {"coloured": 32, "bank": 0, "tangent": 0, "random": 64, "regressed": 33}[way]
    assert planned["ZO-interface"] == once + 12 * 2 * EVERY * (1 + each)
    assert found == planned["ZO-interface"] or way == "tangent"


@pytest.mark.slow
def test_an_interrupted_training_resumes_exactly(toy_spec, tiny, tmp_path, monkeypatch):
    config = config_of(toy_spec, tiny, "after", 'run.labels=["SRC","ZO-weights","ZO-interface"]')
    whole = run_correction(config, tmp_path / "whole")
    from zopde.training import Optimise

    update, calls = Optimise.update, []

    def dying(self, *given):
        calls.append(given)
        if len(calls) == 20 + 12 + 7:  # NON-start and ZO-weights first
            raise KeyboardInterrupt
        update(self, *given)

    monkeypatch.setattr(Optimise, "update", dying)
    with pytest.raises(KeyboardInterrupt):
        run_correction(config, tmp_path / "cut")
    monkeypatch.undo()
    again = run_correction(config, tmp_path / "cut", resume=True)
    assert again["mae"] == whole["mae"]
    assert again["solver_steps"] == whole["solver_steps"]
    for path in (tmp_path / "whole").rglob("model.safetensors"):
        other = tmp_path / "cut" / path.relative_to(tmp_path / "whole")
        assert path.read_bytes() == other.read_bytes()
    labels = 'run.labels=["SRC","ZO-weights","ZO-interface"]'
    once = config_of(toy_spec, tiny, "after", labels, "corrector.every=2")
    with pytest.raises(InputError, match=r"corrector\.every"):
        run_correction(once, tmp_path / "cut", resume=True)


@pytest.mark.slow
def test_workers_change_nothing(toy_spec, tiny, tmp_path):
    one, two = (
        run_correction(
            config_of(
                toy_spec, tiny, "after", f"run.workers={n}", 'run.labels=["SRC","ZO-weights"]'
            ),
            tmp_path / f"{n}",
        )
        for n in (0, 2)
    )
    assert one["mae"] == two["mae"]
    assert one["solver_steps"] == two["solver_steps"]


def test_both_checks_count_the_steps_of_a_window(toy_spec, tiny):
    config = config_of(toy_spec, tiny)
    check = check_gradient(config).check
    assert check.against == "autograd"
    assert min(layer.cosine for layer in check.layers) > 0.99
    solver = check_solver(config)
    assert "6 steps, 2 windows" in solver.assumed
    costs = {cost.cut: cost.steps for cost in solver.costs}
    assert costs["interface, dense"] == 2 * EVERY * (1 + 32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("corrector.every=0", "corrector.every: got 0, expected a whole number from 1"),
        ("corrector.every=8", "at least training.unroll = 2 times corrector.every = 8"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(change, words, toy_spec, tiny, tmp_path):
    for begin in (run_correction, lambda *given: open_sample(*given, Silent())):
        with pytest.raises(InputError, match=words) as caught:
            begin(config_of(toy_spec, tiny, "after", change), tmp_path / "run")
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_one_run_whose_unseen_part_has_no_correction_is_refused(toy, toy_spec, tiny, tmp_path):
    grid = toy.at((4, 4)).grid
    run = Trajectories(grid, torch.randn(1, 27, 2, 4, 4), torch.randn(1, 27, 2, 4, 4))
    save_trajectories(run, tmp_path / "one.nc")
    changes = ["training.unroll=1", "corrector.every=6", f"data.path={tmp_path / 'one.nc'}"]
    config = config_of(toy_spec, tiny, "after", *changes)
    with pytest.raises(InputError, match=r"got 5 unseen steps, expected .* corrector.every = 6"):
        run_correction(config, tmp_path / "run")


def test_a_validation_and_gaps_go_with_it_and_are_counted_exact(toy_spec, tiny, tmp_path, forecast):
    """Whole every third time, two steps to a correction: the third of a window is measured."""
    path = tmp_path / "data.nc"
    changes = [*tiny, "corrector.every=2", "data.validation=1", 'run.labels=["SRC","ZO-interface"]']
    changes += ["training.validate_every=5", "training.unroll=3", "training.init=scratch"]
    config = load_config("quick", None, changes, {"solver": {"spec": toy_spec}})
    config = replace(config, data=replace(config.data, path=str(path), partial=True))
    whole = replace(config, data=replace(config.data, path="", partial=False))
    run_correction(whole, tmp_path / "whole")
    (made,) = tmp_path.glob("*.nc")
    dataset = xr.load_dataset(made)
    there = (dataset.time.values * 10).round().astype(int) % 3 == dataset.time.values[0] * 10 % 3
    for name in NAMES[:2]:
        dataset[name][:, ~there] = float("nan")
    dataset.attrs.clear()
    dataset.to_netcdf(path, engine="h5netcdf")
    metrics = run_correction(config, tmp_path / "run")
    assert 0 < metrics["mae"]["ZO-interface"]["mean"] < 1
    looks, windows = 4, 3  # from 0, 3 and 6: six steps do not follow 9
    (price,) = (price for price in forecast(config, path) if price.label == "ZO-interface")
    assert metrics["validating"]["ZO-interface"] == price.validating == looks * windows * 6
    assert metrics["solver_steps"]["ZO-interface"] == price.solver_steps
