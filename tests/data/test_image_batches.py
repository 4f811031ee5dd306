import pytest
import torch

from zopde import InputError
from zopde.data import ImageBatches, ImageData, Images, in_file_units, in_unit_range, standardised
from zopde.data.batches import flips, padded_crops
from zopde.data.images import per_class


@pytest.fixture
def images(gen):
    pixels = torch.randint(1, 256, (10, 2, 6, 5), generator=gen, dtype=torch.uint8)
    return Images(pixels, torch.arange(10) % 3)


def test_an_epoch_sees_every_image_once(images):
    batches = ImageBatches(images, 4, seed=0)
    assert batches.per_epoch == 3
    for epoch in (0, 1):
        seen = torch.cat([batches.at(3 * epoch + i)[0] for i in range(3)])
        found = (seen[:, None] == images.pixels[None]).flatten(2).all(dim=2)
        assert found.sum(dim=0).tolist() == [1] * 10
    assert not torch.equal(batches.at(0)[0], batches.at(3)[0])


def test_a_batch_is_a_function_of_seed_and_iteration(images):
    first, second = (ImageBatches(images, 4, seed=3, pad=2, flip=True) for _ in range(2))
    second.at(0)
    assert torch.equal(first.at(4)[0], second.at(4)[0])
    assert not torch.equal(first.at(4)[0], ImageBatches(images, 4, 5, 2, True).at(4)[0])


def test_labels_go_with_their_images(images):
    pixels, labels = ImageBatches(images, 10, seed=0).at(0)
    for shown, label in zip(pixels, labels, strict=True):
        place = int((images.pixels == shown).flatten(1).all(dim=1).nonzero())
        assert label == images.labels[place]


def test_crops_are_windows_of_the_padded_image_exact(images, gen):
    found = padded_crops(images.pixels, 2, gen)
    wide = torch.nn.functional.pad(images.pixels, (2, 2, 2, 2))
    moves = set()
    for before, after in zip(wide, found, strict=True):
        places = [
            (i, j)
            for i in range(5)
            for j in range(5)
            if torch.equal(before[:, i : i + 6, j : j + 5], after)
        ]
        assert len(places) == 1
        moves.update(places)
    assert len(moves) > 3


def test_half_of_the_images_are_mirrored_exact(gen):
    pixels = torch.rand(2000, 1, 2, 3, generator=gen)
    found = flips(pixels, gen)
    mirrored = (found == pixels.flip(-1)).flatten(1).all(dim=1)
    same = (found == pixels).flatten(1).all(dim=1)
    assert bool((mirrored ^ same).all())
    assert abs(float(mirrored.float().mean()) - 0.5) < 4 * 0.5 / 2000**0.5


def test_standardised_exact():
    found = standardised(
        torch.tensor([[[[10]], [[20]]]], dtype=torch.uint8),
        torch.tensor([6.0, 8.0]),
        torch.tensor([2.0, 3.0]),
    )
    assert found.flatten().tolist() == [2.0, 4.0]


def test_pixels_over_the_brightest_and_back_exact(images):
    pixels = in_unit_range(images.pixels, 255.0)
    assert pixels.dtype == torch.float32
    assert torch.equal(pixels, images.pixels.to(torch.float32) / 255)
    torch.testing.assert_close(in_file_units(pixels, 255.0), images.pixels.float())
    data = ImageData("mine", images, images, ("a", "b", "c"))
    assert data.brightest() == float(images.pixels.max())
    dark = ImageData("dark", Images(0 * images.pixels, images.labels), images, data.classes)
    with pytest.raises(InputError, match="brightest pixel"):
        dark.brightest()


def test_per_class_takes_the_first_of_each(images):
    assert per_class(images, 2).tolist() == [0, 1, 2, 3, 4, 5]
    assert len(per_class(images, 100)) == 10


@pytest.mark.parametrize(("batch", "pad"), [(0, 0), (4, -1)])
def test_settings_that_will_not_do_raises(images, batch, pad):
    with pytest.raises(InputError):
        ImageBatches(images, batch, 0, pad)
