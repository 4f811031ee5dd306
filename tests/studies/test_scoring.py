"""Masks with the layer-wise ratios of a score, in a whole run."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from zopde import InputError
from zopde.progress import Silent
from zopde.sparsity import LayerRatios
from zopde.studies.correct import load_config, run_correction

ZO = 'run.labels=["SRC","ZO-weights"]'
FEW = "zo.score_directions=3"
# Weights of the tiny corrector: conv 4 -> 3 and conv 3 -> 2, both 3 x 3, and 5 biases.
MASKABLE, ALWAYS = 108 + 54, 5
ACTIVE = MASKABLE - round(0.9 * MASKABLE) + ALWAYS
ASKED = {"random": 0, "magnitude": 0, "grasp": 1, "zo-grasp": 2 * (3 + 1)}
UNROLLED = 2 * 2  # windows, solver steps between three corrections


def config_of(spec, changes):
    return load_config("quick", None, changes, {"solver": {"spec": spec}})


@pytest.mark.parametrize("score", list(ASKED))
def test_costs_are_counted_exact(score, tmp_path, toy_spec, tiny, forecast):
    config = config_of(toy_spec, [*tiny, ZO, FEW, f"zo.score={score}"])
    plan = {row.label: row for row in forecast(config, tmp_path / "none.nc")}["ZO-weights"]
    metrics = run_correction(config, tmp_path / "run")
    queries = ASKED[score] + 12 * (ACTIVE + 1)
    assert plan.queries == metrics["queries"]["ZO-weights"] == 20 + queries
    assert plan.solver_steps == metrics["solver_steps"]["ZO-weights"] == queries * UNROLLED
    kept = json.loads((tmp_path / "run/ZO-weights/seed-0/layer_ratios.json").read_text())
    assert (kept["score"], kept["sparsity"]) == (score, 0.9)
    assert (kept["queries"], kept["solver_steps"]) == (ASKED[score], ASKED[score] * UNROLLED)
    assert kept["seconds"] > 0
    assert LayerRatios.from_tree(kept).active == ACTIVE


def test_relative_mu_scores_with_the_mean_of_its_steps(tmp_path, toy_spec, tiny):
    changes = [*tiny, ZO, FEW, "zo.score=zo-grasp", "zo.mu_relative=true", "zo.mu=1e-2"]
    metrics = run_correction(config_of(toy_spec, changes), tmp_path / "run")
    assert metrics["queries"]["ZO-weights"] == 20 + ASKED["zo-grasp"] + 12 * (ACTIVE + 1)


def test_uniform_masks_write_no_ratios(tmp_path, toy_spec, tiny):
    run_correction(config_of(toy_spec, [*tiny, ZO]), tmp_path / "run")
    assert not list(tmp_path.rglob("layer_ratios.json"))


@pytest.mark.parametrize("lost", [["checkpoint.pt"], ["checkpoint.pt", "layer_ratios.json"]])
def test_interrupted_run_finds_or_repeats_its_ratios_resumes(lost, tmp_path, toy_spec, tiny):
    config = config_of(toy_spec, [*tiny, ZO, FEW, "zo.score=zo-grasp"])
    before = run_correction(config, tmp_path / "run")
    place = tmp_path / "run" / "ZO-weights" / "seed-0"
    weights = load_file(place / "model.safetensors")
    ratios = json.loads((place / "layer_ratios.json").read_text())
    for name in lost:
        (place / name).unlink()
    after = run_correction(config, tmp_path / "run", resume=True)
    again = load_file(place / "model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in weights.items())
    assert json.loads((place / "layer_ratios.json").read_text())["layers"] == ratios["layers"]
    for cost in ("mae", "queries", "solver_steps", "iterations"):
        assert after[cost] == before[cost]


def test_grasp_without_a_twin_raises(tmp_path, toy_spec, tiny, forecast):
    data = f'data.path="{tmp_path / "data.nc"}"'
    run_correction(config_of(toy_spec, [*tiny, data, 'run.labels=["SRC"]']), tmp_path / "one")
    spec = toy_spec.replace(":Toy", ":NoTwin")
    config = config_of(spec, [*tiny, data, ZO, "zo.score=grasp"])
    with pytest.raises(InputError, match=r"zo.score: got 'grasp' .* use 'zo-grasp'"):
        run_correction(config, tmp_path / "two")
    assert not (tmp_path / "two" / "config.toml").exists()
    with pytest.raises(InputError, match=r"zo.score"):
        forecast(config, tmp_path / "data.nc")
    grasp_unused = config_of(spec, [*tiny, data, 'run.labels=["SRC","NON"]', "zo.score=grasp"])
    assert run_correction(grasp_unused, tmp_path / "three")["labels"] == ["SRC", "NON"]


def test_scores_that_are_not_finite_stop_the_label_not_the_run(tmp_path, toy_spec, tiny):
    config = config_of(toy_spec, [*tiny, ZO, FEW, "zo.score=zo-grasp"])
    # No file of settings can say such a mu; it stands for a loss that overflows.
    config = replace(config, zo=replace(config.zo, mu=1e30))
    metrics = run_correction(config, tmp_path / "run")
    assert metrics["stopped_early"]["ZO-weights"] == "scores of the layers not finite"
    assert metrics["queries"]["ZO-weights"] == 20 + ASKED["zo-grasp"]
    assert metrics["iterations"]["ZO-weights"] == 20


def test_unreadable_ratios_raise(tmp_path, toy_spec, tiny):
    config = config_of(toy_spec, [*tiny, ZO, "zo.score=random"])
    run_correction(config, tmp_path / "run")
    (tmp_path / "run" / "ZO-weights" / "seed-0" / "layer_ratios.json").write_text("{")
    with pytest.raises(InputError, match="delete it to score again"):
        run_correction(config, tmp_path / "run", resume=True)


def test_table_of_ratios_is_told(tmp_path, toy_spec, tiny):
    class Listener:
        def __init__(self):
            self.notes = []

        def stage(self, title, total):
            return Silent().stage(title, total)

        def note(self, text):
            self.notes.append(text)

    listener = Listener()
    config = config_of(toy_spec, [*tiny, ZO, "zo.score=magnitude"])
    run_correction(config, tmp_path / "run", progress=listener)
    assert "ZO-weights, seed 0: layers by score 'magnitude'" in listener.notes
    table = [line.split() for line in listener.notes if line.startswith("  ")]
    assert table[0] == ["layer", "weights", "active", "sparsity"]
    assert table[-1][:3] == ["all", str(MASKABLE + ALWAYS), str(ACTIVE)]
