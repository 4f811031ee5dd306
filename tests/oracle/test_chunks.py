"""How many probes share a pass: found, limited, halved."""

import logging

import pytest
import torch

from zopde import InputError, WeightOracle
from zopde.oracle.chunks import Chunks, peak_bytes
from zopde.oracle.weights import in_passes


def squares(indices, _steps):
    return indices.double() ** 2


def test_answers_are_whole_and_in_order_whatever_the_size():
    indices, steps = torch.arange(100), torch.ones(100)
    for size in (1, 7, 100, 1000, None):
        answer = torch.cat(in_passes(Chunks(size), indices, steps, squares))
        assert torch.equal(answer, squares(indices, steps))


def test_size_is_found_once_and_no_query_is_wasted():
    asked = []

    def ask(indices, steps):
        asked.extend(indices.tolist())
        return squares(indices, steps)

    chunks = Chunks()
    in_passes(chunks, torch.arange(500), torch.ones(500), ask)
    assert asked == list(range(500))
    found = chunks.size
    assert found >= 1
    in_passes(chunks, torch.arange(500), torch.ones(500), ask)
    assert chunks.size == found


def test_memory_is_never_exceeded():
    sizes = []

    def ask(indices, _steps):
        sizes.append(len(indices))
        return torch.zeros(len(indices), 1000).sum(dim=1)  # 4,000 bytes a probe

    chunks = Chunks(memory=50_000)
    in_passes(chunks, torch.arange(2000), torch.ones(2000), ask)
    assert max(sizes) <= 50_000 / 4000
    assert peak_bytes(lambda: ask(torch.arange(chunks.size), None)) <= 50_000


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("not enough memory: 9 bytes")],
)
def test_out_of_memory_halves_the_pass_and_goes_on(error, caplog):
    sizes = []

    def ask(indices, steps):
        sizes.append(len(indices))
        if len(indices) > 5:
            raise error
        return squares(indices, steps)

    chunks, indices = Chunks(32), torch.arange(40)
    with caplog.at_level(logging.WARNING):
        answer = torch.cat(in_passes(chunks, indices, torch.ones(40), ask))
    assert torch.equal(answer, squares(indices, None))
    assert sizes[:4] == [32, 16, 8, 4]
    assert chunks.size == 4
    assert "out of memory" in caplog.text


def test_other_errors_and_a_pass_of_one_raise():
    def broken(_indices, _steps):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        in_passes(Chunks(8), torch.arange(8), torch.ones(8), broken)

    def full(_indices, _steps):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        in_passes(Chunks(8), torch.arange(8), torch.ones(8), full)


@pytest.mark.parametrize("wrong", [{"chunk": 0}, {"memory": -1}])
def test_nonsense_raises(wrong):
    with pytest.raises(InputError):
        WeightOracle(torch.nn.Linear(2, 2), squares, **wrong)


def test_peak_counts_what_is_held_at_once():
    def work():
        for _ in range(10):
            torch.zeros(1000)  # freed before the next one
        kept = torch.ones(500)
        return kept[:10] + 1

    assert peak_bytes(work) == 4000


def test_calibrate_finds_a_chunk_and_leaves_the_network_alone(gen):
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3)
    )
    x = torch.randn(2, 1, 8, 8, generator=gen)
    before = {key: value.clone() for key, value in network.state_dict().items()}

    def objective(f, num_probes):
        return f(x.repeat(num_probes, 1, 1, 1)).view(num_probes, -1).square().mean(dim=1)

    oracle = WeightOracle(network, objective)
    assert oracle.chunk is None
    assert oracle.calibrate() == oracle.chunk >= 1
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])
