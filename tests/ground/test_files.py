"""Files that are whole or absent, digests, and the time that work takes."""

import hashlib

import pytest
import torch

from zopde.files import bytes_of, digest_of, identity_of, key_of, replacing, write_text
from zopde.seeding import generator, global_stream
from zopde.timing import median_seconds


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced_whole_and_nothing_else_stays(tmp_path, durable):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "old\n")
    with replacing(path, durable) as partial:
        partial.write_text("new\n")
        assert path.read_text() == "old\n"
        assert partial.parent == path.parent
        assert partial.suffix == ".partial"  # what a run folder takes for nothing
    assert path.read_text() == "new\n"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail():
        with replacing(path) as partial:
            partial.write_text("half")
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_raises_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_text() == "old"


def test_a_digest_is_that_of_the_bytes_in_order_exact():
    first, second = torch.randn(3, 5).T, torch.arange(4, dtype=torch.uint8)
    plain = first.contiguous().numpy().tobytes() + second.numpy().tobytes()
    assert digest_of([first, None, second]) == hashlib.sha256(plain).hexdigest()
    large = torch.randn(2**22 + 3)
    assert digest_of([large]) == hashlib.sha256(large.numpy().tobytes()).hexdigest()
    assert digest_of([torch.zeros(0)]) == hashlib.sha256().hexdigest()
    assert bytes_of(torch.tensor([1.0, 2.0], dtype=torch.bfloat16)) == b"\x80\x3f\x00\x40"


def test_a_key_tells_type_shape_bits_and_identity_apart():
    x = torch.zeros(2, 3)
    keys = [
        key_of("a", x),
        key_of("b", x),
        key_of("a", x.view(3, 2)),
        key_of("a", x.to(torch.int32)),
        key_of("a", -x),
        key_of("a", x, x),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of("a", x, None) == keys[0]


def test_digests_are_those_of_earlier_versions_golden():
    """As version 0.1.0 computed them: caches on disk are found again."""
    x = torch.arange(6, dtype=torch.float32).view(2, 3)
    assert key_of("who 3", x, x.double().T).hex() == "5ca7510e56c4d77b5d37833771a67916"
    assert identity_of("spec logits") == "164e6094cf60a1c6f8224f5dbdbdd994"


def test_an_identity_changes_with_the_content_of_its_files(tmp_path):
    path = tmp_path / "solver.py"
    path.write_text("one")
    before = identity_of("me", [path])
    path.write_text("two")
    assert identity_of("me", [path]) != before


def test_the_global_stream_is_set_and_put_back():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with global_stream(generator(0, "weights")):
        first = torch.rand(3)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    with global_stream(generator(0, "weights")):
        assert torch.equal(torch.rand(3), first)


@pytest.mark.parametrize(("repeat", "enough", "calls"), [(3, 9.0, 4), (3, 0.0, 2), (1, 9.0, 1)])
def test_calls_that_are_timed_exact(repeat, enough, calls):
    made = []
    enough = enough or 1e-12
    assert median_seconds(lambda: made.append(0), repeat, enough) >= 0
    assert len(made) == calls
