"""Pictures and arrays of other programs: their numbers are kept, or they are refused."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from zopde import InputError, load_images
from zopde.data import Images

RAMP = np.arange(30).reshape(5, 6)


def png(pixels, colour):
    """A PNG of 16 bits, which Pillow writes for gray alone."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def coded(image, form, **how):
    buffer = io.BytesIO()
    image.save(buffer, form, **how)
    return buffer.getvalue()


def pgm(pixels, most, kind=b"P5"):
    kind_of = ">u2" if most > 255 else "u1"
    size = b"%d %d" % pixels.shape[1::-1]
    return kind + b"\n" + size + b"\n%d\n" % most + pixels.astype(kind_of).tobytes()


def folder(root, content, ending, odd=None, at=3):
    """train and test with two classes of two pictures each; `odd` replaces one of them."""
    number = 0
    for part in ("train", "test"):
        for name in ("a", "b"):
            place = root / part / name
            place.mkdir(parents=True)
            for i in range(2):
                last = number == at and odd is not None
                (place / f"{i}{odd[1] if last else ending}").write_bytes(
                    odd[0] if last else content
                )
                number += 1
    return root


def fromarray(pixels, kind):
    return Image.fromarray(pixels.astype(kind))


KEPT = {
    "16-bit png": (png(100 + 137 * RAMP, 0), ".png", 100 + 137 * RAMP),
    "16-bit tiff": (coded(fromarray(65535 - RAMP, "u2"), "TIFF"), ".tif", 65535 - RAMP),
    "16-bit tiff, big end": (
        coded(Image.frombytes("I;16B", (6, 5), (256 * RAMP).astype(">u2").tobytes()), "TIFF"),
        ".tiff",
        256 * RAMP,
    ),
    "32-bit tiff": (
        coded(fromarray(5000 * RAMP - 70000, "i4"), "TIFF"),
        ".tif",
        5000 * RAMP - 70000,
    ),
    "float tiff": (coded(fromarray(RAMP / 8 - 1, "f4"), "TIFF"), ".tif", RAMP / 8 - 1),
    "16-bit pgm": (pgm(2000 * RAMP, 65535), ".pgm", 2000 * RAMP),
    "12-bit pgm": (pgm(141 * RAMP, 4095), ".pgm", 141 * RAMP),
    "pgm up to 100": (pgm(3 * RAMP, 100), ".pgm", 3 * RAMP),
    "gray": (coded(fromarray(8 * RAMP, "u1"), "PNG"), ".png", 8 * RAMP),
    "black and white": (coded(Image.fromarray(RAMP % 3 > 0), "PNG"), ".png", 255 * (RAMP % 3 > 0)),
}


@pytest.mark.parametrize("name", KEPT)
def test_gray_pictures_keep_their_numbers_exact(tmp_path, name):
    content, ending, expected = KEPT[name]
    found = load_images(folder(tmp_path, content, ending)).train.pixels
    assert found.shape == (4, 1, 5, 6)
    assert np.array_equal(found[3, 0].numpy(), expected)
    assert found.dtype == (
        torch.uint8
        if expected.max() <= 255 and "bit" not in name and "float" not in name
        else torch.float32
    )


COLOURS = np.stack([8 * RAMP, 200 - RAMP, 3 * RAMP], axis=-1).astype("u1")
OPAQUE = np.dstack([COLOURS, np.full((5, 6), 255, "u1")])


def test_colours_are_rgb_exact(tmp_path):
    palette = Image.fromarray(COLOURS).quantize(30)
    files = {
        "rgb": (coded(Image.fromarray(COLOURS), "PNG"), ".png", COLOURS),
        "opaque": (coded(Image.fromarray(OPAQUE), "PNG"), ".png", COLOURS),
        "palette": (coded(palette, "PNG"), ".png", np.asarray(palette.convert("RGB"))),
        "cmyk": (
            coded(Image.fromarray(COLOURS).convert("CMYK"), "TIFF"),
            ".tif",
            np.asarray(Image.fromarray(COLOURS).convert("CMYK").convert("RGB")),
        ),
        "ppm": (pgm(COLOURS, 255, b"P6"), ".ppm", COLOURS),
    }
    for name, (content, ending, expected) in files.items():
        found = load_images(folder(tmp_path / name, content, ending)).test.pixels
        assert found.shape == (4, 3, 5, 6)
        assert found.dtype == torch.uint8
        assert np.array_equal(found[0].permute(1, 2, 0).numpy(), expected), name


