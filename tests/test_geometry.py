from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms import transforms as v1
from transformers import ConvNextImageProcessor, ViTImageProcessor

from multicam.errors import InputError
from multicam.geometry import Geometry
from multicam.preprocessing import measure, prepare

V1_TENSOR = [v1.ToTensor(), v1.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
V2_TENSOR = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]


def compose(*steps: Any) -> Callable[[Image.Image], Tensor]:
    transform: Callable[[Image.Image], Tensor] = v2.Compose([*steps, *V2_TENSOR])
    return transform


class Axis:
    """What a chain of steps does to one axis, by the definition of each step."""

    def __init__(self, length: int) -> None:
        self.length, self.start, self.scale = length, 0.0, 1.0

    def resize(self, length: int) -> None:
        self.scale *= self.length / length
        self.length = length

    def crop(self, length: int) -> None:
        if self.length < length:  # torchvision pads first, the smaller half before
            self.pad((length - self.length) // 2, (length - self.length + 1) // 2)
        self.start += round((self.length - length) / 2) * self.scale
        self.length = length

    def pad(self, before: int, after: int) -> None:
        self.start -= before * self.scale
        self.length += before + after

    def flip(self) -> None:
        self.start += self.length * self.scale
        self.scale = -self.scale

    @property
    def ends(self) -> tuple[float, float]:
        return self.start, self.start + self.length * self.scale


def resized_shorter_side(x: Axis, y: Axis, side: int) -> None:
    short, long = sorted((x, y), key=lambda axis: axis.length)
    long_side = int(side * long.length / short.length)
    short.resize(side)
    long.resize(long_side)


@st.composite
def chains(draw: st.DrawFn) -> tuple[Any, tuple[int, int], tuple[float, float, float, float]]:
    """A transform, the size of a photo, and where the model looks on it."""
    module, tensor = draw(st.sampled_from([(v1, V1_TENSOR), (v2, V2_TENSOR)]))
    filters = [InterpolationMode.BILINEAR, InterpolationMode.BICUBIC, InterpolationMode.LANCZOS]
    size = draw(st.tuples(st.integers(40, 700), st.integers(40, 700)))
    x, y = Axis(size[1]), Axis(size[0])
    steps: list[Any] = []
    if draw(st.booleans()):
        before, after = draw(st.integers(0, 40)), draw(st.integers(0, 40))
        steps.append(module.Pad((before, after), fill=draw(st.sampled_from([0, 114, 255]))))
        x.pad(before, before)
        y.pad(after, after)
    interpolation = draw(st.sampled_from(filters))
    if draw(st.booleans()):
        side = draw(st.integers(64, 300))
        steps.append(module.Resize(side, interpolation))
        resized_shorter_side(x, y, side)
    else:
        height, width = draw(st.tuples(st.integers(48, 300), st.integers(48, 300)))
        steps.append(module.Resize((height, width), interpolation))
        x.resize(width)
        y.resize(height)
    if draw(st.booleans()):
        side = draw(st.integers(48, 320))
        steps.append(module.CenterCrop(side))
        x.crop(side)
        y.crop(side)
    for axis, flip in ((x, v2.functional.horizontal_flip), (y, v2.functional.vertical_flip)):
        if draw(st.booleans()):
            steps.append(flip)
            axis.flip()
    (left, right), (top, bottom) = x.ends, y.ends
    return module.Compose([*steps, *tensor]), size, (left, top, right, bottom)


@settings(deadline=None, max_examples=40)
@given(chains())
def test_the_box_is_where_the_steps_say_to_a_pixel_of_the_photo(chain: Any) -> None:
    transform, size, expected = chain
    box = np.array(measure(transform, size).box)
    assert np.abs(box - expected).max() < 1


@pytest.mark.parametrize(
    ("size", "tolerance"),
    [((300, 451), 0.1), ((3000, 4000), 0.5), ((20, 30), 0.1), ((1, 1), 0.5), ((2, 9), 0.5)],
)
def test_photos_of_all_sizes_are_measured(size: tuple[int, int], tolerance: float) -> None:
    x, y = Axis(size[1]), Axis(size[0])
    resized_shorter_side(x, y, 256)
    for axis in (x, y):
        axis.crop(224)
    expected = np.array([x.start, y.start, x.ends[1], y.ends[1]])
    if size == (1, 1):  # one pixel looks the same everywhere: it is taken as seen whole
        expected = np.array([0, 0, 1, 1])
    box = measure(compose(v2.Resize(256), v2.CenterCrop(224)), size).box
    assert np.abs(box - expected).max() < tolerance


@pytest.mark.parametrize(
    ("processor", "box"),
    [
        (ViTImageProcessor(), (0, 0, 451, 300)),
        (
            ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=0.875),
            (94.0, 18.75, 357.1, 281.25),
        ),
    ],
)
def test_hugging_face_processors_are_measured(processor: Any, box: tuple[float, ...]) -> None:
    def transform(image: Image.Image) -> Tensor:
        pixels: Tensor = processor(image, return_tensors="pt")["pixel_values"][0]
        return pixels

    assert np.abs(np.subtract(measure(transform, (300, 451)).box, box)).max() < 0.2


