"""What `zopde check solver` finds in solvers that are wrong in one way each."""

import json
import sys
from pathlib import Path

import pytest
import torch

from zopde import DensePullback, load_solver
from zopde.check.digits import narrower_dtype, significant_digits
from zopde.cli import app
from zopde.interface import Step
from zopde.studies.correct import load_config
from zopde.studies.correct.check import check_solver
from zopde.studies.correct.check.states import typical_states
from zopde.studies.correct.open import open_solver, reference_of

HERE = Path(__file__).parent.parent
PRECISE = ["data.coarse=[8,8]", "run.dtype=float64", "corrector.sizes={width=3,depth=2}"]


def config(kind, *changes, **options):
    spec = f"{HERE / 'toy_odd.py'}:{kind}"
    tables = {"solver": {"spec": spec, "options": options}}
    return load_config("quick", None, [*PRECISE, *changes], tables)


def points(found):
    return {point.name: point for point in found.points}


@pytest.fixture(scope="module")
def sound():
    return check_solver(config("Sound"))


def test_a_sound_solver_passes_every_point(sound):
    assert sound.passed
    assert {p.verdict for p in sound.points if p.name != "reach"} <= {"pass", "warn"}
    names = ["contract", "repeats", "memory", "batch", "time", "NaN", "precision", "state"]
    assert list(points(sound))[:8] == names
    assert points(sound)["precision"].values == {"significant_digits": None, "held_by": ""}
    assert points(sound)["reach"].values["radius"] == [1, 1]
    assert "smooth random fields of amplitude 1" in sound.states
    json.dumps(sound.as_dict(), allow_nan=False)


def test_costs_count_what_a_gradient_asks(sound):
    planned = config("Sound")
    once = planned.training.batch * (planned.training.unroll - 1)
    steps = {row.cut: row.steps for row in sound.costs}
    assert steps["interface, dense"] == once * (1 + 128)
    assert steps["interface, bank"] == once
    weights = int(sound.assumed.split()[0].replace(",", ""))
    assert steps["weights"] == once * (1 + round(0.1 * weights))


@pytest.mark.parametrize(
    ("kind", "point", "said", "remedy"),
    [
        ("Shapeless", "contract", "got shape", "OneAtATime"),
        ("Narrow", "contract", "got dtype torch.float32", "dtype"),
        ("Writes", "contract", "changes its argument", "clone"),
        ("Returns", "contract", "answers with its argument", "copy"),
        ("Sticks", "contract", "raised ValueError: only one", "OneAtATime"),
        ("Mixes", "batch", "alone and in a batch differ", "OneAtATime"),
        ("Random", "repeats", "two answers to one state differ", "with_seed"),
        ("Swallows", "NaN", "a finite answer to a NaN", "SolverError"),
        ("Spreads", "NaN", "spoils another's answer", "OneAtATime"),
    ],
)
def test_what_is_wrong_is_found_and_a_remedy_said(kind, point, said, remedy):
    found = check_solver(config(kind))
    failed = [p for p in found.points if p.verdict == "fail"]
    assert not found.passed
    assert point in [p.name for p in failed]
    one = points(found)[point]
    assert said in one.found
    assert remedy in one.remedy


def test_a_program_that_fails_is_told_from_one_that_answers_wrongly(tmp_path):
    grid = {"shape": [4, 4], "extent": [1.0, 1.0], "dt": 0.1, "channels": ["a"]}
    options = {"command": [sys.executable, "-SE", "{home}/nosuch.py"], "grid": grid}
    options |= {"home": str(tmp_path), "failed": str(tmp_path / "failed")}
    planned = load_config("quick", None, [], {"solver": {"spec": "command", "options": options}})
    (contract,) = check_solver(planned).points
    assert contract.verdict == "fail"
    assert "nosuch.py" in contract.found
    assert "what the first one that failed says" in contract.remedy


def test_a_scenario_is_looked_at_where_the_data_would_be(toy_spec, tiny):
    """At its start a flow may be slower than later, and its reach shorter."""
    planned = load_config("quick", None, tiny, {"solver": {"spec": toy_spec}})
    solver = open_solver(planned)
    found = typical_states(reference_of(planned, solver, Path()), bool(planned.data.path), 1.0)
    assert found.source.endswith(f" {planned.data.skip + planned.data.steps} steps")
    assert found.state.shape == (4, *solver.grid.state_shape)
    assert found.forcing is not None


