from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from multicam.errors import InputError
from multicam.images import load

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def quarters() -> Image.Image:
    """Red top left, green top right, blue bottom left, white bottom right; 24 x 16."""
    image = Image.new("RGB", (24, 16), RED)
    image.paste(GREEN, (12, 0, 24, 8))
    image.paste(BLUE, (0, 8, 12, 16))
    image.paste(WHITE, (12, 8, 24, 16))
    return image


def png_header(width: int, height: int) -> bytes:
    """A PNG file that announces a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


# What is read


def test_a_path_its_text_and_its_bytes_give_the_same_image(tmp_path: Path) -> None:
    path = tmp_path / "quarters.png"
    quarters().save(path)
    for source in (path, str(path), path.read_bytes()):
        image = load(source)
        assert image.mode == "RGB"
        assert image.tobytes() == quarters().tobytes()


def test_real_photos_are_read(photos: dict[str, Path]) -> None:
    assert load(photos["cat"]).size == (451, 300)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_the_exif_orientation_is_applied(format: str, orientation: int) -> None:
    turned = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = quarters() if turned is None else quarters().transpose(turned)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = load(encoded(stored, format, exif=exif))
    assert image.size == (24, 16)
    for place, color in (((3, 3), RED), ((20, 3), GREEN), ((3, 12), BLUE), ((20, 12), WHITE)):
        column, row = place
        assert np.abs(np.asarray(image)[row, column].astype(int) - color).max() < 40
    assert not image.getexif()


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    pixels = np.asarray(load(quarters().convert(mode)))
    assert pixels.shape == (16, 24, 3)
    if mode in ("1", "L"):
        assert (pixels[..., :1] == pixels).all()
    else:
        assert np.abs(pixels.astype(int) - np.asarray(quarters())).max() <= 3


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    data = encoded(Image.new("RGB", (16, 16), (200, 60, 30)).convert("CMYK"), "JPEG")
    assert np.abs(np.asarray(load(data)).astype(int) - (200, 60, 30)).max() <= 4


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    if mode == "P":
        data = Image.new("P", (2, 1), 0)
        data.putpalette([0, 0, 0, 10, 10, 10])
        data.putpixel((1, 0), 1)
        source: Any = encoded(data, "PNG", transparency=1)
    else:
        source = image.convert(mode)
    assert np.asarray(load(source))[0].tolist() == [[0, 0, 0], [255, 255, 255]]


def test_half_transparency_is_blended() -> None:
    pixels = np.asarray(load(Image.new("RGBA", (1, 1), (0, 100, 200, 51))))
    assert np.abs(pixels[0, 0].astype(int) - (204, 224, 244)).max() <= 1


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(format: str) -> None:
    grey = np.array([[0, 257, 32896, 65535]], np.uint16)
    pixels = np.asarray(load(encoded(Image.fromarray(grey), format)))
    assert pixels[0].tolist() == [[0] * 3, [1] * 3, [128] * 3, [255] * 3]


def test_32_bit_grey_beyond_16_bits_is_refused() -> None:
    image = Image.fromarray(np.array([[-1, 70000]], np.int32))
    with pytest.raises(InputError, match=r"from -1 to 70000; only 0 to 65535"):
        load(image)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation_counts(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    frames = [Image.new("RGB", (8, 8), color) for color in (GREEN, RED, BLUE)]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert load(data).getpixel((4, 4)) == GREEN


def test_one_pixel_is_an_image() -> None:
    assert load(encoded(Image.new("RGB", (1, 1), RED), "PNG")).getpixel((0, 0)) == RED


def test_a_pil_image_is_not_changed() -> None:
    image = Image.new("RGBA", (2, 2), (1, 2, 3, 4))
    image.info["comment"] = "kept"
    load(image).putpixel((0, 0), RED)
    assert image.mode == "RGBA"
    assert image.getpixel((0, 0)) == (1, 2, 3, 4)
    assert image.info == {"comment": "kept"}


# Arrays and tensors


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "bool", "float16", "float64"])
def test_arrays_of_every_type_and_shape(dtype: str, channels: int | None) -> None:
    values = np.random.default_rng(0).integers(
        0, 2, (3, 5) if channels is None else (3, 5, channels)
    )
    if channels == 4:
        values[..., 3] = 1
    high = {"uint8": 255, "uint16": 65535, ">u2": 65535}.get(dtype, 1)
    pixels = np.asarray(load((values * high).astype(dtype)))
    expected = values if values.ndim == 3 else values[..., None]
    assert np.array_equal(pixels, np.broadcast_to(expected[..., :3] * 255, (3, 5, 3)))


@given(st.floats(0, 1), st.sampled_from([torch.float16, torch.bfloat16, torch.float32]))
def test_floating_point_is_rounded_to_the_nearest_grey(value: float, dtype: torch.dtype) -> None:
    tensor = torch.full((1, 2, 2), value).to(dtype)
    grey = np.asarray(load(tensor))[0, 0, 0]
    assert abs(float(grey) - 255 * float(tensor[0, 0, 0])) <= 0.501


def test_a_tensor_is_an_image_with_the_channels_first() -> None:
    pixels = np.asarray(quarters())
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    assert np.array_equal(np.asarray(load(tensor)), pixels)
    assert np.array_equal(np.asarray(load((tensor / 255).requires_grad_())), pixels)


@pytest.mark.parametrize("shape", [(3,), (2, 4, 4), (1, 3, 4, 4), (5, 4, 3)])
def test_a_tensor_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"a tensor of shape \(.*\(height, width\) or \(1, 3 or 4"):
        load(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(3,), (4, 4, 2), (1, 4, 4, 3), (3, 4, 5)])
def test_an_array_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"an array of shape \(.*\(height, width, 1, 3 or 4\)"):
        load(np.zeros(shape))


@pytest.mark.parametrize("values", [[0.0, 1.2], [-0.5, 1.0], [0.0, float("nan")]])
def test_floating_point_beyond_0_to_1_is_refused(values: list[float]) -> None:
    with pytest.raises(InputError, match=r"must be in 0 to 1, these go from .*normalised"):
        load(np.array([values]))


def test_a_type_without_a_known_range_is_refused() -> None:
    with pytest.raises(InputError, match=r"pixels of type int64 have no known range; give uint8"):
        load(np.zeros((2, 2), np.int64))


@pytest.mark.parametrize(
    "source", [np.zeros((0, 5, 3), np.uint8), torch.zeros(3, 4, 0), Image.new("RGB", (0, 5))]
)
def test_an_image_without_pixels_is_refused(source: Any) -> None:
    with pytest.raises(InputError, match="the image has no pixels"):
        load(source)


# Files that are refused


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cat\.jpg does not exist \(looked from "):
        load(tmp_path / "cat.jpg")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder; give an image file"):
        load(tmp_path)


def test_a_path_that_cannot_be_opened_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load("x" * 5000)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    with pytest.raises(InputError, match=r"empty\.png is empty"):
        load(tmp_path / "empty.png")


@pytest.mark.parametrize("data", [b"a letter, not a photo", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_not_an_image_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "letter.jpg").write_bytes(data)
    with pytest.raises(InputError, match=r"letter\.jpg is not an image"):
        load(tmp_path / "letter.jpg")


def test_a_truncated_jpeg_is_refused(photos: dict[str, Path], tmp_path: Path) -> None:
    whole = photos["cat"].read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"half\.jpg cannot be decoded, it is damaged or cut"):
        load(tmp_path / "half.jpg")


@pytest.mark.parametrize("format", ["PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM"])
def test_a_truncated_file_of_any_format_is_refused(format: str) -> None:
    noise = Image.effect_noise((64, 64), 90)
    data = encoded(noise, format)
    with pytest.raises(InputError, match=r"the data of .* bytes"):
        load(data[: len(data) // 2])


def test_900_million_pixels_are_refused_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(30_000, 30_000))
    with pytest.raises(InputError) as caught:
        load(path)
    assert "bomb.png has 30000 x 30000 = 900,000,000 pixels, over the limit of" in str(caught.value)
    assert "multicam.images.load(source, max_pixels=900000000)" in str(caught.value)


def test_pillows_own_warning_about_size_does_not_leak() -> None:
    with pytest.raises(InputError, match=r"95,000,000 pixels, over the limit of 90,000,000"):
        load(png_header(9_500, 10_000), max_pixels=90_000_000)


def test_the_limit_can_be_raised() -> None:
    data = encoded(quarters(), "PNG")
    with pytest.raises(InputError, match=r"24 x 16 = 384 pixels, over the limit of 383"):
        load(data, max_pixels=383)
    image = load(data, max_pixels=384)
    assert load(image).size == (24, 16)


def test_many_threads_read_many_formats() -> None:
    limit = Image.MAX_IMAGE_PIXELS
    sources = [encoded(quarters(), format) for format in ("PNG", "BMP", "TIFF", "PPM")] * 8
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(load, sources))
    assert {image.tobytes() for image in images} == {quarters().tobytes()}
    assert limit == Image.MAX_IMAGE_PIXELS