@pytest.mark.parametrize(
    "finish",
    [
        v2.Grayscale(),
        v2.ToDtype(torch.bfloat16),
        v2.Normalize([0.5] * 3, [0.01] * 3),
        v2.Lambda(lambda tensor: 1 - tensor),
    ],
)
def test_the_values_of_the_tensor_do_not_matter(finish: Any) -> None:
    transform = v2.Compose([v2.Resize((64, 64)), *V2_TENSOR, finish])
    assert np.abs(np.subtract(measure(transform, (100, 150)).box, (0, 0, 150, 100))).max() < 0.5


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric"])
def test_padding_of_every_kind_lies_beyond_the_photo(mode: Any) -> None:
    transform = compose(v2.Resize((64, 64)), v2.Pad((16, 8), padding_mode=mode))
    box = measure(transform, (128, 128)).box
    assert np.abs(np.subtract(box, (-32, -16, 160, 144))).max() < 0.5


@pytest.mark.parametrize("size", [(1000, 20), (20, 1000), (3000, 14)])
def test_a_thin_strip_between_padding_is_measured(size: tuple[int, int]) -> None:
    transform = compose(lambda image: ImageOps.pad(image, (224, 224), color=(114, 114, 114)))
    geometry = measure(transform, size)
    left, top, right, bottom = geometry.box
    across, along = sorted((right - left, bottom - top), key=lambda side: abs(side - max(size)))[
        ::-1
    ]
    assert abs(along - max(size)) < 1
    assert across > 0.7 * along  # a few pixels of the input: there is little to go by
    assert np.isfinite(geometry.place(np.ones((7, 7)))).all()


def rotated(image: Image.Image) -> Image.Image:
    return image.rotate(2)


def transposed(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.TRANSPOSE)


def swirled(image: Image.Image) -> Image.Image:
    rows, columns = np.mgrid[:100, :150].astype(np.float32)
    bent = columns + 6 * np.sin(rows / 12)
    return Image.fromarray(cv2.remap(np.asarray(image), bent, rows, cv2.INTER_LINEAR))


def brightened(image: Image.Image) -> Image.Image:
    return image.point([int(255 * (grey / 255) ** 1.5) for grey in range(256)] * 3)


@pytest.mark.parametrize("step", [rotated, transposed, swirled, brightened])
def test_what_turns_or_bends_the_photo_is_refused(step: Any) -> None:
    with pytest.raises(InputError, match=r"turns or bends .* give the place yourself: Photo\("):
        measure(compose(step), (100, 150))


@pytest.mark.parametrize(
    "step", [v2.RandomHorizontalFlip(), v2.RandomResizedCrop(64), v2.ColorJitter(0.5)]
)
def test_a_random_transform_is_refused(step: Any) -> None:
    with pytest.raises(InputError, match=r"it is random: .* use the transform for evaluation"):
        measure(compose(step), (100, 150))


def test_a_transform_with_its_own_dice_is_refused() -> None:
    calls = count()

    def transform(image: Image.Image) -> Tensor:
        pixels: Tensor = v2.functional.pil_to_tensor(image)
        return pixels.roll(next(calls), dims=2)

    with pytest.raises(InputError, match="it is random"):
        measure(transform, (100, 150))


def test_a_transform_that_draws_numbers_in_vain_is_not_random() -> None:
    box = measure(compose(v2.RandomHorizontalFlip(p=1.0)), (100, 150)).box
    assert np.abs(np.subtract(box, (150, 0, 0, 100))).max() < 0.1


def test_a_transform_that_hides_the_photo_is_refused() -> None:
    with pytest.raises(InputError, match="a black and a white photo come out the same"):
        measure(lambda image: torch.zeros(3, 8, 8), (100, 150))


