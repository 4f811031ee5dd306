"""A network that is told what the solver is not: parameters of the runs, and the time."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import zopde
from zopde import (
    CorrectedSolver,
    InputError,
    Normalised,
    load_corrector,
    load_solver,
    load_trajectories,
    rollout,
    run_correction,
)
from zopde.data import clock_channels
from zopde.domain import with_forcing
from zopde.errors import PausedError
from zopde.hybrid import Told
from zopde.progress import Silent
from zopde.studies.correct import export_corrector, load_config

SOLVERS = """
import numpy as np
import torch
from zopde import Grid, Mesh, Scenario

LAND = torch.ones(4, 6, dtype=torch.bool)
LAND[1, 2:4] = False
RING = np.arange(8)
GRIDS = {
    "ring": Grid((8,), (8.0,), 0.5, ("u",), units={"time": "h"}),
    "land": Grid((4, 6), (4.0, 6.0), 0.5, ("u",), boundary="open", mask=LAND, units={"time": "h"}),
    "cube": Grid((2, 3, 2), (1.0, 1.0, 1.0), 0.5, ("u",), units={"time": "h"}),
    "mesh": Mesh(np.stack([np.cos(RING), np.sin(RING)], 1), 0.5, ("u",), units={"time": "h"},
                 neighbours=np.stack([RING, np.roll(RING, -1)], 1)),
    "pushed": Grid((8,), (8.0,), 0.5, ("u",), ("push",), units={"time": "h"}),
}


class Decay:
    '''u' = 0.9 u + dt push; the truth decays by a rate of each run, and has a day of 6 hours.'''

    differentiable = False

    def __init__(self, kind="ring"):
        self.grid = GRIDS[kind]

    def step(self, state, forcing=None):
        assert (forcing is None) == (not self.grid.forcing_channels)
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            return 0.9 * state + (0 if forcing is None else 0.5 * forcing)

    def differentiable_twin(self):
        twin = Decay()
        twin.grid, twin.differentiable = self.grid, True
        return twin


class Makes(Decay):
    def at(self, shape):
        return Makes()

    options = {}

    def scenario(self, simulations, generator):
        return Scenario(1 + torch.rand(simulations, 1, 8, generator=generator))
