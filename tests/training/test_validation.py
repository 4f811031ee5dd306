"""A loss that no gradient sees, looked at now and then: the best weights, and an early end."""

import csv

import pytest
import torch
from torch import nn

from zopde import SolverError
from zopde.training import Backprop, Optimise, Validation, fit, load_checkpoint

LENGTH = 20


def objective_at(iteration):
    """Least squares on a batch that is a function of the iteration."""
    gen = torch.Generator().manual_seed(iteration)
    x = torch.randn(8, 4, generator=gen, dtype=torch.float64)

    def objective(network, num_probes):
        error = network(x.repeat(num_probes, 1)) - x.sum(dim=1, keepdim=True).repeat(num_probes, 1)
        return error.view(num_probes, -1).square().mean(dim=1)

    return objective


def network():
    torch.manual_seed(0)
    return nn.Linear(4, 1).double()


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


class Looks:
    """A validation loss of one's choice for every look; it counts two solver steps each."""

    def __init__(self, losses, every=3, patience=0):
        self.losses, self.seen, self.steps = losses, [], 0
        self.validation = Validation(self.loss_of, every, patience, lambda: self.steps)

    def loss_of(self, net):
        self.steps += 2
        self.seen.append(weights(net).clone())
        found = self.losses[len(self.seen) - 1] if self.losses else float(weights(net).norm())
        if isinstance(found, Exception):
            raise found
        return found


def train(folder, looks=None, gradient=None, **more):
    net, optimise = network(), Optimise("adam", lr=0.05, warmup=3)
    if looks is not None:
        more["validation"] = looks.validation
    source = gradient or Backprop()
    cost = fit(
        net, objective_at, source, optimise, LENGTH, folder, **{"every_seconds": 0.0, **more}
    )
    return net, cost


def rows(folder):
    with (folder / "history.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_a_training_ends_with_the_weights_that_were_best_at_a_look(tmp_path):
    looks = Looks([9.0, 5.0, 2.0, 3.0, float("nan"), 4.0, 2.0, 7.0])  # at 0, 3, ... 18 and 20
    net, cost = train(tmp_path / "looked", looks)
    assert len(looks.seen) == 8
    assert torch.equal(weights(net), looks.seen[2])  # 2.0 at 18 is no better
    assert (cost.best, cost.validation, cost.validating) == (6, 2.0, 16)
    assert (cost.iterations, cost.solver_steps, cost.stopped) == (LENGTH, 0, "")
    told = {row["iteration"]: row["validation"] for row in rows(tmp_path / "looked")}
    assert [told[str(at)] for at in (0, 1, 3, 6, 12)] == ["9.0", "", "5.0", "2.0", "inf"]
    again, same = train(tmp_path / "looked", looks)
    assert torch.equal(weights(again), weights(net))
    assert same == cost
    assert len(looks.seen) == 8


def test_looks_change_nothing_of_a_training_but_which_weights_it_ends_with(tmp_path):
    net, cost = train(tmp_path / "plain")
    looked, _ = train(tmp_path / "looked", Looks([3.0, 1.0, *[2.0] * 6]))
    assert not torch.equal(weights(net), weights(looked))
    last = load_checkpoint(tmp_path / "looked" / "checkpoint.pt")["network"]
    assert all(torch.equal(last[name], value) for name, value in net.state_dict().items())
    assert (cost.best, cost.validation, cost.validating) == (None, None, 0)
    without = [{**row, "validation": ""} for row in rows(tmp_path / "looked")]
    assert without == rows(tmp_path / "plain")


@pytest.mark.parametrize(("patience", "iterations"), [(1, 9), (2, 18), (3, 20), (0, 20)])
def test_patience_ends_a_training_which_is_no_failure(patience, iterations, tmp_path):
    looks = Looks([4.0, 3.0, 2.0, 3.0, 1.0, 3.0, 3.0, 3.0], patience=patience)
    net, cost = train(tmp_path, looks)
    assert (cost.iterations, cost.stopped) == (iterations, "")
    assert cost.best == (6 if patience == 1 else 12)
    assert torch.equal(weights(net), looks.seen[cost.best // 3])
    again, same = train(tmp_path, looks)  # as finished as it was
    assert torch.equal(weights(again), weights(net))
    assert same.iterations == iterations


class Killed(BaseException):
    """Like kill -9: nothing of ours may handle it."""


@pytest.mark.parametrize("killed_at", [0, 1, 6, 7, 19])
@pytest.mark.parametrize("patience", [0, 2])
def test_killed_and_resumed_is_identical_with_looks(killed_at, patience, tmp_path):
    def run(folder, kill=None):
        calls = iter(range(1000))

        def gradient(net, objective, iteration):
            if next(calls) == kill:
                raise Killed
            return Backprop()(net, objective, iteration)

        return train(folder, Looks([], patience=patience), gradient)

    whole, cost = run(tmp_path / "whole")
    if cost.iterations > killed_at:
        with pytest.raises(Killed):
            run(tmp_path / "parts", kill=killed_at)
    net, resumed = run(tmp_path / "parts")
    assert torch.equal(weights(net), weights(whole))
    facts = ("iterations", "queries", "best", "validation", "validating")
    assert [getattr(resumed, name) for name in facts] == [getattr(cost, name) for name in facts]
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_a_look_that_fails_leaves_the_last_whole_iteration(tmp_path):
    with pytest.raises(SolverError):
        train(tmp_path, Looks([4.0, 3.0, SolverError("no answer")]), every_seconds=1e9)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["iterations"] == 6
    looks = Looks([2.0, *[5.0] * 5])  # at 6, which is still due, and later
    net, cost = train(tmp_path, looks)
    assert (cost.best, len(rows(tmp_path))) == (6, LENGTH)
    assert torch.equal(weights(net), looks.seen[0])