@pytest.mark.parametrize("output", [torch.zeros(1, 3, 8, 8), {"pixel_values": 0}])
def test_what_is_no_image_tensor_is_refused(output: Any) -> None:
    with pytest.raises(InputError, match=r"returned .* instead of a tensor \(channel, height, w"):
        measure(v2.Lambda(lambda image: output), (10, 10))


def test_a_transform_that_changes_is_measured_again() -> None:
    crop = v2.CenterCrop(40)
    transform = compose(crop)
    first = measure(transform, (100, 100))
    assert measure(transform, (100, 100)) is first
    crop.size = [60, 60]
    assert np.abs(np.subtract(measure(transform, (100, 100)).box, (20, 20, 80, 80))).max() < 0.1


def test_a_known_transform_costs_one_more_run() -> None:
    calls = count()

    def transform(image: Image.Image) -> Tensor:
        next(calls)
        pixels: Tensor = v2.functional.pil_to_tensor(image)
        return pixels

    measure(transform, (31, 33))
    before = next(calls)
    measure(transform, (31, 33))
    assert next(calls) - before == 2  # the run, and this `next`


# Laying a map on the photo


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
def test_a_map_of_the_whole_photo_equals_cv2_resize(
    cells: tuple[int, int], size: tuple[int, int]
) -> None:
    values = np.random.default_rng(0).standard_normal(cells).astype(np.float32)
    placed = Geometry.whole(size).place(values)
    upwards = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], size, mode="bilinear", align_corners=False
    )
    assert np.allclose(placed, upwards[0, 0], atol=1e-5)
    assert np.allclose(placed, cv2.resize(values, size[::-1]), atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(*[st.floats(-20, 60)] * 4).filter(
        lambda box: abs(box[0] - box[2]) > 2 and abs(box[1] - box[3]) > 2
    )
)
def test_a_linear_map_stays_linear_over_any_box(box: tuple[float, float, float, float]) -> None:
    left, top, right, bottom = box
    centers = (np.arange(8) + 0.5) / 8
    values = np.add.outer(3 * centers, centers)
    placed = Geometry((40, 50), box).place(values)
    for row, y in enumerate((np.arange(40) + 0.5 - top) / (bottom - top)):
        for column, x in enumerate((np.arange(50) + 0.5 - left) / (right - left)):
            if 0 <= x <= 1 and 0 <= y <= 1:
                expected = 3 * np.clip(y, centers[0], centers[-1]) + np.clip(
                    x, centers[0], centers[-1]
                )
                assert abs(placed[row, column] - expected) < 1e-4
            else:
                assert np.isnan(placed[row, column])


def test_a_box_without_area_is_refused() -> None:
    with pytest.raises(InputError, match=r"no area: a photo of \(4, 4\) with the box"):
        Geometry((4, 4), (2, 0, 2, 4))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("corner", [(30, 160), (30, 400), (270, 160), (270, 400)])
def test_a_square_near_the_border_is_found_again(corner: tuple[int, int], mirrored: bool) -> None:
    """The model's cell on the square, laid back, lies on the square of the photo."""
    top, left = corner
    pixels = np.full((340, 600, 3), 90, np.uint8)
    pixels[top : top + 40, left : left + 40] = (255, 0, 0)
    steps = [v2.Resize(256), v2.CenterCrop(224)]
    flip = [v2.functional.horizontal_flip] if mirrored else []
    batch, photo = prepare(pixels, compose(*steps, *flip))

    redness = (batch[0, 0] - batch[0, 1]).numpy()
    cells = cv2.resize(redness, (28, 28), interpolation=cv2.INTER_AREA)
    placed = np.nan_to_num(photo.geometry.place(cells))
    hot = placed > placed.max() / 2
    rows, columns = np.nonzero(hot)
    assert abs(rows.mean() - (top + 19.5)) < 2
    assert abs(columns.mean() - (left + 19.5)) < 2
    assert hot[top + 8 : top + 32, left + 8 : left + 32].all()
    assert not hot[: top - 6].any()
    assert not hot[:, : left - 6].any()


def test_prepare_gives_a_batch_of_one_and_the_upright_photo() -> None:
    batch, photo = prepare(np.zeros((60, 90), np.uint8), compose(v2.Resize((32, 32))))
    assert batch.shape == (1, 3, 32, 32)
    assert photo.image.size == (90, 60)
    assert photo.geometry.size == (60, 90)