def two_frames(form):
    first, second = (fromarray(RAMP + i, "u1") for i in (0, 9))
    return coded(first, form, save_all=True, append_images=[second])


def see_through(mode, place=(2, 3)):
    image = Image.fromarray(OPAQUE).convert(mode)
    image.putpixel(place, (*image.getpixel(place)[:-1], 9))
    return image


REFUSED = {
    "16-bit colours": (png(np.dstack([137 * RAMP] * 3), 2), ".png", "more than 8 bits"),
    "16-bit colours, alpha": (png(np.dstack([137 * RAMP] * 4), 6), ".png", "more than 8 bits"),
    "16-bit gray, alpha": (png(np.dstack([137 * RAMP] * 2), 4), ".png", "more than 8 bits"),
    "12-bit ppm": (pgm(np.dstack([99 * RAMP] * 3), 4095, b"P6"), ".ppm", "more than 8 bits"),
    "beyond float32": (coded(fromarray(RAMP + 2**25, "i4"), "TIFF"), ".tif", "2^24"),
    "transparent": (coded(see_through("RGBA"), "PNG"), ".png", "transparent places"),
    "transparent gray": (coded(see_through("LA"), "PNG"), ".png", "transparent places"),
    "transparent index": (
        coded(fromarray(RAMP, "u1").convert("P"), "PNG", transparency=7),
        ".png",
        "transparent places",
    ),
    "stack": (two_frames("TIFF"), ".tif", "2 pictures in one file"),
    "film": (two_frames("GIF"), ".gif", "2 pictures in one file"),
    "no picture": (b"<html>not found</html>", ".png", "cannot identify"),
    "empty": (b"", ".jpg", "cannot identify"),
    "half": (coded(fromarray(8 * RAMP, "u1"), "PNG")[:60], ".png", ""),
    "not a number": (coded(fromarray(np.where(RAMP == 4, np.nan, RAMP), "f4"), "TIFF"), ".tif", ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_pictures_that_would_lose_something_are_refused(tmp_path, name):
    content, ending, words = REFUSED[name]
    with pytest.raises(InputError) as caught:
        load_images(folder(tmp_path, content, ending))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


GRAY = (coded(fromarray(8 * RAMP, "u1"), "PNG"), ".png")
ODD = {
    "colours": (coded(Image.fromarray(COLOURS), "PNG"), ".png"),
    "16 bits": KEPT["16-bit png"][:2],
    "float": KEPT["float tiff"][:2],
    "size": (coded(fromarray(8 * RAMP[:, :4], "u1"), "PNG"), ".png"),
    "turned": (coded(fromarray(8 * RAMP.T, "u1"), "PNG"), ".png"),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("at", [1, 3, 7])
def test_the_odd_picture_of_a_folder_is_named(tmp_path, name, at):
    content, ending = ODD[name]
    with pytest.raises(InputError) as caught:
        load_images(folder(tmp_path, *GRAY, odd=(content, ending), at=at))
    part, label = ("train", "test")[at // 4], "ab"[at // 2 % 2]
    assert f"{part}/{label}/{at % 2}{ending}: got" in str(caught.value)
    assert "expected 6 x 5 pixels, gray, uint8, as " in str(caught.value)


def test_hidden_files_are_passed_over(tmp_path):
    folder(tmp_path, *GRAY)
    for place in [tmp_path / "train", tmp_path / "test", tmp_path / "train" / "a"]:
        for name in ("._0.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
            (place / name).write_bytes(b"\0\5\26\7")
        for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git"):
            (place / name).mkdir()
            (place / name / "0.png").write_bytes(b"nothing")
    found = load_images(tmp_path)
    assert found.classes == ("a", "b")
    assert (len(found.train), len(found.test)) == (4, 4)


def archive(path, shape, kind="u1"):
    pixels = (np.arange(np.prod(shape)) % 251).reshape(shape).astype(kind)
    labels = np.arange(len(pixels)) % 3
    np.savez(path, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    return pixels


@pytest.mark.parametrize(
    "shape", [(6, 28, 28, 1), (6, 8, 9, 3), (6, 9, 8, 4), (6, 4, 4, 1), (6, 3, 3, 1)]
)
def test_channels_that_are_last_come_first_exact(tmp_path, shape, caplog):
    pixels = archive(tmp_path / "mine.npz", shape)
    found = load_images(tmp_path / "mine.npz").train.pixels
    assert np.array_equal(found.numpy(), np.moveaxis(pixels, -1, 1))
    assert found.is_contiguous()
    assert f"images of shape {shape}: channels are last" in caplog.text


@pytest.mark.parametrize(
    "shape", [(6, 1, 28, 28), (6, 3, 9, 8), (6, 13, 8, 8), (6, 3, 4, 4), (6, 8, 8, 8), (6, 1, 1, 1)]
)
def test_channels_that_are_first_stay_exact(tmp_path, shape, caplog):
    pixels = archive(tmp_path / "mine.npz", shape)
    assert np.array_equal(load_images(tmp_path / "mine.npz").train.pixels.numpy(), pixels)
    assert not caplog.text


@pytest.mark.parametrize("shape", [(6, 3, 3, 3), (6, 1, 28, 1), (6, 3, 32, 4), (6, 64, 64, 13)])
def test_channels_that_may_be_first_or_last_are_refused(tmp_path, shape):
    archive(tmp_path / "mine.npz", shape)
    with pytest.raises(InputError, match="with channels first or last"):
        load_images(tmp_path / "mine.npz")


@pytest.mark.parametrize("kind", ["u2", ">u2", "i8", ">f4", ">f8", "f2", "i1"])
def test_arrays_of_other_types_keep_their_numbers(tmp_path, kind):
    pixels = archive(tmp_path / "mine.npz", (6, 8, 9), kind)
    found = load_images(tmp_path / "mine.npz").train.pixels
    assert found.is_floating_point()
    assert np.array_equal(found[:, 0].double().numpy(), pixels.astype("f8"))


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((6, 8, 9), 2**24 + 1),
        np.ones((6, 8, 9), bool),
        np.ones((6, 8, 9), complex),
        np.full((6, 8, 9), "a"),
        np.full((6, 8, 9), np.datetime64("2000-01-01")),
        np.full((6, 8, 9), np.inf),
        np.zeros((6, 0, 9)),
        np.zeros((6, 8)),
        np.zeros((6, 1, 1, 8, 9)),
        np.zeros((6, 8, 9), np.longdouble),
    ],
    ids=lambda pixels: f"{pixels.dtype} {pixels.shape}",
)
def test_arrays_that_are_no_images_are_refused(pixels):
    with pytest.raises(InputError, match="images") as caught:
        Images.of(pixels, np.arange(6))
    assert "\n" not in str(caught.value)


def test_a_pickled_array_is_never_unpickled(tmp_path):
    pixels = np.empty(6, object)
    np.savez(tmp_path / "mine.npz", x_train=pixels, y_train=pixels, x_test=pixels, y_test=pixels)
    with pytest.raises(InputError, match="complete npz of plain arrays"):
        load_images(tmp_path / "mine.npz")


def test_pillows_pictures_of_a_dataset_keep_their_numbers():
    def of(image):
        return Images.from_dataset([(image, 1), (image, 0)]).pixels[0]

    assert np.array_equal(of(fromarray(99 * RAMP, "u2"))[0].numpy(), 99 * RAMP)
    palette = Image.fromarray(COLOURS).quantize(30)
    assert np.array_equal(of(palette).permute(1, 2, 0).numpy(), np.asarray(palette.convert("RGB")))
    with pytest.raises(InputError, match="transparent places"):
        of(see_through("RGBA"))
