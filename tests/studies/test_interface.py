import csv

import pytest
import torch
from safetensors.torch import load_file

from zopde import InputError
from zopde.progress import Silent
from zopde.studies.correct import load_config, run_correction

LABELS = 'run.labels=["SRC","NOG","ZO-interface","SOL"]'
SIZES = ["data.coarse=[8,8]", "data.fine=[16,16]", "training.unroll=4"]


def config_of(spec, tiny, *changes):
    changes = [*tiny, *SIZES, LABELS, "interface.way=coloured", *changes]
    return load_config("quick", None, changes, {"solver": {"spec": spec}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("interface")


@pytest.mark.parametrize(
    ("kind", "setup", "asked"),
    [
        *(("coloured", 64, 32), ("dense", 0, 128), ("random", 0, 64), ("bank", 1280, 0)),
        *(("identity", 0, 0), ("regressed", 64, 33)),
    ],
)
def test_training_by_queries_ends_where_sol_does(
    folder, toy_spec, tiny, kind, setup, asked, forecast
):
    """12 iterations of 2 windows of 4 steps, of which 3 ask the solver, forward and backward."""
    config = config_of(toy_spec, tiny, f"interface.way={kind}")
    metrics = run_correction(config, folder / kind)
    planned = {row.label: row for row in forecast(config, folder / "none.nc")}
    assert metrics["solver_steps"]["ZO-interface"] == setup + 12 * 2 * 3 * (1 + asked)
    assert planned["ZO-interface"].solver_steps == metrics["solver_steps"]["ZO-interface"]
    assert planned["NOG"].solver_steps == metrics["solver_steps"]["NOG"] == 12 * 2 * 3
    assert planned["ZO-interface"].checking == metrics["checking"]["ZO-interface"]
    assert metrics["queries"]["ZO-interface"] == metrics["queries"]["SOL"]
    if kind not in ("random", "identity"):
        nog, zo, sol = (
            torch.cat([v.flatten() for _, v in sorted(load_file(place).items())])
            for place in (
                folder / kind / label / "seed-0" / "model.safetensors"
                for label in ("NOG", "ZO-interface", "SOL")
            )
        )
        assert (zo - sol).norm() < 0.05 * (nog - sol).norm()


WATCHED = (
    "interface={watch_every=2,watch_below=0.999,snapshots=2,more_snapshots=9,"
    "lookup='nearest',way='%s'}"
)


@pytest.mark.parametrize("kind", ["coloured", "random", "bank", "regressed"])
def test_an_interrupted_training_resumes_exactly(folder, toy_spec, tiny, kind, monkeypatch):
    config = config_of(toy_spec, tiny, WATCHED % kind)
    whole = run_correction(config, folder / f"whole-{kind}")
    from zopde.training import Optimise

    update, calls = Optimise.update, []

    def dying(self, *given):
        calls.append(given)
        if len(calls) == 20 + 12 + 7:  # NON-start and NOG first
            raise KeyboardInterrupt
        update(self, *given)

    monkeypatch.setattr(Optimise, "update", dying)
    with pytest.raises(KeyboardInterrupt):
        run_correction(config, folder / f"cut-{kind}")
    monkeypatch.undo()
    again = run_correction(config, folder / f"cut-{kind}", resume=True)
    assert again["mae"] == whole["mae"]
    assert again["solver_steps"] == whole["solver_steps"]
    rows = []
    for name in ("whole", "cut"):
        path = folder / f"{name}-{kind}" / "ZO-interface" / "seed-0" / "history.csv"
        rows.append(list(csv.DictReader(path.read_text().splitlines())))
    if kind in ("bank", "regressed"):
        watched = [
            (folder / f"{name}-{kind}/ZO-interface/seed-0/watch.csv").read_text().splitlines()
            for name in ("whole", "cut")
        ]
        assert watched[0] == watched[1]
        assert len(watched[0]) == 1 + 6
        for name in ("agreement", "error"):
            seen = [row[name] for row in rows[0]]
            assert all(seen[::2])
            assert not any(seen[1::2])
        assert watched[0][0] == "iteration,agreement,error,snapshots,fallback"
        assert (
            watched[0][1]
            == f"0,{rows[0][0]['agreement']},{rows[0][0]['error']},{3 * (kind == 'bank')},0"
        )
    assert all(bool(row["variance"]) == (kind == "random") for row in rows[0])
    names = ("loss", "gradient_norm", "solver_steps", "agreement", "error", "variance")
    assert [[r[n] for n in names] for r in rows[0]] == [[r[n] for n in names] for r in rows[1]]


class Notes(Silent):
    """What a run says."""

    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)

    def about(self, word):
        return [line for line in self.lines if word in line]


AMORTISED = [
    "interface.way=bank",
    "interface.snapshots=3",
    'run.labels=["SRC","ZO-interface"]',
]


def test_a_second_run_measures_nothing(tmp_path, toy_spec, tiny):
    one, two = (config_of(toy_spec, tiny, *AMORTISED, f"run.seeds=[{s}]") for s in (0, 1))
    notes = [Notes(), Notes(), Notes()]
    first = run_correction(one, tmp_path / "one", progress=notes[0])
    assert notes[0].about("3 Jacobians, 384 solver steps once")
    folder = next(tmp_path.glob("*.jacobians"))
    assert len(list(folder.iterdir())) == 3
    second = run_correction(two, tmp_path / "two", progress=notes[1])
    assert notes[1].about("3 Jacobians, 384 solver steps once before, none now")
    assert second["solver_steps"] == first["solver_steps"]
    sorted(folder.iterdir())[1].unlink()
    run_correction(one, tmp_path / "three", progress=notes[2])
    assert notes[2].about("3 Jacobians, 384 solver steps, 128 of them now")
    left, right = (
        load_file(tmp_path / name / "ZO-interface/seed-0/model.safetensors")
        for name in ("one", "three")
    )
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(("fallback", "probes"), [("dense", 128), ("coloured", 32)])
def test_the_fallback_is_counted_and_told(tmp_path, toy_spec, tiny, fallback, probes):
    """No agreement is 1.1: from the first look on all products of 2 states are answered by it."""
    watched = ["interface.watch_every=2", "interface.watch_below=1.1"]
    notes, config = (
        Notes(),
        config_of(toy_spec, tiny, *AMORTISED, *watched, f"interface.fallback={fallback}"),
    )
    metrics = run_correction(config, tmp_path / "run", progress=notes)
    assert notes.about(f"; {fallback} served after 6 of 6 looks; 0 snapshots added")
    setup = 384 + (64 if fallback == "coloured" else 0)
    asked = metrics["solver_steps"]["ZO-interface"] - setup - 12 * 2 * 3
    products = asked / (2 * probes)
    assert products in (36, 35, 34), "the first look is at one of three products"


@pytest.mark.parametrize("inject", ["after", "forcing"])
def test_a_bad_fit_is_told_and_the_fallback_serves(tmp_path, toy_spec, tiny, inject):
    """A step reaches one cell, and the fit is allowed none: dense serves from the first look on."""
    narrow = ["interface.radius=[0,0]", "interface.allow_bias=true", "interface.watch_below=0.999"]
    narrow += [f"corrector.inject={inject}", "training.init=scratch", "interface.way=regressed"]
    config = config_of(
        toy_spec, tiny, *narrow, "interface.fallback=dense", 'run.labels=["SRC","ZO-interface"]'
    )
    notes = Notes()
    run_correction(config, tmp_path / "run", progress=notes)
    (bad,) = notes.about("the fit by the state is bad along a direction")
    assert bad.startswith("ZO-interface, seed 0: iteration 0: ")
    assert not notes.about("by the forcing is bad")
    assert notes.about("dense served after 2 of 2 looks")


def test_a_fallback_that_serves_does_so_after_a_resume(tmp_path, toy_spec, tiny, monkeypatch):
    """Looks at iterations 0, 5 and 10; killed in iteration 3."""
    watched = ["interface.watch_every=5", "interface.watch_below=1.1", "interface.fallback=dense"]
    config = config_of(toy_spec, tiny, *AMORTISED, *watched)
    whole = run_correction(config, tmp_path / "whole")
    from zopde.training import Optimise

    update, calls = Optimise.update, []

    def dying(self, *given):
        calls.append(given)
        if len(calls) == 20 + 4:  # NON-start first
            raise KeyboardInterrupt
        update(self, *given)

    monkeypatch.setattr(Optimise, "update", dying)
    with pytest.raises(KeyboardInterrupt):
        run_correction(config, tmp_path / "cut")
    monkeypatch.undo()
    again = run_correction(config, tmp_path / "cut", resume=True)
    assert (again["mae"], again["solver_steps"]) == (whole["mae"], whole["solver_steps"])
    seen = [tmp_path / name / "ZO-interface/seed-0/watch.csv" for name in ("whole", "cut")]
    assert seen[0].read_text() == seen[1].read_text()
    assert [row[-2:] for row in seen[0].read_text().splitlines()[1:]] == [",1"] * 3


def test_workers_fill_the_same_bank(tmp_path, toy_spec, tiny):
    found = []
    for workers in (1, 2):
        config = config_of(toy_spec, tiny, *AMORTISED, f"run.workers={workers}")
        folder = tmp_path / str(workers)
        metrics = run_correction(config, folder / "run")
        files = sorted(next(folder.glob("*.jacobians")).iterdir())
        found.append((metrics["solver_steps"], [(f.name, f.read_bytes()) for f in files]))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("interface.way=colored", "interface.way"),
        ("interface.mu=0", "interface.mu"),
        ("interface.radius=[1]", "interface.radius"),
        ("interface.radius=[0,0]", r"reaches \(1, 1\) cells"),
        ("data.coarse=[4,4]", "colours"),
        ("interface.near=[1]", "got 'interface.near'"),
        ("interface.check_every=3", "its new name 'interface.watch_every'"),
        ("interface={way='bank',fallback='coloured',radius=[0,0]}", r"reaches \(1, 1\)"),
        (
            "interface={way='bank',snapshots=3,limit_gib=1e-5}",
            "fewer snapshots or a coarser.*tangent",
        ),
        ("interface={way='bank',snapshots=99999}", "99999 x 128 x 128 entries"),
    ],
)
def test_settings_that_will_not_do_raise_before_training(folder, toy_spec, tiny, change, words):
    with pytest.raises(InputError, match=words):
        run_correction(config_of(toy_spec, tiny, change), folder / "never")
    assert not (folder / "never" / "config.toml").exists()
