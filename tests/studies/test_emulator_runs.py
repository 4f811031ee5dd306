"""Runs by an emulator: what is free and what counts, refits, resumption, what is refused."""

import csv

import pytest
import torch
from safetensors.torch import load_file

from zopde import InputError, run_correction
from zopde.progress import Silent
from zopde.studies.correct import load_config
from zopde.training import Optimise

pytestmark = pytest.mark.filterwarnings("ignore:the derivative in use")
SIZES = [
    *("data.coarse=[8,8]", "data.fine=[16,16]", "training.unroll=4", "training.look_every=0"),
    *("emu.width=4", "emu.fit=20", "emu.refit=5", "emu.refit_every=4", "interface.watch_every=5"),
]


class Notes(Silent):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


def config_of(spec, tiny, *changes, labels='"SRC","EMU"'):
    changes = [*tiny, *SIZES, f"run.labels=[{labels}]", *changes]
    return load_config("quick", None, changes, {"solver": {"spec": spec}})


def weights(folder, label="EMU"):
    return load_file(folder / label / "seed-0" / "model.safetensors")


def rows(folder, name="emulator.csv", label="EMU"):
    return list(csv.DictReader((folder / label / "seed-0" / name).read_text().splitlines()))


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, toy_spec, tiny):
    folder, notes = tmp_path_factory.mktemp("emulator"), Notes()
    metrics = run_correction(config_of(toy_spec, tiny), folder / "whole", progress=notes)
    return folder, metrics, notes.lines


def test_answers_are_free_and_looks_are_counted_exact(whole, toy_spec, tiny, forecast):
    """12 iterations of 2 windows and 3 steps, two steps that tell the solver's symmetry."""
    folder, metrics, lines = whole
    assert metrics["solver_steps"]["EMU"] == 12 * 2 * 3 + 2
    assert metrics["checking"]["EMU"] == 3 * 2 * 1  # iterations 0, 5, 10
    assert [row["iterations"] for row in rows(folder / "whole")] == ["0", "4", "8", "12"]
    assert any("3 refits" in line for line in lines)
    config = config_of(toy_spec, tiny)
    priced = {price.label: price for price in forecast(config, next(folder.glob("*.nc")))}
    assert priced["EMU"].solver_steps == metrics["solver_steps"]["EMU"]
    assert priced["EMU"].checking == metrics["checking"]["EMU"]


@pytest.mark.parametrize("inject", ["after", "before", "forcing"])
@pytest.mark.parametrize("every", [1, 2])
def test_what_was_visited_are_the_solver_s_own_answers(
    toy, toy_spec, tiny, tmp_path, inject, every
):
    """One of each step through which the gradient goes, in every injection."""
    changes = [f"corrector.inject={inject}", f"corrector.every={every}", "run.dtype=float64"]
    changes += ["training.unroll=2", "training.init=scratch"]
    run_correction(config_of(toy_spec, tiny, *changes), tmp_path / "run")
    content = torch.load(tmp_path / "run" / "EMU" / "seed-0" / "refit-12.pt")
    states, forcing, stepped = content["seen"]
    corrected = 2 - (inject == "after")
    assert len(states) == 2 * corrected * every
    torch.testing.assert_close(toy.step(states, forcing), stepped)


def test_a_second_run_does_not_fit_again(whole, toy_spec, tiny, monkeypatch):
    folder, metrics, _ = whole
    from zopde.studies.correct import emulator

    fits, real = [], emulator.fit_values

    def counted(*given, **named):
        fits.append(given[5])
        real(*given, **named)

    monkeypatch.setattr(emulator, "fit_values", counted)
    again = run_correction(config_of(toy_spec, tiny), folder / "again")
    assert fits == ["refit"] * 3
    assert again["mae"] == metrics["mae"]


@pytest.mark.parametrize("update", [27, 20 + 20 + 6, 20 + 20 + 4 + 5 + 4 + 2])
def test_a_run_that_is_cut_off_ends_the_same_exact(
    whole, toy_spec, tiny, tmp_path, monkeypatch, update
):
    """In the first fit, in a refit, and behind the second one; no file is shared."""
    folder, metrics, _ = whole
    real, calls = Optimise.update, []

    def dying(self, *given):
        calls.append(given)
        if len(calls) == update:
            raise KeyboardInterrupt
        real(self, *given)

    monkeypatch.setattr(Optimise, "update", dying)
    with pytest.raises(KeyboardInterrupt):
        run_correction(config_of(toy_spec, tiny), tmp_path / "cut")
    monkeypatch.undo()
    again = run_correction(config_of(toy_spec, tiny), tmp_path / "cut", resume=True)
    assert again["mae"] == metrics["mae"]
    assert again["solver_steps"] == metrics["solver_steps"]
    assert same(weights(tmp_path / "cut"), weights(folder / "whole"))
    assert rows(tmp_path / "cut") == rows(folder / "whole")


def test_without_refits_nothing_is_visited(toy_spec, tiny, tmp_path):
    run_correction(config_of(toy_spec, tiny, "emu.refit_every=0"), tmp_path / "run")
    assert [row["iterations"] for row in rows(tmp_path / "run")] == ["0"]


def test_the_fallback_serves_where_the_derivative_is_wrong(toy_spec, tiny, tmp_path):
    bad = ["interface.watch_below=1", "interface.fallback=dense", "emu.refit_every=0"]
    bad += ["training.init=scratch", "run.dtype=float64"]
    run_correction(config_of(toy_spec, tiny, *bad), tmp_path / "run")
    config = config_of(toy_spec, tiny, *bad, labels='"SRC","ZO-dense"')
    run_correction(config, tmp_path / "dense")
    assert [row["fallback"] for row in rows(tmp_path / "run", "watch.csv")] == ["1"] * 3
    one, other = weights(tmp_path / "run"), weights(tmp_path / "dense", "ZO-dense")
    size = sum((other[name] ** 2).sum() for name in one) ** 0.5
    assert sum(((one[name] - other[name]) ** 2).sum() for name in one) ** 0.5 < 0.05 * size


def test_on_a_mesh_it_is_refused_in_a_line(tmp_path):
    config = load_config(
        "quick", None, ['run.labels=["SRC","EMU"]'], {"solver": {"spec": "heat-mesh"}}
    )
    with pytest.raises(
        InputError, match=r"interface\.way: got 'emulator' on a mesh, expected anoth"
    ):
        run_correction(config, tmp_path / "run")
