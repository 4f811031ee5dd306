"""Every kind of file that a run reads again, damaged at random: refused, or the same numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from zopde import InputError, Normalised, Trajectories, load_classifier, load_corrector
from zopde.blackbox.store import Store
from zopde.data import load_rollout, load_trajectories, save_trajectories
from zopde.files import key_of
from zopde.interface import Bank, JacobianStore, Key, Probing, Step
from zopde.nets import SmallCNN, build_corrector
from zopde.sparsity import LayerRatios
from zopde.sparsity.ratios import LayerRatio
from zopde.studies.classifiers import StandardisedClassifier, save_classifier
from zopde.studies.correct.evaluate import save_corrector
from zopde.studies.defended import Defence, load_defended, save_defended
from zopde.studies.folder import RunFolder
from zopde.studies.scores import Scoring, read_scoring, write_scoring
from zopde.training import Fitted, load_checkpoint, save_checkpoint

PROBING = Probing(1e-3, states=10)


def flat(tree):
    """The numbers of anything that was read, as bytes, and the words between them."""
    if isinstance(tree, torch.Tensor):
        return [str(tree.dtype), tuple(tree.shape), tree.detach().numpy().tobytes()]
    if isinstance(tree, dict):
        return [[name, flat(value)] for name, value in sorted(tree.items())]
    return [flat(value) for value in tree] if isinstance(tree, list | tuple) else tree


def data_file(folder, toy, gen):
    grid = toy.at((4, 4)).grid
    states, forcing = torch.randn(2, 2, 6, 2, 4, 4, generator=gen)
    path = folder / "data.nc"
    save_trajectories(Trajectories(grid, states, forcing, {"solver": "toy", "skip": 2}), path)

    def read():
        data = load_trajectories(path, grid)
        return data.states, data.forcing, data.settings

    return path, read


def rollout_file(folder, toy, gen):
    states = torch.randn(2, 6, 2, 4, 4, generator=gen)
    states[1, 3:] = torch.nan
    path = folder / "rollout.nc"
    save_trajectories(Trajectories(toy.at((4, 4)).grid, states), path)
    return path, lambda: load_rollout(path).states


def checkpoint(folder, toy, gen):
    network = SmallCNN(1, 4, width=5)
    state = {"network": network.state_dict(), "iterations": 7, "seconds": 1.5, "stopped": ""}
    save_checkpoint(folder / "checkpoint.pt", state)
    return folder / "checkpoint.pt", lambda: load_checkpoint(folder / "checkpoint.pt")


def corrector(folder, toy, gen):
    body = build_corrector("conv", 4, 2, "periodic", {"width": 4, "depth": 2})
    torch.nn.init.normal_(body.layers[-1].weight, generator=gen)
    network, path = Normalised(body, torch.rand(2), torch.rand(2)), folder / "model.safetensors"
    save_corrector(network, "conv", {"width": 4, "depth": 2}, "toy", path)
    return path, lambda: load_corrector(path).state_dict()


def classifier(folder, toy, gen):
    model = StandardisedClassifier(SmallCNN(1, 4), torch.rand(1), torch.ones(1), tuple("abcd"))
    path = folder / "classifier.safetensors"
    save_classifier(model, "cnn", {"depth": 1, "width": 18}, 1, path)

    def read():
        found = load_classifier(path)
        return found.state_dict(), found.classes

    return path, read


def defence(folder, toy, gen):
    path = folder / "defence.safetensors"
    save_defended(Defence(1, 8, 3, 4, 5), 0.25, 16.0, 10, "mine:name", path)

    def read():
        found = load_defended(path, torch.nn.Identity())
        return found.state_dict(), found.sigma, found.classes

    return path, read


def store(folder, toy, gen):
    path = folder / "answers.sqlite"
    rows = {key_of("toy", torch.tensor(i)): bytes([i]) * 400 for i in range(20)}
    kept = Store(path)
    kept.write(rows.items())
    kept._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    kept._database.execute("PRAGMA journal_mode=DELETE")
    kept._database.close()

    def read():
        found = Store(path)
        known = found.read(list(rows))
        found._database.close()
        assert all(rows[key] == answer for key, answer in known.items())

    return path, read


def step_of(toy, gen):
    solver = toy.at((4, 4))
    state, forcing = torch.randn(2, 1, 2, 4, 4, generator=gen)
    return Step(solver, state, forcing, solver.step(state, forcing))


def jacobian(folder, toy, gen):
    step = step_of(toy, gen)
    JacobianStore(folder / "bank", "toy").fetch(step, PROBING)
    (path,) = (folder / "bank").iterdir()
    path.chmod(0o644)

    def read():  # what is damaged is measured anew, to the same numbers
        return JacobianStore(folder / "bank", "toy").fetch(step, PROBING)

    return path, read


def snapshots(folder, toy, gen):
    step, path = step_of(toy, gen), folder / "state.pt"
    key = Key(torch.ones(2))
    Bank(3, key, "state", PROBING, None, path).add(step, tag=1)

    def read():
        bank = Bank(3, key, "state", PROBING, None, path)
        bank.restore(step.solver, 5)
        return bank.listed

    return path, read


def ratios(folder, toy, gen):
    layers = tuple(LayerRatio(f"layer{i}", 100 + i, 10 + i, True) for i in range(6))
    path = folder / "layer_ratios.json"
    scoring = Scoring(LayerRatios(layers), Fitted(0, 5, 6, 1.25))
    write_scoring(RunFolder(folder), path, scoring, "random", 0.9)
    return path, lambda: str(read_scoring(path))


KINDS = [
    *(data_file, rollout_file, checkpoint, corrector, classifier, defence),
    *(store, jacobian, snapshots, ratios),
]


def damages(whole, rng):
    """50 ways to damage a file: bits, lengths, blocks that change places, zeros."""
    size = len(whole)
    for _ in range(26):
        content = np.frombuffer(whole, np.uint8).copy()
        for place in rng.integers(size, size=rng.integers(1, 4)):
            content[place] ^= 1 << rng.integers(8)
        yield content.tobytes()
    for cut in rng.integers(size, size=8):
        yield whole[:cut]
    for _ in range(8):
        length = int(rng.integers(1, max(2, size // 3)))
        a, b = sorted(int(i) for i in rng.integers(size - length + 1, size=2))
        b = max(b, min(a + length, size - length))
        one, other = whole[a : a + length], whole[b : b + length]
        content = bytearray(whole)
        content[a : a + length], content[b : b + length] = other, one
        yield bytes(content)
    for _ in range(8):
        length = int(rng.integers(1, max(2, size // 2)))
        a = int(rng.choice([0, size - length, rng.integers(size - length + 1)]))
        yield whole[:a] + bytes(length) + whole[a + length :]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_none_of_500_damaged_files_is_read_as_other_numbers(kind, tmp_path, toy, gen):
    path, read = kind(tmp_path, toy, gen)
    whole, expected, refused = path.read_bytes(), flat(read()), []
    for content in damages(whole, np.random.default_rng(KINDS.index(kind))):
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        try:
            found = flat(read())
        except InputError as error:
            refused.append(str(error))
            continue
        assert found == expected
    assert len(refused) > 20 or kind in (store, jacobian)
    assert not any("\n" in said for said in refused)


def test_files_of_older_versions_are_read(tmp_path, toy, gen):
    """They have no checksum; what follows from the content alone is compared all the same."""
    path, read = corrector(tmp_path, toy, gen)
    expected, plan = flat(read()), plan_of(path)
    del plan["checksum"], plan["inject"]
    write_plan(path, plan)
    assert flat(read()) == expected
    tensors = load_file(path)
    tensors["body.layers.0.bias"][1] = torch.nan
    path.write_bytes(save(tensors, {"corrector": json.dumps(plan)}))
    with pytest.raises(InputError, match="not finite"):
        read()

    path, read = data_file(tmp_path, toy, gen)
    expected = flat(read())
    path.write_bytes(path.read_bytes()[:-48])
    assert flat(read()) == expected

    path, read = jacobian(tmp_path, toy, gen)
    expected, whole = flat(read()), path.read_bytes()
    path.write_bytes(whole[:-32])
    assert flat(read()) == expected
    assert path.read_bytes() == whole[:-32]  # it was not measured anew


def plan_of(path):
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return json.loads(header["__metadata__"]["corrector"])


def write_plan(path, plan, kind="corrector"):
    plan = plan if isinstance(plan, str) else json.dumps(plan)
    path.write_bytes(save(load_file(path), {kind: plan}))


HOSTILE = [
    {"sizes": {"width": 4, "depth": 10**7}},
    {"sizes": {"width": 10**9, "depth": 2}},
    {"sizes": {"width": 60_000, "depth": 2}},
    {"sizes": {"width": 4, "depth": 2, "kernel": 40_001}},
    {"sizes": {"width": 4.0, "depth": 2}},
    {"sizes": {"width": "4", "depth": 2}},
    {"sizes": {"width": True, "depth": 2}},
    {"sizes": {"width": -4, "depth": 2}},
    {"sizes": {"width": 4, "depth": 0}},
    {"sizes": {"width": 4, "depth": 2, "bias": 1}},
    {"sizes": {"width": {"width": 4}}},
    {"sizes": [4, 2]},
    {"sizes": None},
    {"inputs": 10**12},
    {"inputs": 1},
    {"inputs": -1},
    {"outputs": "2"},
    {"outputs": 3},
    {"kind": "os:kill"},
    {"kind": ["conv"]},
    {"kind": "residual"},
    {"padding": "reflect"},
    {"padding": 1},
    {"inject": "nowhere"},
    {"solver": 7},
    {"more": 1},
]


@pytest.mark.parametrize("change", HOSTILE, ids=str)
def test_a_hostile_plan_is_refused_before_anything_is_built(tmp_path, toy, gen, change):
    path, read = corrector(tmp_path, toy, gen)
    plan = plan_of(path)
    del plan["checksum"]
    write_plan(path, {**plan, **change})
    with pytest.raises(InputError) as caught:
        read()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 10**5, "7", "null", '"conv"', "{", "NaN", "[]", "{}"])
def test_a_plan_that_is_no_table_is_refused(tmp_path, toy, gen, text):
    path, read = corrector(tmp_path, toy, gen)
    write_plan(path, text)
    with pytest.raises(InputError, match="model file"):
        read()


@pytest.mark.parametrize("kind", ["os:abort", "zopde:Grid", "no.module:Class", "zopde.nets:gone"])
def test_a_classifiers_plan_names_a_network_and_nothing_else(tmp_path, toy, gen, kind):
    path, read = classifier(tmp_path, toy, gen)
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    plan = json.loads(header["__metadata__"]["classifier"])
    del plan["checksum"]
    write_plan(path, {**plan, "kind": kind}, "classifier")
    with pytest.raises(InputError) as caught:
        read()
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    from zopde.training import Backprop, Optimise, fit

    def objective_at(iteration):
        return lambda network, probes: network.weight.square().sum()[None]

    network = torch.nn.Linear(3, 2)
    fit(network, objective_at, Backprop(), Optimise(), 2, tmp_path)
    for other in (torch.nn.Linear(2, 3), torch.nn.Conv1d(3, 2, 1)):
        with pytest.raises(InputError, match="a checkpoint of this training"):
            fit(other, objective_at, Backprop(), Optimise(), 4, tmp_path)
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    for spoiled in ({**state, "network": 7}, {}, [1], {**state, "optimizer": None}):
        save_checkpoint(tmp_path / "checkpoint.pt", spoiled)
        with pytest.raises(InputError, match="checkpoint"):
            fit(network, objective_at, Backprop(), Optimise(), 4, tmp_path)
    state["network"]["weight"][0, 0] = torch.inf
    save_checkpoint(tmp_path / "checkpoint.pt", state)
    with pytest.raises(InputError, match="not finite"):
        fit(network, objective_at, Backprop(), Optimise(), 4, tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"iteration,loss\r\n1,2\r\n", b"a,b\r\nc,d\r\n"])
def test_a_history_of_something_else_is_refused(tmp_path, content):
    from zopde.training import read_history

    path = Path(tmp_path / "history.csv")
    path.write_bytes(content)
    with pytest.raises(InputError, match="history"):
        read_history(path)
