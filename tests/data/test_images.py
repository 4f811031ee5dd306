"""Readers: what they give, and what they say about files that will not do."""

import gzip
import io
import struct
import tarfile
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zopde.data
from zopde import InputError, load_images
from zopde.data import ImageData, Images
from zopde.data.fetch import DOWNLOADS

SHARED = Path(__file__).parents[3] / "shared" / "data" / "cifar10_jpg.tar.xz"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def cifar_batches(rng, count=4):
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    return {
        name: (rng.integers(256, size=(count, 3072), dtype=np.uint8), rng.integers(10, size=count))
        for name in names
    }


def binary(pixels, labels):
    return np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1).tobytes()


def archive(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def idx(array):
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def idx_folder(folder, rng, ending=""):
    for prefix, count in (("train", 6), ("t10k", 3)):
        pixels, labels = rng.integers(256, size=(count, 5, 4)), np.arange(count) % 3
        for name, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            content = idx(array)
            data = gzip.compress(content) if ending else content
            (folder / f"{prefix}-{name}-ubyte{ending}").write_bytes(data)


def test_the_embedded_digits_golden():
    """UCI's optical digits, test part: 1,797 images; counts by class as its paper states them."""
    data = load_images()
    assert (len(data.train), len(data.test)) == (1438, 359)
    labels = torch.cat([data.train.labels, data.test.labels])
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert int(data.train.pixels.max()) == 16
    assert data.channels == 1


def test_a_cifar_archive_and_its_folder_exact(tmp_path, rng):
    batches = cifar_batches(rng)
    files = {f"{name}.bin": binary(*batch) for name, batch in batches.items()}
    files["readme.html"] = b"about"
    found = load_images(archive(tmp_path / "cifar.tar.gz", files))
    first_pixels, first_labels = batches["data_batch_1"]
    assert torch.equal(
        found.train.pixels[:4], torch.from_numpy(first_pixels.reshape(-1, 3, 32, 32))
    )
    assert found.train.labels[:4].tolist() == first_labels.tolist()
    assert (len(found.train), len(found.test), found.classes[3]) == (20, 4, "cat")
    unpacked = tmp_path / "unpacked" / "cifar-10-batches-bin"
    unpacked.mkdir(parents=True)
    for name, content in files.items():
        (unpacked / name).write_bytes(content)
    again = load_images(tmp_path / "unpacked")
    assert torch.equal(again.train.pixels, found.train.pixels)


def test_the_pickled_version_is_refused_and_never_unpickled(tmp_path):
    # What would unpickle it would fail, and perhaps run it.
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]
    files = dict.fromkeys(names, b"cos\nsystem\n(S'touch evil'\ntR.")
    unpacked = tmp_path / "unpacked" / "cifar-10-batches-py"
    unpacked.mkdir(parents=True)
    for name, content in files.items():
        (unpacked / name).write_bytes(content)
    for path in (archive(tmp_path / "cifar.tar.gz", files), unpacked.parent, unpacked):
        with pytest.raises(InputError) as caught:
            load_images(path)
        assert "got the pickled version, expected the binary version" in str(caught.value)
        assert "`zopde data fetch cifar10` gets cifar-10-binary.tar.gz" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_damaged_cifar_raises(tmp_path, rng):
    files = {f"{name}.bin": binary(*batch) for name, batch in cifar_batches(rng).items()}
    cut = {**files, "data_batch_3.bin": files["data_batch_3.bin"][:-1]}
    with pytest.raises(InputError, match=r"data_batch_3.*bytes"):
        load_images(archive(tmp_path / "a.tar.gz", cut))
    missing = {k: v for k, v in files.items() if k != "data_batch_5.bin"}
    with pytest.raises(InputError, match="no data_batch_5"):
        load_images(archive(tmp_path / "b.tar.gz", missing))
    wrong = {**files, "test_batch.bin": b"\x0b" + files["test_batch.bin"][1:]}
    with pytest.raises(InputError, match="labels of no class"):
        load_images(archive(tmp_path / "c.tar.gz", wrong))
    whole = archive(tmp_path / "d.tar.gz", files).read_bytes()
    (tmp_path / "d.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="archive"):
        load_images(tmp_path / "d.tar.gz")


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_folders_exact(tmp_path, rng, ending):
    idx_folder(tmp_path, rng, ending)
    found = load_images(tmp_path)
    assert found.train.pixels.shape == (6, 1, 5, 4)
    assert found.test.labels.tolist() == [0, 1, 2]
    assert len(found.classes) == 3


def test_damaged_idx_raises(tmp_path, rng):
    idx_folder(tmp_path, rng)
    path = tmp_path / "t10k-images-idx3-ubyte"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=r"59 bytes.*expected 60"):
        load_images(tmp_path)
    path.write_bytes(b"\x00\x00\x0d\x03" + whole[4:])
    with pytest.raises(InputError, match="another header"):
        load_images(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match="no t10k-images"):
        load_images(tmp_path)


