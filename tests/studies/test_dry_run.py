"""What a run would find out before it makes its reference data, a dry run finds out as well."""

from pathlib import Path

import pytest

from zopde import InputError, load_config, run_correction
from zopde.progress import Silent
from zopde.studies.correct.open import open_sample

SOLVERS = """
import torch
from toy_solver import Toy

class Cut(Toy):
    def downsample(self, fine):
        return fine[..., : self.grid.shape[0], : self.grid.shape[1]]

class Even(Toy):
    def __init__(self, shape=(8, 8), viscosity=0.2):
        assert shape[0] != 18, "no such mesh"
        super().__init__(shape, viscosity)

class NoMeans(Cut):
    def step(self, state, forcing=None):
        raise RuntimeError("simulated before it was checked")
"""


@pytest.fixture
def refused(tmp_path, tiny, toy_spec, monkeypatch):
    """(solver, settings) -> the line with which run and dry run refuse, before anything is made."""
    monkeypatch.syspath_prepend(str(Path(toy_spec).parent))
    (tmp_path / "solvers.py").write_text(SOLVERS)

    def refused(name, *changes):
        spec = f"{tmp_path / 'solvers.py'}:{name}" if name[0].isupper() else name
        small = [change for change in tiny if not change.startswith("corrector")]
        config = load_config("quick", None, [*small, *changes], {"solver": {"spec": spec}})
        said = []
        for begin in (run_correction, lambda *given: open_sample(*given, Silent())):
            with pytest.raises(InputError) as caught:
                begin(config, tmp_path / "run")
            said.append(str(caught.value))
        assert not list(tmp_path.glob("*.nc"))
        assert said[0] == said[1]
        return said[0]

    return refused


@pytest.mark.parametrize(
    ("solver", "coarse"),
    [
        ("burgers", [7, 7]),
        ("shallow-water", [7, 64]),
        ("wake", [48, 32]),
        ("turbulence", [7, 7, 7]),
        ("kuramoto-sivashinsky", [60]),
        ("heat-mesh", [1089]),
    ],
)
def test_cells_that_do_not_divide_the_fine_ones_raise(refused, solver, coarse):
    fine = [289] if solver == "heat-mesh" else [64] * len(coarse)
    simple = "interface.way=identity", "corrector.every=1"
    line = refused(solver, f"data.coarse={coarse}", f"data.fine={fine}", *simple)
    assert line.startswith("data.coarse: ")


def test_a_downsample_that_gives_other_cells_raises(refused):
    """It is tried before the first step."""
    line = refused("NoMeans", "data.fine=[2,2]")
    assert "got (2, 2, 2) -> (2, 2, 2), expected (2, 4, 4)" in line


def test_a_forcing_that_has_no_means_raises(refused):
    assert "(18, 18) -> (4, 4), expected divisors" in refused("Cut", "data.fine=[18,18]")


def test_what_the_constructor_raises_on_the_fine_cells_raises_in_one_line(refused):
    line = refused("Even", "data.fine=[18,16]")
    assert line.startswith("data.fine: got (18, 16) (no such mesh), expected cells")


def test_data_larger_than_the_memory_raise(refused):
    assert "GiB" in refused("Cut", "data.steps=1000000000")


def test_fewer_steps_than_an_unroll_raise_before_they_are_made(refused):
    assert "got 2 steps in a run" in refused("NoMeans", "data.steps=2")


@pytest.mark.usefixtures("refused")
def test_a_folder_where_no_data_can_be_written_raises_before_they_are_made(tmp_path, tiny):
    (tmp_path / "solvers.py").write_text(SOLVERS)
    spec = f"{tmp_path / 'solvers.py'}:NoMeans"
    tables = {"solver": {"spec": spec}, "data": {"path": f"{tmp_path / 'solvers.py'}/data.nc"}}
    with pytest.raises(InputError, match="folder of the data file"):
        run_correction(load_config("quick", None, tiny, tables), tmp_path / "run")