def test_a_parameter_is_checked_on_positive_fields(tmp_path):
    (tmp_path / "decay.py").write_text(
        "import zopde\n"
        "class Decay:\n"
        "    grid = zopde.Grid((8, 8), (1.0, 1.0), 0.1, ('u',), ('rate',))\n"
        "    def step(self, state, forcing):\n"
        "        assert (forcing > 0).all(), 'a rate is positive'\n"
        "        return state * (-0.1 * forcing).exp()\n"
    )
    tables = {"solver": {"spec": f"{tmp_path / 'decay.py'}:Decay"}}
    own = ["corrector.sizes={width=3,depth=2}", "training.init=scratch"]
    inject = load_config("quick", None, [*own, "corrector.inject=parameter"], tables)
    found = check_solver(inject)
    assert found.passed
    assert "parameters are positive" in found.states
    assert points(found)["weight mu"].values["recommended_mu"] > 0
    after = check_solver(load_config("quick", None, own, tables))
    assert "a rate is positive" in points(after)["contract"].found


def test_noise_that_a_seed_fixes_passes():
    found = check_solver(config("Random", seedable=True))
    assert points(found)["repeats"].verdict == "pass"
    assert "with a seed they do not" in points(found)["repeats"].found
    assert found.passed


def test_six_digits_are_seen_and_the_recommended_mu_gives_the_gradient():
    planned = config("Text", "interface.mu=1e-6")
    found = points(check_solver(planned))
    assert found["precision"].values["significant_digits"] == 6
    assert found["precision"].verdict == "warn"
    assert "text output" in found["precision"].found
    chosen = found["interface mu"]
    assert chosen.verdict == "warn"
    assert chosen.values["configured_relative_error"] > 0.5, "with the mu of full precision"
    assert "set interface.mu=" in chosen.remedy
    text, exact = (load_solver(f"{HERE / 'toy_odd.py'}:{kind}") for kind in ("Text", "Sound"))
    states = typical_states(reference_of(planned, text, Path()), bool(planned.data.path), 1.0)
    v = torch.randn(states.state.shape, generator=torch.Generator().manual_seed(1)).double()

    def gradient(solver, mu):
        step = Step(solver, states.state, None, solver.step(states.state))
        return DensePullback(mu * states.scale)(step, v).flatten()

    reference = gradient(exact, 1e-6)
    cosines = [
        float(torch.cosine_similarity(gradient(text, mu), reference, dim=0))
        for mu in (chosen.values["recommended_mu"], 1e-6)
    ]
    assert cosines[0] >= 0.99
    assert cosines[1] < 0.9
    assert found["weight mu"].values["relative_error"] < 0.14


@pytest.mark.parametrize("digits", [3, 6, 10])
def test_digits_are_counted(digits, gen):
    values = torch.randn(500, generator=gen).double()
    rounded = torch.tensor([float(f"{v:.{digits}g}") for v in values.tolist()]).double()
    exact = torch.tensor([float(f"{v:.{digits}g}") for v in values.tolist()], dtype=torch.float64)
    assert significant_digits(exact) == digits
    assert significant_digits(values) is None
    assert narrower_dtype(rounded) == "float32"
    if digits <= 6:
        assert significant_digits(exact.float()) == digits
    assert significant_digits(values.float()) is None
    assert significant_digits(torch.zeros(99)) is None


def test_command_says_it_and_ends_with_1_where_a_point_fails(capsys, monkeypatch):
    def run(kind, *more):
        spec = f"{HERE / 'toy_odd.py'}:{kind}"
        changes = [part for change in PRECISE for part in ("--set", change)]
        monkeypatch.setattr(sys, "argv", ["zopde", "check", "solver", spec, *changes, *more])
        with pytest.raises(SystemExit) as ended:
            app.main()
        return ended.value.code, capsys.readouterr().out

    code, out = run("Mixes", "--json")
    assert code == 1
    said = json.loads(out)
    assert said["passed"] is False
    code, out = run("Sound")
    assert code == 0
    assert "interface, coloured" in out
    assert "one gradient:" in out
    assert run("NoSuch")[0] == 2
    assert run("Sound", "--amplitude=-1")[0] == 2
