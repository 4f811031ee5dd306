"""Whole runs through a solver's border: what is checked, kept, told, and not mistaken."""

import json

import pytest

from zopde import ColouredPullback, InputError
from zopde.progress import Silent
from zopde.studies.correct import CorrectionConfig, load_config, run_correction
from zopde.training import read_history


class Notes(Silent):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


def config_of(spec, tiny, *changes):
    sizes = ["data.coarse=[8,8]", "training.unroll=4", 'run.labels=["SRC","ZO-interface"]']
    sizes.append("training.look_every=0")  # its steps are counted in the same column
    return load_config("quick", None, [*tiny, *sizes, *changes], {"solver": {"spec": spec}})


def test_a_run_widens_a_radius_and_resumes_exactly(tmp_path, toy_spec, tiny, monkeypatch):
    """As if the reach had been measured where the flow was at rest."""
    from zopde.studies.correct import cut
    from zopde.training import Optimise

    def too_narrow(
        step, radius, allow_bias, mu, scheme, states, probes, scale, check_every, executor
    ):
        grid = step.solver.grid
        return ColouredPullback(grid, (0, 0), mu, scheme, states, 0.0, scale, check_every)

    monkeypatch.setattr(cut, "coloured_for", too_narrow)
    config, notes = config_of(toy_spec, tiny, "interface={way='coloured',watch_every=5}"), Notes()
    whole = run_correction(config, tmp_path / "whole", progress=notes)
    said = [text for text in notes.lines if "off by" in text]
    assert len(said) == 1
    assert said[0].startswith("ZO-interface, seed 0: iteration 0: coloured, radius (0, 0)")
    assert said[0].endswith("radius (1, 1) from now on")
    update, calls = Optimise.update, []

    def dying(self, *given):
        calls.append(given)
        if len(calls) == 20 + 4:  # NON-start first
            raise KeyboardInterrupt
        update(self, *given)

    monkeypatch.setattr(Optimise, "update", dying)
    with pytest.raises(KeyboardInterrupt):
        run_correction(config, tmp_path / "cut")
    monkeypatch.setattr(Optimise, "update", update)
    path = tmp_path / "cut/ZO-interface/seed-0/reach.json"
    kept = path.read_text()
    for half in ('[[0, "sta', "[7]", '[[0, "nothing", [1, 1]]]'):
        path.write_text(half)
        with pytest.raises(InputError, match=r"reach\.json: got another file, or half of it"):
            run_correction(config, tmp_path / "cut", resume=True)
    path.write_text(kept)
    again = run_correction(config, tmp_path / "cut", resume=True)
    for figure in ("mae", "solver_steps", "checking"):
        assert again[figure] == whole[figure]
    assert json.loads(path.read_text()) == [[0, "state", [1, 1]]]


