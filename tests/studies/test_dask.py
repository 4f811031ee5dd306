"""Probes answered by a Dask cluster of this machine."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from zopde import ExecutorOracle, InputError, UnrolledObjective, WeightOracle, cge, load_solver
from zopde.blackbox import Apart, BlackBox, CountedSolver, Dropping, Retrying, failures_of
from zopde.studies.correct import load_config, run_correction
from zopde.studies.workers import dask_executor

distributed = pytest.importorskip("distributed")
HERE = Path(__file__).parent.parent
# Dask's own: sockets and files of processes that were killed, ports in use beside ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:distributed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
SCALE = torch.ones(2).double()


def solver(name, **options):
    return load_solver(f"{HERE / name}", options)


def test_a_worker_killed_in_mid_gradient_costs_nothing(corrector, window, tmp_path):
    mortal = solver("toy_faults.py:Slow", marks=str(tmp_path))
    counter = CountedSolver(BlackBox(mortal))
    objective = UnrolledObjective(counter, window, SCALE)
    expected = cge(WeightOracle(corrector, objective, 8)).gradient
    alone, counter.steps = counter.steps, 0
    (tmp_path / "armed").touch()
    with dask_executor("dask", 2, 1) as executor:
        found = cge(ExecutorOracle(corrector, objective, executor, 8, kept=(counter,))).gradient
    assert list(tmp_path.glob("killed-*")), "one did die"
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert counter.steps == alone


@pytest.mark.slow
def test_a_solver_that_crashes_takes_no_worker_along(corrector, window):
    crashing = Apart(solver("toy_faults.py:Flaky", how="crash", share=0.01))
    counter = CountedSolver(Dropping(Retrying(BlackBox(crashing), times=4)))
    objective = UnrolledObjective(counter, window, SCALE)
    sound = UnrolledObjective(BlackBox(solver("toy_solver.py:Toy")), window, SCALE)
    few = torch.arange(0, 40)
    expected = cge(WeightOracle(corrector, sound, 8), few).gradient
    with dask_executor("dask", 2, 1) as executor:
        found = cge(ExecutorOracle(corrector, objective, executor, 8, kept=(counter,)), few)
    torch.testing.assert_close(found.gradient, expected, rtol=1e-6, atol=1e-9)
    assert failures_of(counter)["the solver's process ended by SIGSEGV"] >= 1


@pytest.mark.slow
def test_a_run_on_a_cluster_agrees_with_workers(tmp_path, toy_spec, tiny):
    def weights(name, *changes):
        settings = [*tiny, 'run.labels=["SRC","ZO-weights"]', *changes]
        config = load_config("quick", None, settings, {"solver": {"spec": toy_spec}})
        run_correction(config, tmp_path / name)
        return load_file(tmp_path / name / "ZO-weights" / "seed-0" / "model.safetensors")

    here = weights("here", "run.workers=2", "zo.chunk=8")
    there = weights("there", "run.workers=2", "run.executor=dask", "zo.chunk=8")
    assert all(torch.equal(here[name], there[name]) for name in here)


def test_a_cluster_that_is_not_there_raises(monkeypatch):
    from zopde.studies import workers as cluster

    monkeypatch.setattr(cluster, "_PATIENCE", "1s")
    with (
        pytest.raises(InputError, match=r"run.executor: got 'dask://127.0.0.1:9'"),
        cluster.dask_executor("dask://127.0.0.1:9", 0, 1),
    ):
        pass