"""
RATES, DAY = np.linspace(0.5, 2.0, 8)[[0, 7, 3, 5, 1, 6, 2, 4]], 6.0
CHANGES = [
    *("data.train=6", "data.test=2", "corrector.sizes={width=6,depth=2,kernel=1}"),
    *("training.unroll=3", "training.batch=4", 'training.length="20 iterations"'),
    *('non.length="500 iterations"', "run.dtype=float64", "interface.way=dense"),
]
TOLD = ['corrector.inputs=["rate"]', "corrector.periods=[6.0]"]


def data_of(shape, dims, units="hours since 1970-01-01 03:00", steps=24):
    """Runs of the truth, and a clock that began three hours before they do."""
    rng, times = np.random.default_rng(0), 0.5 * np.arange(steps + 1)
    state = rng.uniform(1, 2, (8, *shape))
    rates, states = RATES.reshape(8, *[1] * len(shape)), [state]
    for t in times[:-1]:
        state = state * (1 - 0.1 * rates) + 0.2 * np.sin(2 * np.pi * (t + 3) / DAY)
        states.append(state)
    return xr.Dataset(
        {
            "u": (("simulation", "time", *dims), np.stack(states, axis=1)),
            "rate": ("simulation", RATES),
            "push": ("simulation", 0.01 * RATES),
            "flat": ("simulation", 0 * RATES + 3),
            "part": ("simulation", np.where(RATES > 1.9, np.nan, RATES)),
        },
        coords={"time": ("time", times, {"units": units})},
    )


class Notes(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


def run_of(home, name, kind, *changes, progress=None, resume=False):
    (home / "decay.py").write_text(SOLVERS)
    spec, options = f"{home / 'decay.py'}:Decay", {"kind": kind}
    grid = load_solver(spec, options).grid
    data = data_of(grid.shape, grid.dims)
    if kind == "mesh":
        data = data.assign_coords(
            {name: ("point", at) for name, at in zip("xy", grid.positions.T.numpy(), strict=True)}
        )
    data.to_netcdf(home / "data.nc", engine="h5netcdf")
    tables = {"solver": {"spec": spec, "options": options}}
    changes = [*CHANGES, f"data.path={home / 'data.nc'}", *changes]
    config = load_config("quick", None, changes, tables)
    return run_correction(config, home / name, resume, progress=progress)


def test_a_solver_is_not_given_what_a_network_is_told_exact(toy, gen):
    told = Told(toy, with_forcing(toy.grid, ["rate", "hour"]))
    state, forcing = (torch.randn(3, n, 8, 8, generator=gen) for n in (2, 4))
    assert torch.equal(told.step(state, forcing), toy.step(state, forcing[:, :2]))
    assert told.grid.forcing_channels == ("force_y", "force_x", "rate", "hour")
    assert toy.grid.forcing_channels == ("force_y", "force_x")
    for wrong in (None, forcing[:, :2]):
        with pytest.raises(InputError, match=r"forcing: got .*expected \(batch, 4.*rate, hour"):
            told.step(state, wrong)


def test_what_is_told_is_seen_about_its_mean_and_never_corrected_exact(gen):
    class Whole(torch.nn.Module):
        def forward(self, x):
            self.seen = x
            return x[:, 1:2]

    told, scales = {"rate": 300.0, "hour": 0.5}, torch.tensor([4.0, 1e-3, 0.5])
    state = torch.randn(3, 1, 5, generator=gen)
    forcing = torch.tensor([2.0, 300.001, 0.0]).view(1, 3, 1).expand(3, 3, 5)
    network = Normalised(Whole(), torch.tensor([2.0]), scales, 1, "forcing", told=told)
    answer = network(state, forcing)
    expected = torch.tensor([0.5, 1.0, -1.0]).view(1, 3, 1).expand(3, 3, 5)
    torch.testing.assert_close(network.body.seen[:, 1:], expected, rtol=0.05, atol=0)
    torch.testing.assert_close(answer[:, 0], torch.full((3, 5), 2.0))
    assert answer.shape == (3, 3, 5)
    assert not answer[:, 1:].any()
    other = Normalised(Whole(), torch.tensor([2.0]), scales, 1, told=told)
    assert other(state, forcing).shape == state.shape


def test_rate_and_hour_of_each_run_are_learned_when_told_alone(tmp_path):
    labels = 'run.labels=["SRC","NON","ZO-interface"]'
    plain = run_of(tmp_path, "plain", "ring", labels)
    told = run_of(tmp_path, "told", "ring", labels, *TOLD)
    assert told["mae"]["NON"]["mean"] < 0.4 * plain["mae"]["NON"]["mean"]
    assert told["mae"]["SRC"] == plain["mae"]["SRC"]
    assert told["solver_steps"] == plain["solver_steps"]
    assert told["parameters"] == plain["parameters"] + 3 * 6
    # Whoever has the file, the solver and the data goes on from here
    place = tmp_path / "told" / "ZO-interface" / "seed-0"
    solver = load_solver(f"{tmp_path / 'decay.py'}:Decay")
    corrected = CorrectedSolver(solver, load_corrector(place / "model.safetensors"))
    assert corrected.grid.forcing_channels == ("rate", "sin 6", "cos 6")
    data = load_trajectories(tmp_path / "data.nc", corrected.grid).take(slice(6, 8))
    found = rollout(corrected, data.states[:, 0], 24, lambda t: data.forcing[:, t])
    with xr.open_dataset(place / "rollout.nc") as file:
        expected = torch.from_numpy(file["u"].values)[:, :, None]
    torch.testing.assert_close(found, expected)
    with pytest.raises(InputError, match="rate, sin 6, cos 6"):
        corrected.step(data.states[:, 0])


@pytest.mark.parametrize("every", [1, 2])
def test_the_lines_of_the_page_do_what_the_run_did(every, tmp_path, monkeypatch):
    """A file of single steps, a correction every few, in the file's own precision."""
    more = [*TOLD, f"corrector.every={every}", 'run.labels=["SRC","NON"]']
    run_of(tmp_path, "run", "pushed", *more, 'non.length="20 iterations"')
    place = tmp_path / "run" / "NON" / "seed-0"
    page = Path(__file__).parents[2] / "docs" / "howto" / "own-network.md"
    blocks = [rest.partition("```")[0] for rest in page.read_text().split("```python\n")]
    lines = [block for block in blocks if ".strided(" in block]
    assert len(lines) == 2
    with xr.open_dataset(place / "rollout.nc") as file:
        expected = torch.from_numpy(file["u"].values)[:, :, None]
    shutil.copy(place / "model.safetensors", tmp_path)
    shutil.copy(tmp_path / "data.nc", tmp_path / "mine.nc")
    monkeypatch.chdir(tmp_path)
    solver = load_solver("decay.py:Decay", {"kind": "pushed"})
    network = load_corrector(place / "model.safetensors")
    for block in lines:
        known = {"zopde": zopde, "solver": solver, "corrected": CorrectedSolver(solver, network)}
        code = block.replace('"run"', '"model.safetensors"').replace(" 50,", " data.steps,")
        exec(code, known)
        torch.testing.assert_close(known["states"][6:8], expected)


