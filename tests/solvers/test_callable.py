"""A Python function as a solver."""

import pickle
from pathlib import Path

import pytest
import torch

from zopde import Grid, InputError, SolverError, load_solver
from zopde.errors import MistakeError
from zopde.plugins import import_user_files, user_files

HERE = Path(__file__).parent
GRID = Grid(shape=(2, 2), extent=(1.0, 1.0), dt=0.1, channels=("a", "b"))
DRIVEN = Grid((2, 2), (1.0, 1.0), 0.1, channels=("a", "b"), forcing_channels=("f", "g"))


def solver(function, grid=GRID, **options):
    spec = f"user_steps.py:{function}" if isinstance(function, str) else function
    return load_solver("callable", {"grid": grid, "function": spec, "home": str(HERE), **options})


def states(batch=3):
    return torch.arange(batch * 8.0).view(batch, 2, 2, 2) / 7


@pytest.mark.parametrize(
    ("function", "options"),
    [
        ("double", {}),
        ("batch", {"batched": True}),
        ("in_torch", {"arrays": "torch"}),
        ("in_torch_batched", {"arrays": "torch", "batched": True}),
        (lambda u: 2 * u, {}),
    ],
)
def test_a_function_steps_every_state_exact(function, options):
    given = states()
    answer = solver(function, **options).step(given)
    assert answer.dtype == given.dtype
    assert answer.equal(2 * given)
    assert given.equal(states())


def test_forcing_exact():
    answer = solver("driven", DRIVEN).step(states(), states().flip(0))
    assert answer.equal(2 * states() + states().flip(0))
    with pytest.raises(InputError, match="forcing"):
        solver("driven", DRIVEN).step(states())


def test_another_process_finds_the_function():
    one = solver("double")
    message, files = pickle.dumps(one), user_files()
    import_user_files(files)
    assert pickle.loads(message).step(states()).equal(one.step(states()))


@pytest.mark.parametrize(
    ("function", "batched", "reason"),
    [
        ("fails_at_13", False, "ValueError: no convergence"),
        ("nan_at_13", False, "NaN"),
        ("nan_at_13", True, "NaN"),
        ("masked_at_13", False, "NaN"),
        ("masked_at_13", True, "NaN"),
    ],
)
def test_a_failed_state_is_told_apart_raises(function, batched, reason):
    given = states()
    given[1] = 13.0
    with pytest.raises(SolverError, match="1 of 3 states failed; state 1") as caught:
        solver(function, batched=batched).step(given)
    (failure,) = caught.value.failures
    assert failure.row == 1
    assert reason in failure.reason
    assert caught.value.answers[::2].equal(2 * given[::2])
    assert caught.value.answers[1].isnan().all()


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(
    ("function", "reason"), [("wrong_shape", "shape"), ("nothing", "something else")]
)
def test_no_state_at_all_raises(function, reason, batched):
    with pytest.raises(SolverError, match=reason):
        solver(function, batched=batched).step(states())


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(
    ("function", "kind"), [("whole", "int64"), ("compared", "bool"), ("masked_whole", "int64")]
)
def test_numbers_of_another_type_are_not_converted_raises(function, kind, batched):
    with pytest.raises(MistakeError, match=f"floating-point numbers: .* of {kind}"):
        solver(function, batched=batched).step(states())


@pytest.mark.parametrize(
    ("function", "got"), [("nothing", "NoneType"), ("whole_in_torch", "int64")]
)
def test_a_torch_function_must_answer_a_tensor_of_reals_raises(function, got):
    with pytest.raises(MistakeError, match=f"something else than a tensor .*{got}"):
        solver(function, arrays="torch").step(states())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"function": "NOT_A_FUNCTION"}, "a int, expected a function"),
        ({"function": "doubel"}, "did you mean 'double'"),
        ({"function": "double", "arrays": "jax"}, "arrays"),
        ({"function": "double", "grid": {"shape": [2, 2]}}, "grid"),
    ],
)
def test_wrong_settings_raises(options, match):
    with pytest.raises(InputError, match=match):
        solver(**options)
