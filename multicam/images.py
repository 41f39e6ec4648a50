"""Any picture becomes an upright 8-bit RGB image, or an error that says why not."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

from multicam.errors import InputError, MulticamError

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | np.ndarray | Tensor
"""A path, an encoded file, a PIL image, an array or a tensor."""

_Stream: TypeAlias = BytesIO | BufferedReader
_NOT_THIS_FORMAT = (SyntaxError, IndexError, TypeError, struct.error)  # as in PIL.Image.open
_RUNS_PROGRAMS = {"EPS"}  # decoded by Ghostscript
_ROUNDING = 1e-4  # how far resampling may carry a float beyond 0 or 1


def load(source: ImageSource, *, max_pixels: int = 100_000_000) -> Image.Image:
    """Decode a picture fully.

    Files are turned upright by their EXIF orientation; the first frame of an
    animation counts; transparency is laid on white; 16 bits are scaled to 8.
    Safe to call from several threads: no setting of Pillow is read or changed.

    Args:
        source: one of
            a path;
            the bytes of an encoded file;
            a PIL image, which is not changed;
            an array (height, width) or (height, width, 1, 3 or 4), uint8, uint16, bool,
            or floating point in 0 to 1;
            a tensor (height, width) or (1, 3 or 4, height, width) of the same types.
        max_pixels: files with more are refused before they are decoded.

    Returns:
        The image in mode RGB, without metadata.

    Raises:
        InputError: the source is missing, damaged, too large, empty or no image.

    Example:
        >>> import numpy as np
        >>> load(np.zeros((2, 3), dtype=bool)).size
        (3, 2)
    """
    if isinstance(source, Image.Image):
        with _decoding("the image"):
            return _rgb(source)
    if isinstance(source, Tensor):
        return _from_tensor(source)
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, bytes):
        return _from_stream(BytesIO(source), f"the data of {len(source)} bytes", max_pixels)
    if isinstance(source, (str, os.PathLike)):
        return _from_path(Path(source), max_pixels)
    raise InputError(
        f"a {type(source).__name__} is no image; "
        "give a path, bytes, a PIL image, a NumPy array or a tensor"
    )


def _from_path(path: Path, max_pixels: int) -> Image.Image:
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; give an image file")
        stream = path.open("rb")
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist (looked from {Path.cwd()})") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})") from error
    with stream:
        return _from_stream(stream, str(path), max_pixels)


def _from_stream(stream: _Stream, name: str, max_pixels: int) -> Image.Image:
    with _decoding(name):
        image = _identify(stream, name)
        width, height = image.size
        if width * height > max_pixels:
            raise InputError(
                f"{name} has {width} x {height} = {width * height:,} pixels, over the limit of "
                f"{max_pixels:,}; if you trust it, pass on what "
                f"multicam.images.load(source, max_pixels={width * height}) returns"
            )
        return _rgb(image)


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Damaged data can make a decoder raise anything: it all means the same."""
    try:
        yield
    except MulticamError:
        raise
    except Exception as error:
        raise InputError(f"{name} cannot be decoded, it is damaged or cut short ({error})") from (
            error
        )


def _identify(stream: _Stream, name: str) -> ImageFile.ImageFile:
    """Read the header, no pixels.

    `Image.open` does the same, but then compares the size with a global of Pillow, and
    warns through filters that are global too: neither can be set for one call.
    """
    prefix = stream.read(16)
    if not prefix:
        raise InputError(f"{name} is empty")
    Image.init()
    for key in Image.ID:
        factory, accept = Image.OPEN[key]
        accepted = accept is None or accept(prefix)
        if key in _RUNS_PROGRAMS or isinstance(accepted, str) or not accepted:
            continue
        stream.seek(0)
        try:
            return factory(stream, "")
        except _NOT_THIS_FORMAT:
            continue
    raise InputError(f"{name} is not an image, or of a format that Pillow cannot read")


def _rgb(image: Image.Image) -> Image.Image:
    if 0 in image.size:
        raise InputError(f"the image has no pixels: {image.width} x {image.height}")
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F" or upright.mode.startswith("I"):
        return _from_array(_deep_grey(upright))
    if upright.has_transparency_data:
        pixels = upright.convert("RGBA")
        white = Image.new("RGBA", pixels.size, "white")
        upright = Image.alpha_composite(white, pixels)
    flat = upright.convert("RGB")
    flat.info.clear()
    return flat


def _deep_grey(image: Image.Image) -> np.ndarray:
    """The values of a grey image of more than 8 bits, as uint16 or float."""
    values = np.asarray(image)
    if image.mode != "I":
        return values
    if values.min() < 0 or values.max() > 65535:
        raise InputError(
            f"a 32-bit grey image holds values from {values.min()} to {values.max()}; "
            "only 0 to 65535 has a meaning as grey; scale it first"
        )
    return values.astype(np.uint16)


def _from_tensor(tensor: Tensor) -> Image.Image:
    if tensor.ndim not in (2, 3) or (tensor.ndim == 3 and tensor.shape[0] not in (1, 3, 4)):
        raise InputError(
            f"a tensor of shape {tuple(tensor.shape)} is no image; "
            "give (height, width) or (1, 3 or 4, height, width)"
        )
    values = tensor.detach().cpu()
    if values.is_floating_point():
        values = values.float()
    array = values.numpy()
    return _from_array(array if array.ndim == 2 else np.moveaxis(array, 0, -1))


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InputError(
            f"an array of shape {array.shape} is no image; "
            "give (height, width) or (height, width, 1, 3 or 4)"
        )
    if array.size == 0:
        raise InputError(f"the image has no pixels: its shape is {array.shape}")
    pixels = _eight_bit(array)
    if pixels.shape[2:] == (1,):
        pixels = pixels[:, :, 0]
    return _rgb(Image.fromarray(np.ascontiguousarray(pixels)))


def _eight_bit(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.dtype.kind != "f":
        raise InputError(
            f"pixels of type {array.dtype} have no known range; give uint8, uint16, bool, "
            "or floating point in 0 to 1"
        )
    low, high = float(array.min()), float(array.max())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # so that NaN is refused as well
        raise InputError(
            f"floating-point pixels must be in 0 to 1, these go from {low:.4g} to {high:.4g}; "
            "give the photo as it was before it was normalised"
        )
    return (array.clip(0, 1) * 255).round().astype(np.uint8)