def test_a_bank_is_watched_by_default_and_its_price_is_apart(tmp_path, toy_spec, tiny):
    config, notes = config_of(toy_spec, tiny, "interface={way='bank',snapshots=3}"), Notes()
    metrics = run_correction(config, tmp_path / "run", progress=notes)
    assert metrics["solver_steps"]["ZO-interface"] == 3 * 128 + 12 * 2 * 3
    assert [text for text in notes.lines if "bank and solver agree" in text]
    rows = (tmp_path / "run/ZO-interface/seed-0/watch.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["0", "10"]
    assert metrics["checking"] == {"SRC": 0, "ZO-interface": 4}


@pytest.mark.parametrize("way", ["coloured", "bank", "dense"])
def test_steps_that_compare_products_are_shown_and_foretold(
    tmp_path, toy_spec, tiny, forecast, way
):
    """After iterations 0, 5 and 10: ten of one state each, or two for a bank."""
    cut = f"interface={{way='{way}',watch_every=5,snapshots=3}}"
    config = config_of(toy_spec, tiny, cut, "data.coarse=[16,16]", "data.fine=[32,32]")
    metrics = run_correction(config, tmp_path / "run")
    rows = read_history(tmp_path / "run/ZO-interface/seed-0/history.csv")
    each = {"coloured": 10, "bank": 2, "dense": 0}[way]
    assert [rows[i].checking for i in (0, 4, 5, 10, 11)] == [each, each, 2 * each, *[3 * each] * 2]
    found = metrics["checking"]["ZO-interface"]
    assert found > 30 if way == "coloured" else found == 3 * each, "the reach is measured, too"
    prices = forecast(config, next(tmp_path.glob("*.nc")))
    assert [price.checking for price in prices] == [0, found]


@pytest.mark.parametrize("labels", ['["SRC","ZO-interface"]', '["SRC","NON"]'])
def test_a_run_with_the_old_meaning_of_mu_keeps_it(tmp_path, toy_spec, tiny, labels):
    changes = ["interface.way=dense", f"run.labels={labels}"]
    config = config_of(toy_spec, tiny, *changes, "interface.mu_of=mean")
    metrics = run_correction(config, tmp_path / "run")
    record = tmp_path / "run" / "config.toml"
    record.write_text(record.read_text().replace('mu_of = "mean"\n', ""))
    today = config_of(toy_spec, tiny, *changes)
    if "NON" in labels:
        run_correction(today, tmp_path / "run", resume=True)
        return
    with pytest.raises(InputError, match=r"setting 'interface.mu_of': got 'channel', exp.* 'mean'"):
        run_correction(today, tmp_path / "run", resume=True)
    assert run_correction(config, tmp_path / "run", resume=True)["mae"] == metrics["mae"]


OLD = "watch_every = 0\ncheck_every = 10\nnear = []\nrank = 64\n"


@pytest.mark.parametrize(
    ("old", "words"),
    [
        (OLD, ""),
        (OLD.replace("[]", "[3]"), r"cannot read \(setting: got 'interface.near'"),
        (OLD.replace("64", "8"), r"cannot read \(setting: got 'interface.rank'"),
        (OLD.replace("every = 0", "every = 2"), r"cannot read \(setting: got 'interface.check_e"),
    ],
)
def test_a_record_of_before_is_read_where_it_means_the_same(tmp_path, toy_spec, tiny, old, words):
    """Compressed banks are gone, and a watch looked at every product of an iteration."""
    config = config_of(toy_spec, tiny, "interface={way='bank',snapshots=3}")
    metrics = run_correction(config, tmp_path / "run")
    record, label = tmp_path / "run/config.toml", tmp_path / "run/ZO-interface/seed-0"
    text = record.read_text()
    assert "watch_every = 10\n" in text
    record.write_text(text.replace("watch_every = 10\n", old))
    rows = ["iteration,mean_agreement,least_agreement,snapshots,fallbacks", "0,0.9,0.75,3,0"]
    (label / "watch.csv").write_text("\n".join(rows) + "\n")
    notes = Notes()
    if words:
        with pytest.raises(InputError, match=words):
            run_correction(config, tmp_path / "run", resume=True)
        return
    again = run_correction(config, tmp_path / "run", resume=True, progress=notes)
    assert (again["mae"], again["solver_steps"]) == (metrics["mae"], metrics["solver_steps"])
    assert [line for line in notes.lines if "0.7500 on average, 0.7500 at the least; 0 s" in line]


def test_a_record_of_a_bank_without_a_watch_keeps_what_it_did():
    """It had room and a fallback, but nothing that would have used them."""
    table = {"way": "bank", "watch_every": 0, "check_every": 7, "more_snapshots": 3, "near": []}
    found = CorrectionConfig.upgrade({"interface": table})["interface"]
    assert found == {"way": "bank", "watch_every": 7, "more_snapshots": 3, "watch_below": 0.0}
    assert CorrectionConfig.upgrade({"interface": found})["interface"] == found