@pytest.mark.parametrize(
    ("kind", "inject", "every", "labels"),
    [
        ("pushed", "after", 1, "NON,ZO-weights"),
        ("pushed", "before", 1, "ZO-interface"),
        ("pushed", "forcing", 1, "ZO-interface,ZO-bank"),
        ("pushed", "parameter", 2, "ZO-interface"),
        ("land", "after", 2, "ZO-interface"),
        ("cube", "before", 1, "ZO-interface"),
        ("mesh", "after", 1, "NOG"),
    ],
)
def test_runs_of_all_kinds_end_as_with_the_twin_and_export(
    kind, inject, every, labels, tmp_path, caplog
):
    names = ["SRC", *labels.split(","), "SOL"]
    changes = ["data.validation=1", f"run.labels={names}".replace("'", '"')]
    changes += [f"corrector.inject={inject}", f"corrector.every={every}", "zo.sparsity=0"]
    changes += ["zo.mu=1e-5", "zo.scheme=central", "interface.scheme=central", "zo.score=none"]
    changes += ["training.init=scratch", 'training.length="12 iterations"', *TOLD]
    sizes = ["corrector.sizes={}"] if kind == "mesh" else []
    metrics = run_of(tmp_path, "run", kind, *changes, *sizes)
    assert not [record for record in caplog.records if record.name.startswith("zopde.oracle")]
    error = {name: metrics["mae"][name]["mean"] for name in names}
    for name in set(names) - {"SRC", "NON", "NOG"}:
        assert error[name] == pytest.approx(error["SOL"], rel=1e-4)
    if inject in ("forcing", "parameter"):  # the solver's one channel is asked for alone
        steps = every * 3
        probes = 2 * 8 * (2 * steps - 1)
        assert metrics["solver_steps"]["ZO-interface"] == 12 * 4 * (steps + probes)
    label = names[1]
    network = load_corrector(tmp_path / "run" / label / "seed-0" / "model.safetensors")
    assert network.told == ("rate", "sin 6", "cos 6")
    made = export_corrector(tmp_path / "run", tmp_path / "c.pt2", label)
    assert "the solver itself has nothing of rate, sin 6, cos 6" in made.card.read_text()
    grid = load_solver(f"{tmp_path / 'decay.py'}:Decay", {"kind": kind}).grid
    own = len(grid.forcing_channels)
    state = torch.rand(3, 1, *grid.shape, dtype=torch.float64)
    forcing = torch.rand(3, own + 3, *grid.shape, dtype=torch.float64)
    answer = network(state, forcing).detach()[:, :1]
    expected = answer.exp() if inject == "parameter" else answer
    alone = torch.export.load(tmp_path / "c.pt2").module()
    torch.testing.assert_close(alone(state, forcing), expected)


