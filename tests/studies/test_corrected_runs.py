"""Runs by a free or learned derivative that queries correct: the label CV, and ZO-random."""

import json

import pytest
from safetensors.torch import load_file

from zopde import InputError, run_correction
from zopde.studies.correct import load_config

pytestmark = pytest.mark.filterwarnings("ignore:the derivative in use")
BASES = ["identity", "bank", "tangent", "emulator"]
SIZES = [
    *("training.look_every=0", "training.init=scratch", "emu.width=4", "emu.fit=10"),
    *("emu.refit=3", "emu.refit_every=4", "interface.budget=320", "interface.fit=10"),
    *("interface.width=4", "interface.snapshots=2", "interface.watch_below=0"),
    *("interface.watch_error=99", "interface.watch_every=5"),
]


def config_of(spec, tiny, *changes, labels=("SRC", "CV")):
    changes = [*tiny, *SIZES, f"run.labels={json.dumps(labels)}", *changes]
    return load_config("quick", None, changes, {"solver": {"spec": spec}})


def weights(folder, label="CV"):
    return load_file(folder / label / "seed-0" / "model.safetensors")


@pytest.mark.parametrize("base", BASES)
def test_with_a_query_for_every_entry_any_base_trains_as_dense(toy_spec, tiny, tmp_path, base):
    """The correction is exact then, so the weights do not depend on what is corrected."""
    many = [f"cv.base={base}", "cv.directions=99", "run.dtype=float64", "interface.mu=1e-6"]
    many += ["interface.way=dense", "training.optimizer=sgd", 'training.length="3 iterations"']
    many += ["corrector.inject=forcing"] if base == "emulator" else []
    both = config_of(toy_spec, tiny, *many, labels=("SRC", "CV", "ZO-interface"))
    run_correction(both, tmp_path / "run")
    one, other = weights(tmp_path / "run"), weights(tmp_path / "run", "ZO-interface")
    few = config_of(toy_spec, tiny, *many, "cv.directions=4")
    run_correction(few, tmp_path / "few")
    third = weights(tmp_path / "few")
    off = [max((w[n] - other[n]).abs().max() for n in one) for w in (one, third)]
    assert off[0] < 1e-2 * off[1]


@pytest.mark.parametrize(("base", "once"), [("identity", 0), ("bank", 2 * 32), ("emulator", 2)])
def test_queries_come_on_top_of_the_base_exact(toy_spec, tiny, tmp_path, base, once, forecast):
    """12 iterations of 2 windows and 2 steps behind the first; 5 queries a product."""
    config = config_of(toy_spec, tiny, f"cv.base={base}", "cv.directions=5")
    metrics = run_correction(config, tmp_path / "run")
    assert metrics["solver_steps"]["CV"] == once + 12 * 2 * 2 * (1 + 5)
    assert metrics["checking"]["CV"] == (0 if base == "identity" else 3 * 2)
    priced = {price.label: price for price in forecast(config, next(tmp_path.glob("*.nc")))}
    assert priced["CV"].solver_steps == metrics["solver_steps"]["CV"]
    assert priced["CV"].checking == metrics["checking"]["CV"]


def test_around_the_identity_it_is_the_way_random_exact(toy_spec, tiny, tmp_path):
    same = ["cv.base=identity", "cv.directions=7", "interface.directions=7"]
    config = config_of(toy_spec, tiny, *same, labels=("SRC", "CV", "ZO-random"))
    found = run_correction(config, tmp_path / "run")
    assert found["mae"]["CV"] == found["mae"]["ZO-random"]


def test_the_way_random_may_correct_others_by_name(toy_spec, tiny):
    config = config_of(toy_spec, tiny, "interface.around=bank", labels=("SRC", "CV", "ZO-random"))
    assert config.cut_of("ZO-random").ways == ("random", "bank")
    assert config.cut_of("CV").ways == ("random", "emulator")
    assert config.cut_of("CV").directions == 16


def test_a_mesh_and_a_small_budget_are_refused_as_for_the_base(toy_spec, tiny, tmp_path):
    mesh = {"solver": {"spec": "heat-mesh"}}
    config = load_config("quick", None, ['run.labels=["SRC","CV"]'], mesh)
    with pytest.raises(InputError, match=r"interface\.around: got 'emulator' on a mesh"):
        run_correction(config, tmp_path / "run")
    small = config_of(toy_spec, tiny, "cv.base=tangent", "interface.budget=10")
    with pytest.raises(InputError, match=r"interface\.budget: got 10 solver steps"):
        run_correction(small, tmp_path / "run")
