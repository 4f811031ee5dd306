"""PUSH learns single steps from states that its own rollout, or noise, has moved off the data."""

import pytest
import torch

from zopde import InputError, UnrolledObjective, run_correction
from zopde.contracts import Window
from zopde.errors import PausedError
from zopde.hybrid import LastLoss
from zopde.seeding import generator
from zopde.studies.correct import load_config
from zopde.studies.correct.push import PushSettings, moved_off

LABELS = 'run.labels=["SRC","NON","NOG","PUSH"]'
SCALE = torch.tensor([0.5, 2.0], dtype=torch.float64)


def config_of(spec, tiny, *changes):
    return load_config("quick", None, [*tiny, LABELS, *changes], {"solver": {"spec": spec}})


def gradient_of(network, loss):
    grads = torch.autograd.grad(loss, list(network.parameters()))
    return torch.cat([grad.flatten() for grad in grads])


def cut(window, steps):
    """The same windows, shorter."""
    return Window(
        window.stepped, window.targets[:, :steps], window.forcing[:, :steps], window.initial
    )


def pushed(toy, window, corrector):
    """The gradient of PUSH on these windows."""
    objective = UnrolledObjective(toy, window, SCALE, loss=LastLoss(SCALE))
    return gradient_of(corrector, objective(corrector, 1)[0])


def test_the_gradient_is_that_of_one_step_from_a_detached_rollout(toy, window, corrector):
    """The pushforward trick by its definition."""
    state = window.stepped
    for k in range(1, window.unroll):
        state = (state + corrector(state, window.forcing[:, k - 1])).detach()
        state = toy.step(state, window.forcing[:, k])
    off = state + corrector(state, window.forcing[:, -1]) - window.targets[:, -1]
    loss = (off / SCALE.view(2, 1, 1)).square().mean()
    torch.testing.assert_close(pushed(toy, window, corrector), gradient_of(corrector, loss))


def test_nog_is_the_mean_of_push_over_its_steps(toy, window, corrector):
    """After the step the solver carries no gradient, so NOG has pushed all along."""
    nog = UnrolledObjective(toy, window, SCALE)(corrector, 1)[0]
    each = [pushed(toy, cut(window, k), corrector) for k in range(1, window.unroll + 1)]
    torch.testing.assert_close(gradient_of(corrector, nog), torch.stack(each).mean(dim=0))


def test_noise_has_the_size_that_is_said_in_each_channel_and_can_be_drawn_again(window):
    moved = [moved_off(window, 0.1, SCALE, generator(3, "push", i)) for i in (5, 5, 6)]
    assert moved[0].stepped is None
    assert torch.equal(moved[0].initial, moved[1].initial)
    assert not torch.equal(moved[0].initial, moved[2].initial)
    sizes = (moved[0].initial - window.initial).transpose(0, 1).flatten(1).std(dim=1)
    torch.testing.assert_close(sizes, 0.1 * SCALE, rtol=0.2, atol=0)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        (["push.steps=3"], 2 * 3 * 2),
        (["push.steps=1", "push.noise=0.1"], 2 * 3 * 1),
        (["push.noise=0.1", "corrector.every=2"], 2 * 3 * 4),
    ],
)
def test_solver_steps_are_counted_and_foretold_exact(
    changes, steps, toy_spec, tiny, tmp_path, forecast
):
    """12 iterations of 2 * 3 windows; the answer to the first state is stored, but for noise."""
    changes = [*changes, 'non.length="3 iterations"', "interface.watch_every=0"]
    config = config_of(toy_spec, tiny, *changes)
    metrics = run_correction(config, tmp_path / "run")
    assert metrics["solver_steps"]["PUSH"] == 12 * steps
    assert metrics["queries"]["PUSH"] == 12 + 3
    priced = {price.label: price for price in forecast(config, next(tmp_path.glob("*.nc")))}
    assert priced["PUSH"].solver_steps == 12 * steps


def test_an_interrupted_training_goes_on_as_if_it_had_not_been_exact(toy_spec, tiny, tmp_path):
    """With noise, which is drawn anew at every iteration."""
    changes = [*tiny, 'run.labels=["SRC","PUSH"]', "push.noise=0.2", "run.checkpoint_seconds=1e-6"]
    tables = {"solver": {"spec": toy_spec}}
    whole = run_correction(load_config("quick", None, changes, tables), tmp_path / "whole")
    paused = load_config("quick", None, [*changes, "run.solver_steps=60"], tables)
    with pytest.raises(PausedError):
        run_correction(paused, tmp_path / "paused")
    assert not (tmp_path / "paused" / "metrics.json").exists()
    on = load_config("quick", None, [*changes, "run.solver_steps=0"], tables)
    assert run_correction(on, tmp_path / "paused", resume=True)["mae"] == whole["mae"]


def test_windows_that_are_no_push_raise(toy_spec, tiny):
    with pytest.raises(InputError, match=r"push\.steps: got 1, and push\.noise is 0.*NON"):
        config_of(toy_spec, tiny, "push.steps=1")
    with pytest.raises(InputError, match=r"push\.steps: got 4, .*at most training\.unroll = 3"):
        config_of(toy_spec, tiny, "push.steps=4")
    PushSettings(1, 0.1).check(1)


def test_before_the_step_it_has_no_gradient_and_is_refused(toy_spec, tiny):
    with pytest.raises(InputError, match=r"NON, NOG, PUSH with corrector\.inject='before'"):
        config_of(toy_spec, tiny, "corrector.inject=before", "training.init=scratch")
