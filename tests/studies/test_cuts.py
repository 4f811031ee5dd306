"""The dry run's table of cuts: what a gradient asks, without asking it."""

import pytest

from zopde.blackbox import CountedSolver
from zopde.progress import Silent
from zopde.studies.correct import load_config
from zopde.studies.correct.check import check_solver
from zopde.studies.correct.cut import coloured_of
from zopde.studies.correct.price import price_cuts
from zopde.studies.run import study_named

SIZES = ["data.coarse=[8,8]", "training.unroll=4", 'run.labels=["SRC"]']


def cuts_of(spec, tiny, folder, *changes):
    config = load_config("quick", None, [*tiny, *SIZES, *changes], {"solver": {"spec": spec}})
    sample = study_named("correct").sample(config, folder / "run", Silent())
    return {row.cut: row for row in price_cuts(sample, Silent())}


@pytest.mark.parametrize(("scheme", "factor"), [("forward", 1), ("central", 2)])
def test_counts_exact(toy_spec, tiny, tmp_path, scheme, factor):
    """2 windows, 3 solver steps each: as tests of whole runs count them."""
    scheme = f"interface.scheme={scheme}"
    cuts = cuts_of(toy_spec, tiny, tmp_path, scheme, "interface.snapshots=5")
    asked = {name: (row.setup_steps, row.steps) for name, row in cuts.items()}
    weights = int(cuts["weights"].note.split()[0].replace(",", ""))
    assert asked == {
        "weights": (0, 6 * (weights + 1)),
        "interface, identity": (0, 6),
        "interface, dense": (0, 6 + 6 * 128 * factor),
        "interface, coloured": (64, 6 + 6 * 32 * factor),
        "interface, regressed": (64, 6 + 6 * 33 * factor),
        "interface, bank": (5 * 128 * factor, 6),
        "interface, tangent": (1280, 6),
        "interface, random": (0, 6 + 6 * 64 * factor),
    }
    assert all(row.seconds > 0 for row in cuts.values())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("inject", ["after", "before", "forcing"])
def test_dry_run_and_solver_check_count_the_same(toy_spec, tiny, tmp_path, inject):
    changes = [*tiny, *SIZES, f"corrector.inject={inject}", "training.init=scratch"]
    planned = load_config("quick", None, changes, {"solver": {"spec": toy_spec}})
    sample = study_named("correct").sample(planned, tmp_path / "run", Silent())
    tables = price_cuts(sample, Silent()), check_solver(planned).costs
    counts = [[(row.cut, row.setup_steps, row.steps) for row in rows] for rows in tables]
    assert counts[0] == counts[1]


def test_the_weight_cut_has_its_row_where_no_label_takes_it(toy_spec, tiny, tmp_path):
    """With `chunk` open it is measured for that row alone."""
    assert cuts_of(toy_spec, tiny, tmp_path, "zo.chunk=0")["weights"].seconds > 0


def test_a_cut_that_will_not_do_says_why(toy_spec, tiny, tmp_path):
    cuts = cuts_of(toy_spec, tiny, tmp_path, "data.coarse=[4,4]", "interface.limit_gib=1e-6")
    for name, why in (("coloured", "colours"), ("bank", "GiB, expected at most")):
        row = cuts[f"interface, {name}"]
        assert (row.setup_steps, row.steps, row.seconds) == (None, None, None)
        assert why in row.note
    assert cuts["interface, dense"].steps == 6 + 6 * 32


def test_what_stands_in_for_the_data_reaches_as_far(tmp_path):
    """Burgers' fluid starts at rest; the data's, 30 steps on, reaches 2 cells."""
    config = load_config("quick", None, ['run.labels=["SRC"]'])
    sample = study_named("correct").sample(config, tmp_path / "run", Silent())
    counter = CountedSolver(sample.problem.solver)
    assert coloured_of(sample.interface, sample.problem, counter, 0)["state"].radius == (2, 2)