def test_a_solver_that_makes_its_data_can_tell_the_time_alone(tmp_path, forecast):
    (tmp_path / "decay.py").write_text(SOLVERS)
    tables = {"solver": {"spec": f"{tmp_path / 'decay.py'}:Makes"}}
    changes = [*CHANGES, "data.fine=[8]", "data.coarse=[8]", "data.steps=9", "data.skip=4"]
    changes += ['non.length="5 iterations"', 'run.labels=["SRC","NON"]']
    with pytest.raises(InputError, match=r"corrector\.inputs: got 'rate'.*--data"):
        run_correction(load_config("quick", None, [*changes, TOLD[0]], tables), tmp_path / "no")
    assert not list(tmp_path.glob("*.nc"))
    config = load_config("quick", None, [*changes, TOLD[1]], tables)
    planned = forecast(config, tmp_path / "none.nc")
    metrics = run_correction(config, tmp_path / "run")
    assert [row.label for row in planned] == ["data", "SRC", "NON"]
    grid = with_forcing(load_solver(tables["solver"]["spec"]).grid, clock_channels([6.0]))
    data = load_trajectories(next(tmp_path.glob("*.nc")), grid)
    angle = torch.tensor(2 * np.pi * 0.5 * (4 + np.arange(10)) / 6.0)
    torch.testing.assert_close(data.forcing[1, :, 0, 5], angle.sin())
    assert metrics["parameters"] == 3 * 6 + 6 + 6 + 1


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ('["time"]', r"corrector\.inputs.*'time'.*another name"),
        ('["u"]', r"corrector\.inputs.*channel 'u'"),
        ('["rate", "rate"]', r"corrector\.inputs.*each once"),
        ('["coordinates", "coordinates"]', r"corrector\.inputs: got .*each once"),
        (
            '["push"]',
            r"corrector\.inputs: got 'push', a forcing.*leave it out: the network sees it",
        ),
        ('["sin 8"]', r"corrector\.inputs: got sin 8, .*corrector\.periods=\[8\]"),
        ('["nope"]', r"a variable 'nope'; .*corrector\.inputs.*\"coordinates\""),
        ('["part"]', r"data 'part': got NaN.*'part' is.*corrector\.inputs.*known everywhere"),
        ('["rate"]\ncorrector.periods=[8,8]', r"corrector\.periods: got \[8\.0, 8\.0\].*each once"),
        (
            '["Rate"]',
            r"data.*got variables u, rate, push, flat, part, expected a variable 'Rate'.*'rate'\?",
        ),
    ],
)
def test_names_that_will_not_do_are_refused(names, said, tmp_path):
    with pytest.raises(InputError, match=said):
        run_of(tmp_path, "run", "pushed", *f"corrector.inputs={names}".split("\n"))


def test_what_never_changes_is_told_in_vain_and_a_line_says_so(tmp_path):
    notes, few = Notes(), ['run.labels=["SRC","NON"]', 'non.length="2 iterations"']
    told = 'corrector.inputs=["rate","flat"]'
    run_of(tmp_path, "run", "pushed", told, *few, progress=notes)
    assert [line for line in notes.said if "is told" in line] == [
        "the network is told what is the same in all training data, "
        "so it cannot learn what that does: flat"
    ]


def test_a_run_that_tells_nothing_says_nothing_of_it(tmp_path):
    """Also where the solver has a forcing, of which nothing is the network's alone."""
    notes, few = Notes(), ['run.labels=["SRC","NON"]', 'non.length="2 iterations"']
    run_of(tmp_path, "run", "pushed", *few, progress=notes)
    assert not [line for line in notes.said if "is told" in line]


