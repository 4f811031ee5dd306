"""The way that a run chooses by itself: from counts, once, kept in its folder."""

import json
from pathlib import Path

import pytest
import torch

from zopde import InputError, load_config, run_correction
from zopde.progress import Silent
from zopde.studies.correct.price import price_cuts
from zopde.studies.folder import read_record
from zopde.studies.run import price_study, study_named
from zopde.tangent.choose import choose

SIZES = ["data.coarse=[8,8]", "training.unroll=3", 'run.labels=["SRC","ZO-interface"]']
EVERYWHERE = f"{Path(__file__).parents[1] / 'toy_solver.py'}:Everywhere"


class Notes(Silent):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


def config_of(spec, tiny, *changes):
    kept = [change for change in tiny if not change.startswith("interface.")]
    return load_config("quick", None, [*kept, *SIZES, *changes], {"solver": {"spec": spec}})


@pytest.mark.parametrize(
    ("coloured", "bank", "tangent", "way"),
    [
        (128_000, 1, 1280, "coloured"),
        (128_001, 5120, 1280, "bank"),
        (None, 5121, 1280, "tangent"),
        (None, None, 1280, "tangent"),
        (128_001, None, 1280, "tangent"),
        (0, None, 1, "coloured"),
    ],
)
def test_the_rule_goes_by_counts(coloured, bank, tangent, way):
    assert choose(coloured, bank, tangent) == way


@pytest.mark.parametrize(
    ("spec", "changes", "way", "counts"),
    [
        # 12 iterations of 2 windows, 2 products each, of 16 colours and 2 channels
        ("toy", (), "coloured", (12 * 2 * 2 * 32, 1280, 1280)),
        ("toy", ("interface.budget=200",), "coloured", (12 * 2 * 2 * 32, 1280, 200)),
        (EVERYWHERE, (), "bank", (None, 1280, 1280)),
        (EVERYWHERE, ("interface.budget=200", "interface.fit=2"), "tangent", (None, 1280, 200)),
        (EVERYWHERE, ("interface.limit_gib=1e-6",), "tangent", (None, None, 1280)),
    ],
)
def test_a_dry_run_names_the_way_and_measures_no_tangent(
    toy_spec, tiny, tmp_path, spec, changes, way, counts
):
    config, notes = config_of(toy_spec if spec == "toy" else spec, tiny, *changes), Notes()
    study = study_named("correct")
    opened = study.sample(config, tmp_path / "run", notes)
    assert opened.cuts["ZO-interface"].way == way
    (line,) = [line for line in notes.lines if line.startswith("ZO-interface: ")]
    assert line.startswith(f"ZO-interface: {way}, chosen by solver steps")
    for word, count in zip(("coloured", "bank", "tangent"), counts, strict=True):
        none = "not local" if word == "coloured" else "does not fit"
        assert f"{word} {none if count is None else f'{count:,}'}" in line
    assert not list(tmp_path.iterdir())
    if way == "tangent":
        steps = opened.problem.solver.counts()["attempts"]
        price = {row.label: row for row in price_study(study, opened, Silent())}["ZO-interface"]
        assert price.solver_steps == config.interface.budget + 12 * 2 * 2
        assert price.checking == 4  # two for a look, at iterations 0 and 10
        assert price.seconds > 0
        assert opened.problem.solver.counts()["attempts"] - steps < 10 * 512  # steps are timed


def test_the_row_of_the_tangent_has_seconds(toy_spec, tiny, tmp_path):
    def row(*changes):
        config = config_of(toy_spec, tiny, *changes)
        opened = study_named("correct").sample(config, tmp_path / "run", Silent())
        return {row.cut: row for row in price_cuts(opened, Silent())}["interface, tangent"]

    brief, long = row("interface.fit=1"), row("interface.fit=400")
    assert long.setup_seconds > 20 * brief.setup_seconds > 0
    assert long.seconds > 0
    assert "s of fit" in long.note
    little = row("interface.budget=100", "interface.way=dense")
    assert little.setup_steps is None
    assert "at least 160" in little.note


def test_too_small_a_budget_is_refused_before_anything_is_written(toy_spec, tiny, tmp_path):
    config = config_of(toy_spec, tiny, "interface.budget=100")
    with pytest.raises(InputError, match="at least 160"):
        run_correction(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_keeps_the_way_that_it_chose(toy_spec, tiny, tmp_path, monkeypatch):
    root, config = tmp_path / "run", config_of(EVERYWHERE, tiny, "interface.snapshots=2")
    whole = run_correction(config, root)
    kept = json.loads((root / "way.json").read_text())
    assert (kept["way"], kept["coloured"], kept["bank"]) == ("bank", None, 256)
    assert whole["checking_solver_steps"] == kept["checking"] + 4 > 64
    assert whole["solver_steps"]["ZO-interface"] == 256 + 12 * 2 * 2
    monkeypatch.setattr("zopde.studies.correct.ways.chosen_of", None)  # nothing is chosen again
    notes = Notes()
    again = run_correction(config, root, resume=True, progress=notes)
    assert again["mae"] == whole["mae"]
    assert again["checking_solver_steps"] == whole["checking_solver_steps"]
    assert [line for line in notes.lines if "bank, chosen by" in line]
    (root / "way.json").write_text('{"way": "magic"}')
    with pytest.raises(InputError, match=r"way\.json"):
        run_correction(config, root, resume=True)


def test_a_run_of_before_keeps_its_way(toy_spec, tiny, tmp_path):
    root = tmp_path / "run"
    whole = run_correction(config_of(toy_spec, tiny, "interface.way=coloured"), root)
    record = root / "config.toml"
    assert not (root / "way.json").exists()
    record.write_text(record.read_text().replace('way = "coloured"\n', ""))
    again = run_correction(config_of(toy_spec, tiny), root, resume=True)
    assert (again["mae"], again["solver_steps"]) == (whole["mae"], whole["solver_steps"])
    assert read_record(study_named("correct"), record).interface.way == "coloured"
    assert not (root / "way.json").exists()
    with pytest.raises(InputError, match=r"interface\.way"):
        run_correction(config_of(toy_spec, tiny, "interface.way=bank"), root, resume=True)


def test_who_names_a_way_has_it(toy_spec, tiny):
    assert config_of(toy_spec, tiny).interface.way == "auto"
    assert config_of(toy_spec, tiny, "interface.way=dense").interface.way == "dense"
    assert load_config().interface.way == "coloured"  # Burgers: two cells
    assert load_config(tables={"solver": {"spec": "wake"}}).interface.way == "bank"


def test_a_radius_that_the_step_leaves_is_not_passed_over(toy_spec, tiny, tmp_path):
    config = config_of(toy_spec, tiny, "interface.radius=[0,0]")
    with pytest.raises(InputError, match="radius"):
        study_named("correct").sample(config, tmp_path / "run", Silent())


def test_a_tangent_that_was_chosen_trains(tiny, tmp_path):
    changes = "interface.budget=200", "interface.fit=3", "interface.width=4"
    config = config_of(EVERYWHERE, tiny, *changes, "interface.watch_every=0")
    metrics = run_correction(config, tmp_path / "run")
    assert json.loads((tmp_path / "run/way.json").read_text())["way"] == "tangent"
    assert 160 < metrics["solver_steps"]["ZO-interface"] <= 202 + 12 * 2 * 2
    assert torch.tensor(metrics["mae"]["ZO-interface"]["mean"]).isfinite()