def pictures(folder, rng, mode="RGB"):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for i in range(2):
                shape = (6, 5) if mode == "L" else (6, 5, 3)
                pixels = rng.integers(256, size=shape, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")
    return pixels


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_folders_of_pictures_exact(tmp_path, rng, mode, channels):
    last = pictures(tmp_path, rng, mode)
    found = load_images(tmp_path)
    assert found.test.pixels.shape == (4, channels, 6, 5)
    assert found.train.pixels.is_contiguous()
    assert found.classes == ("cat", "dog")
    assert found.test.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(found.test.pixels[-1].permute(1, 2, 0).squeeze().numpy(), last.squeeze())


def test_pictures_that_will_not_do_raises(tmp_path, rng):
    pictures(tmp_path, rng)
    bad = tmp_path / "train" / "dog" / "1.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:60])
    with pytest.raises(InputError, match=r"dog/1\.png"):
        load_images(tmp_path)
    Image.new("RGB", (3, 3)).save(bad)
    with pytest.raises(InputError, match="3 x 3 pixels"):
        load_images(tmp_path)
    bad.write_bytes(whole)
    (tmp_path / "test" / "owl").mkdir()
    with pytest.raises(InputError, match="'owl'"):
        load_images(tmp_path)


def test_npz_exact_and_what_will_not_do_raises(tmp_path, rng):
    arrays = {
        "x_train": rng.normal(size=(4, 6, 6)).astype(np.float32),
        "y_train": np.array([0, 1, 2, 1]),
        "x_test": rng.normal(size=(2, 6, 6)).astype(np.float32),
        "y_test": np.array([1, 3], dtype=np.int8),
    }
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    found = load_images(path)
    assert found.train.pixels.shape == (4, 1, 6, 6)
    assert len(found.classes) == 4
    np.savez(path, **{k: v for k, v in arrays.items() if k != "y_test"})
    with pytest.raises(InputError, match="no y_test"):
        load_images(path)
    np.savez(path, **{**arrays, "y_train": np.array([0, 1, 2])})
    with pytest.raises(InputError, match="labels"):
        load_images(path)
    np.savez(path, **{**arrays, "y_train": np.array([0.5, 1, 2, 1])})
    with pytest.raises(InputError, match="whole numbers"):
        load_images(path)
    np.savez(path, **{**arrays, "x_train": np.full((4, 6, 6), np.nan)})
    with pytest.raises(InputError, match="not finite"):
        load_images(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="complete npz"):
        load_images(path)


def test_nothing_or_something_else_raises(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_images(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no known layout"):
        load_images(tmp_path)


def test_a_torch_dataset_exact(rng):
    pixels, labels = torch.rand(5, 3, 4, 4), torch.tensor([0, 1, 1, 0, 2])
    found = Images.from_dataset(torch.utils.data.TensorDataset(pixels, labels))
    assert torch.equal(found.pixels, pixels)
    assert torch.equal(found.labels, labels)
    gray = [(Image.fromarray(rng.integers(256, size=(4, 3), dtype=np.uint8)), 1)]
    assert Images.from_dataset(gray).pixels.shape == (1, 1, 4, 3)
    with pytest.raises(InputError, match="pairs"):
        Images.from_dataset([(torch.rand(1, 2, 2), 0), (torch.rand(1, 3, 3), 0)])


def test_data_of_two_shapes_or_unknown_labels_raises():
    four, five = (Images(torch.rand(2, 1, n, n), torch.tensor([0, 1])) for n in (4, 5))
    with pytest.raises(InputError, match="test images"):
        ImageData("mine", four, five, ("a", "b"))
    with pytest.raises(InputError, match="train labels"):
        ImageData("mine", four, four, ("a",))


def test_scale_is_that_of_all_pixels_agrees():
    pixels = torch.randn(5000, 2, 3, 3, dtype=torch.float64) * 3 + 7
    images = Images(pixels, torch.zeros(5000, dtype=torch.int64))
    mean, deviation = ImageData("mine", images, images, ("a",)).scale()
    assert torch.allclose(mean.double(), pixels.mean(dim=(0, 2, 3)))
    assert torch.allclose(deviation.double(), pixels.std(dim=(0, 2, 3), correction=0))
    still = Images(torch.ones(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(InputError, match="one value"):
        ImageData("mine", still, still, ("a",)).scale()


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="the JPEG copy of CIFAR-10 is not here")
def test_the_jpeg_copy_of_cifar10_golden(tmp_path):
    """Means and deviations as the copy's README states them."""
    with tarfile.open(SHARED) as tar:
        tar.extractall(tmp_path, filter="data")
    found = load_images(tmp_path)
    assert (len(found.train), len(found.test)) == (50_000, 10_000)
    mean, deviation = found.scale()
    assert (mean / 255).numpy().round(4).tolist() == pytest.approx([0.4913, 0.4821, 0.4465])
    assert (deviation / 255).numpy().round(4).tolist() == pytest.approx([0.2452, 0.2428, 0.2606])


def test_the_source_and_licence_of_every_data_file_is_said():
    folder = Path(zopde.data.__file__).parent
    sources = (folder / "SOURCES.md").read_text(encoding="utf-8")
    for file in folder.iterdir():
        if file.is_file() and file.suffix not in (".py", ".md"):
            (line,) = [line for line in sources.splitlines() if f"zopde/data/{file.name}" in line]
            assert "CC BY 4.0" in line
    for name in DOWNLOADS:
        assert f"zopde data fetch {name}" in sources
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert "SOURCES.md" in project["tool"]["setuptools"]["package-data"]["zopde.data"]