def test_a_sine_at_its_zeros_alone_is_told_in_vain(tmp_path):
    """Two steps of half an hour make an hour: the sine is round-off, and the cosine is not."""
    notes, few = Notes(), ['run.labels=["SRC","NON"]', 'non.length="2 iterations"']
    run_of(tmp_path, "run", "ring", "corrector.periods=[1.0]", *few, progress=notes)
    assert [line.rpartition(": ")[2] for line in notes.said if "is told" in line] == ["sin 1"]
    network = load_corrector(tmp_path / "run" / "NON" / "seed-0" / "model.safetensors")
    assert network.input_scale[1] == 1
    assert 0.9 < float(network.input_scale[2]) < 1.1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["corrector.periods=[0.5]"], r"periods: got 0\.5, expected 1 or more, 2 steps of the"),
        (
            ["corrector.periods=[6.0,1.9]", "corrector.every=2"],
            r"periods: got 1\.9, expected 2 or more, 2 corrections; leave it out",
        ),
    ],
)
def test_a_period_that_the_network_cannot_follow_is_refused(changes, said, tmp_path):
    with pytest.raises(InputError, match=said):
        run_of(tmp_path, "run", "ring", *changes)


RIVALS = '"EMU", "CV", "FG", "ES", "EKI", "ZO-interface", "SOL"'
SMALL = [
    *(f'run.labels=["SRC", {RIVALS}]', 'training.length="6 iterations"', "training.init=scratch"),
    *("emu.fit=20", "emu.refit=5", "emu.refit_every=3", "emu.width=4", "fg.directions=2"),
    *("es.members=6", "eki.members=6", 'eki.length="4 iterations"', "interface.watch_every=3"),
    *("cv.directions=2", "training.look_every=0"),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the derivative in use")
@pytest.mark.parametrize(
    "more",
    [
        ["corrector.history=1"],
        [*TOLD, "corrector.history=2", "corrector.every=2", "data.validation=2"],
        [*TOLD, "corrector.inject=forcing"],
    ],
)
def test_every_rival_is_told_and_remembers(more, tmp_path):
    """One network each, trained twice: in one go, and paused in the middle."""
    kind = "pushed" if "corrector.inject=forcing" in more else "ring"
    whole = run_of(tmp_path, "whole", kind, *SMALL, *more)
    errors = {label: of["mean"] for label, of in whole["mae"].items()}
    assert np.isfinite(list(errors.values())).all()
    found = set(errors.values())
    assert len(found) >= len(errors) - 1, "two labels did the same, and not only exact derivatives"
    half = sum(whole["solver_steps"].values()) // 2
    with pytest.raises(PausedError):
        run_of(tmp_path, "parts", kind, *SMALL, *more, f"run.solver_steps={half}")
    again = run_of(tmp_path, "parts", kind, *SMALL, *more, resume=True)
    assert again["mae"] == whole["mae"]
    assert again["solver_steps"] == whole["solver_steps"]


def test_a_parameter_is_what_the_solver_is_given_and_not_what_the_network_is_told(tmp_path):
    changes = ["corrector.inject=parameter", "training.init=scratch", "corrector.every=2"]
    metrics = run_of(
        tmp_path, "run", "pushed", *changes, *TOLD, 'run.labels=["SRC","ZO-interface"]'
    )
    assert list(metrics["learned_parameter"]["first_guess"]) == ["push"]
    found = metrics["learned_parameter"]["ZO-interface"]
    assert list(found) == ["push"]
    with xr.open_dataset(tmp_path / "run/ZO-interface/seed-0/parameter.nc") as file:
        assert file["push"].dims == ("simulation", "time", "x")
        assert "rate" not in file
        assert float(file["push"].mean()) == pytest.approx(found["push"]["mean"], rel=1e-6)
    with xr.open_dataset(tmp_path / "run/first_guess.nc") as file:
        guess = file["push"].isel(time=0, x=0).values
    np.testing.assert_allclose(guess, 0.01 * RATES[6:], rtol=1e-6)
