from __future__ import annotations

import io
import os
import random
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from pipeline.coco.reading import read_coco
from pipeline.errors import ImageError
from pipeline.files import images
from pipeline.files.images import check_image_header, image_size, read_image
from tests.tiny_coco import tiny_coco

WIDTH, HEIGHT = 40, 24


@pytest.fixture(autouse=True)
def no_warning_is_shown():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="__array__ implementation")  # pycocotools with numpy 2
        yield


def picture():
    """RGB with smooth colours, another in every corner."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 255 // (WIDTH - 1), y * 255 // (HEIGHT - 1), 255 - x * 5], axis=-1).astype(np.uint8)


def save(tmp_path, name, array_or_image, **options):
    image = array_or_image if isinstance(array_or_image, Image.Image) else Image.fromarray(array_or_image)
    image.save(tmp_path / name, **options)
    return tmp_path / name


def reason(path, expected_size=None):
    with pytest.raises(ImageError) as caught:
        read_image(path, expected_size)
    return str(caught.value)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "1", "P", "CMYK", "I;16", "I"])
def test_strips_of_a_large_image_are_the_image(tmp_path, monkeypatch, mode):
    pixels = Image.fromarray(picture())
    if mode.startswith("I"):
        image = Image.fromarray(np.asarray(pixels.convert("L")).astype(np.uint16 if mode == "I;16" else np.int32) * 257)
    else:
        image = pixels.convert(mode)
    path = save(tmp_path, "a.tif", image)
    whole = read_image(path)
    for rows in (1, 5, HEIGHT - 1, HEIGHT):
        monkeypatch.setattr(images, "STRIP_PIXELS", rows * WIDTH)
        assert np.array_equal(read_image(path), whole)
    assert whole.flags.writeable


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm", "a.webp", "a.jp2"])
def test_lossless_formats(tmp_path, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    pixels = read_image(save(tmp_path, name, picture(), **options), (WIDTH, HEIGHT))
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable and pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, picture())


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.avif"])
def test_lossy_formats(tmp_path, name):
    pixels = read_image(save(tmp_path, name, picture(), quality=95))
    assert np.abs(pixels.astype(int) - picture()).mean() < 4


def test_jpeg_is_decoded_as_by_opencv(tmp_path):
    path = save(tmp_path, "a.jpg", picture(), quality=80)
    expected = cv2.imread(str(path))[..., ::-1]
    assert np.abs(read_image(path).astype(int) - expected).max() <= 3


def test_the_suffix_does_not_matter(tmp_path):
    path = save(tmp_path, "a.png", picture())
    path = path.rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_image(path), picture())


def grey(pixels):
    return np.repeat(pixels[..., np.newaxis], 3, axis=2)


def test_eight_bit_grey_and_one_bit(tmp_path):
    values = picture()[..., 0]
    np.testing.assert_array_equal(read_image(save(tmp_path, "a.png", values)), grey(values))
    bits = values > 100
    expected = grey(np.where(bits, 255, 0).astype(np.uint8))
    np.testing.assert_array_equal(read_image(save(tmp_path, "b.png", Image.fromarray(bits))), expected)


SIXTEEN_BITS = np.linspace(0, 65535, WIDTH * HEIGHT).astype(np.uint16).reshape(HEIGHT, WIDTH)


def sixteen_bit_images():
    native = Image.fromarray(SIXTEEN_BITS)
    big_endian = Image.frombytes("I;16B", (WIDTH, HEIGHT), SIXTEEN_BITS.astype(">u2").tobytes())
    integers = Image.fromarray(SIXTEEN_BITS.astype(np.int32))
    return {"a.png": native, "a.tif": native, "big.tif": big_endian, "a.pgm": native, "integers.tif": integers}


@pytest.mark.parametrize("name", ["a.png", "a.tif", "big.tif", "a.pgm", "integers.tif"])
def test_sixteen_bit_grey_keeps_its_upper_byte(tmp_path, name):
    path = save(tmp_path, name, sixteen_bit_images()[name])
    np.testing.assert_array_equal(read_image(path), grey((SIXTEEN_BITS >> 8).astype(np.uint8)))


def test_big_endian_tiff_is_what_it_says(tmp_path):
    assert save(tmp_path, "big.tif", sixteen_bit_images()["big.tif"]).read_bytes().startswith(b"MM")


def test_sixteen_bit_colour_keeps_its_upper_byte(tmp_path):
    values = np.stack([SIXTEEN_BITS, SIXTEEN_BITS[::-1], SIXTEEN_BITS[:, ::-1]], axis=-1)
    cv2.imwrite(str(tmp_path / "a.png"), values[..., ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), (values >> 8).astype(np.uint8))


def test_values_without_a_known_range_are_refused(tmp_path):
    floats = save(tmp_path, "a.tif", Image.fromarray(SIXTEEN_BITS.astype(np.float32)))
    assert reason(floats) == "holds floating point values of unknown range: save it as an 8- or 16-bit image"
    large = save(tmp_path, "b.tif", Image.fromarray(SIXTEEN_BITS.astype(np.int32) * 2))
    assert reason(large) == "holds 32-bit values from 0 to 131070: save it as an 8- or 16-bit image"
    negative = save(tmp_path, "c.tif", Image.fromarray(SIXTEEN_BITS.astype(np.int32) - 1))
    assert reason(negative).startswith("holds 32-bit values from -1 to 65534")


def test_alpha_is_dropped(tmp_path):
    alpha = np.full((HEIGHT, WIDTH, 1), 7, dtype=np.uint8)
    for name in ("a.png", "a.tif", "a.webp"):
        options = {"lossless": True, "exact": True} if name.endswith("webp") else {}
        path = save(tmp_path, name, np.concatenate([picture(), alpha], axis=2), **options)
        np.testing.assert_array_equal(read_image(path), picture())
    values = picture()[..., 1]
    path = save(tmp_path, "b.png", Image.merge("LA", [Image.fromarray(values), Image.fromarray(alpha[..., 0])]))
    np.testing.assert_array_equal(read_image(path), grey(values))


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.bmp"])
def test_palettes(tmp_path, name):
    image = Image.fromarray(picture()).quantize(16)
    expected = np.array(image.convert("RGB"))
    np.testing.assert_array_equal(read_image(save(tmp_path, name, image)), expected)


def test_palette_with_transparency(tmp_path):
    image = Image.fromarray(picture()).quantize(16)
    expected = np.array(image.convert("RGB"))
    path = save(tmp_path, "a.png", image, transparency=bytes(range(16)))
    np.testing.assert_array_equal(read_image(path), expected)


def test_cmyk(tmp_path):
    red = Image.new("CMYK", (WIDTH, HEIGHT), (0, 255, 255, 0))
    for name in ("a.jpg", "a.tif"):
        pixels = read_image(save(tmp_path, name, red)).astype(int)
        assert np.abs(pixels - [255, 0, 0]).max() < 8, name


def test_cmyk_jpeg_as_adobe_writes_it_is_inverted(tmp_path):
    path = save(tmp_path, "a.jpg", Image.fromarray(picture()).convert("CMYK"), quality=98)
    assert b"Adobe" in path.read_bytes()
    expected = cv2.imread(str(path))[..., ::-1].astype(int)
    assert np.abs(read_image(path) - expected).max() < 8
    assert np.abs(read_image(path).astype(int) - picture()).mean() < 4


def test_first_frame_of_animations(tmp_path):
    frames = [Image.fromarray(picture()[:, ::step]) for step in (1, -1)]
    for name, options in (("a.gif", {}), ("a.webp", {"lossless": True}), ("a.png", {}), ("a.tif", {})):
        path = save(tmp_path, name, frames[0], save_all=True, append_images=frames[1:], **options)
        difference = np.abs(read_image(path, (WIDTH, HEIGHT)).astype(int) - picture()).mean()
        assert difference < (12 if name == "a.gif" else 0.01), name


def test_two_pictures_in_one_jpeg(tmp_path):
    """Phones write them (MPO): the first is the photograph."""
    second = Image.fromarray(picture()[::-1].copy())
    path = save(tmp_path, "a.jpg", picture(), format="MPO", save_all=True, append_images=[second], quality=95)
    assert np.abs(read_image(path).astype(int) - picture()).mean() < 4


def with_orientation(tmp_path, name, orientation):
    """The picture, stored so that the orientation makes it upright; PNG and TIFF lossless."""
    to_stored = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
        8: lambda p: np.rot90(p, -1),
    }
    stored = np.ascontiguousarray(to_stored[orientation](picture()))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {".jpg": {"quality": 98}, ".webp": {"lossless": True}}.get(name[1:], {})
    return save(tmp_path, name, stored, exif=exif, **options), stored


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_exif_orientation_is_applied(tmp_path, name, orientation):
    path, stored = with_orientation(tmp_path, name, orientation)
    tolerance = 3 if name == "a.jpg" else 0
    for expected_size in (None, (WIDTH, HEIGHT)):
        assert np.abs(read_image(path, expected_size).astype(int) - picture()).mean() <= tolerance
    assert image_size(path) == (WIDTH, HEIGHT)
    if orientation in (5, 6, 7, 8):  # labelled on the pixels as stored
        assert np.abs(read_image(path, (HEIGHT, WIDTH)).astype(int) - stored).mean() <= tolerance
        check_image_header(path, (HEIGHT, WIDTH))


def test_exif_orientation_is_that_of_opencv(tmp_path):
    for orientation in range(1, 9):
        path, _ = with_orientation(tmp_path, f"{orientation}.jpg", orientation)
        assert np.abs(read_image(path).astype(int) - cv2.imread(str(path))[..., ::-1]).max() <= 3


def test_masks_lie_on_the_same_pixels_whichever_way_a_photograph_was_labelled(tmp_path):
    tiny = tiny_coco(tmp_path / "upright", images=1, instances=1)
    upright = np.array(Image.open(tiny.image_root / "0001.png"))
    colour = upright[tiny.masks[1]][0]  # of the one object, and of nothing else
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = save(tmp_path, "turned.png", np.ascontiguousarray(np.rot90(upright, 1)), exif=exif)
    dataset = read_coco(tiny.annotations)
    pixels = read_image(path, (dataset.images[0].width, dataset.images[0].height))
    np.testing.assert_array_equal((pixels == colour).all(axis=2), dataset.mask(dataset.annotations[0]))
    # The same photograph, labelled by a tool that ignores the orientation.
    mask_stored = np.rot90(tiny.masks[1], 1)
    pixels = read_image(path, (mask_stored.shape[1], mask_stored.shape[0]))
    np.testing.assert_array_equal((pixels == colour).all(axis=2), mask_stored)


def test_a_size_that_fits_neither_way_names_both(tmp_path):
    path, _ = with_orientation(tmp_path, "a.jpg", 6)
    assert reason(path, (40, 25)) == "is 40x24 pixels, but its annotations are for 40x25"
    with pytest.raises(ImageError, match="is 40x24 pixels, but its annotations are for 40x25"):
        check_image_header(path, (40, 25))
    plain = save(tmp_path, "b.png", picture())
    assert reason(plain, (24, 40)) == "is 40x24 pixels, but its annotations are for 24x40"


def test_broken_exif_is_no_reason_to_refuse_an_image(tmp_path):
    path = save(tmp_path, "a.png", picture(), exif=b"Exif\0\0nonsense that is no TIFF header")
    np.testing.assert_array_equal(read_image(path), picture())
    jpeg = save(tmp_path, "b.jpg", picture(), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01")
    assert image_size(jpeg) == (WIDTH, HEIGHT)
    assert read_image(jpeg).shape == (HEIGHT, WIDTH, 3)


def test_header_checks_do_not_decode(tmp_path):
    data = save(tmp_path, "a.png", np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    assert image_size(tmp_path / "a.png") == (WIDTH, HEIGHT)
    check_image_header(tmp_path / "a.png", (WIDTH, HEIGHT))
    assert reason(tmp_path / "a.png").startswith("cannot be decoded, the file is damaged")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp", "a.bmp", "a.jp2", "a.avif", "a.gif"])
def test_truncated_files(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = save(tmp_path, name, noise).read_bytes()
    for share in (0.05, 0.5, 0.9):
        (tmp_path / name).write_bytes(data[: int(len(data) * share)])
        assert reason(tmp_path / name)


def test_what_is_no_image_file(tmp_path):
    assert reason(tmp_path / "missing.png") == "no such file"
    assert reason(tmp_path) == "a folder, not an image file"
    (tmp_path / "empty.png").touch()
    assert reason(tmp_path / "empty.png") == "the file is empty"
    (tmp_path / "text.png").write_text("no image")
    assert reason(tmp_path / "text.png").startswith("not an image, or in a format other than AVIF, BMP")
    (tmp_path / "a.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    assert reason(tmp_path / "a.eps").startswith("not an image, or in a format other than AVIF, BMP")
    os.mkfifo(tmp_path / "pipe.png")
    assert reason(tmp_path / "pipe.png") == "not a regular file"
    assert reason(tmp_path / ("a" * 300)).startswith("cannot be opened")
    assert reason(tmp_path / "a\0.png").startswith("cannot be opened")


def png_header(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_decompression_bombs(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(60_000, 60_000))
    assert "more than the limit of 178,956,970" in reason(path) or "more pixels than the limit" in reason(path)
    path.write_bytes(png_header(12_000, 12_000))  # Pillow would warn only
    assert reason(path).startswith("cannot be decoded")
    assert image_size(path) == (12_000, 12_000)
    monkeypatch.setattr(images, "MAX_IMAGE_PIXELS", 12_000 * 12_000 - 1)
    assert reason(path).startswith("is 12000x12000 pixels, more than the limit")


def test_damaged_files_raise_nothing_but_image_errors(tmp_path):
    rng = random.Random(0)
    originals = []
    for form in ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000", "PPM", "AVIF"):
        buffer = io.BytesIO()
        Image.fromarray(picture()).save(buffer, form)
        originals.append(buffer.getvalue())
    refused = 0
    for number in range(900):
        data = bytearray(originals[number % len(originals)])
        for _ in range(rng.randint(1, 8)):
            data[int(len(data) * rng.random() ** 2)] = rng.randrange(256)  # headers more often than pixels
        path = tmp_path / f"damaged {number}"
        path.write_bytes(data)
        for read in (read_image, image_size):
            try:
                read(path)
            except ImageError as error:
                assert str(error)
                refused += 1
    assert 0 < refused < 1800
