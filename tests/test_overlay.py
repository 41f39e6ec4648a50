from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multicam.errors import InputError
from multicam.overlay import COLORMAPS, STYLES, colors, heat, paint, signed, spotlight

RANDOM = np.random.default_rng(0)
PHOTO = RANDOM.integers(0, 256, (40, 60, 3), dtype=np.uint8)
PHOTO.flags.writeable = False  # as np.asarray(PIL image) gives it


def bump(height: int = 40, width: int = 60, scale: float = 1.0) -> np.ndarray:
    """Positive on the left, negative on the right, NaN in the last three rows."""
    wave = np.cos(np.linspace(0, np.pi, width, dtype=np.float32))
    values = np.tile(scale * wave, (height, 1))
    values[-3:] = np.nan
    return values


@pytest.mark.parametrize("style", STYLES)
def test_every_style_keeps_what_the_model_did_not_see(style: str) -> None:
    picture = paint(PHOTO, bump(), style=style)
    assert picture.shape == PHOTO.shape
    assert picture.dtype == np.uint8
    assert np.array_equal(picture[-3:], PHOTO[-3:])
    assert not np.array_equal(picture[:-3], PHOTO[:-3])


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_map_that_says_nothing_leaves_the_photo_as_it_is(style: str, value: float) -> None:
    values = np.full((40, 60), value, np.float32)
    picture = paint(PHOTO, values, style=style)
    assert np.array_equal(picture, PHOTO)
    assert picture.flags.writeable


@pytest.mark.parametrize("style", ["heat", "spotlight"])
def test_a_map_without_positive_values_leaves_the_photo_as_it_is(style: str) -> None:
    assert np.array_equal(paint(PHOTO, -np.abs(bump()), style=style), PHOTO)


@pytest.mark.parametrize("style", STYLES)
@given(scale=st.floats(1e-20, 1e20))
@settings(deadline=None, max_examples=10)
def test_only_the_shape_of_a_map_counts(style: str, scale: float) -> None:
    picture = paint(PHOTO, bump(scale=scale), style=style)
    difference = picture.astype(int) - paint(PHOTO, bump(), style=style)
    assert np.abs(difference).max() <= 2


@pytest.mark.parametrize("style", STYLES)
def test_one_pixel_can_be_painted(style: str) -> None:
    assert paint(PHOTO[:1, :1], np.ones((1, 1), np.float32), style=style).shape == (1, 1, 3)


def test_heat_is_the_formula() -> None:
    values = bump()
    picture = heat(PHOTO, values, colormap="viridis", opacity=0.3)
    share = np.maximum(values[:-3], 0) / np.nanmax(values)
    tint = colors("viridis")[(share * 255).round().astype(int)]
    assert np.abs(picture[:-3] - (0.7 * PHOTO[:-3] + 0.3 * tint)).max() <= 1


def test_heat_paints_the_maximum_red_and_the_rest_blue() -> None:
    picture = heat(PHOTO, bump(), opacity=1.0)
    assert picture[0, 0].tolist() == [128, 0, 0]
    assert picture[0, -1].tolist() == [0, 0, 128]


def test_signed_is_red_for_and_blue_against_and_clear_between() -> None:
    values = bump(width=61)
    photo = np.full((40, 61, 3), 100, np.uint8)
    picture = signed(photo, values).astype(int)
    assert picture[0, 0, 0] > picture[0, 0, 2] + 50
    assert picture[0, -1, 2] > picture[0, -1, 0] + 50
    assert picture[0, 30].tolist() == [100, 100, 100]


def test_signed_is_the_formula() -> None:
    values = bump()
    relative = values[:-3] / np.nanmax(np.abs(values))
    tint = colors("diverging")[((relative + 1) / 2 * 255).round().astype(int)]
    opacity = 0.6 * np.abs(relative)[..., None]
    expected = (1 - opacity) * PHOTO[:-3] + opacity * tint
    assert np.abs(signed(PHOTO, values, opacity=0.6)[:-3] - expected).max() <= 1


def test_the_spotlight_keeps_what_matters_and_dims_and_blurs_the_rest() -> None:
    photo = np.zeros((200, 300, 3), np.uint8)
    photo[:, ::10] = 255
    values = np.zeros((200, 300), np.float32)
    values[:, :100] = 1
    picture = spotlight(photo, values)
    assert np.array_equal(picture[:, :100], photo[:, :100])
    assert picture[:, 150:].mean() == pytest.approx(0.45 * photo[:, 150:].mean(), rel=0.05)
    assert picture[:, 150:].std() < 0.3 * photo[:, 150:].std()


@pytest.mark.parametrize("factor", [2, 8])
def test_the_blur_grows_with_the_photo(factor: int) -> None:
    small = RANDOM.integers(0, 256, (50, 75, 3), dtype=np.uint8)
    values = np.zeros((50, 75), np.float32)
    values[0, 0] = 1
    large = small.repeat(factor, axis=0).repeat(factor, axis=1)
    large_values = values.repeat(factor, axis=0).repeat(factor, axis=1)
    shrunk = spotlight(large, large_values, blur=0.1)[factor // 2 :: factor, factor // 2 :: factor]
    difference = shrunk.astype(int) - spotlight(small, values, blur=0.1)
    assert np.abs(difference[2:, 2:]).mean() < 3


def test_no_blur_only_dims() -> None:
    values = np.zeros((40, 60), np.float32)
    values[0, 0] = 1
    picture = spotlight(PHOTO, values, blur=0, brightness=0.5)
    assert np.abs(picture[1:] - PHOTO[1:] / 2).max() <= 1


@pytest.mark.parametrize("name", COLORMAPS)
def test_every_colormap_has_256_colours_and_paints(name: str) -> None:
    assert colors(name).shape == (256, 3)
    assert len(np.unique(colors(name), axis=0)) > 100
    assert not np.array_equal(heat(PHOTO, bump(), colormap=name), PHOTO)


def test_the_middle_of_the_diverging_colormap_is_white() -> None:
    assert colors("diverging")[127:129].min() > 240


def test_an_unknown_style_lists_the_choices() -> None:
    with pytest.raises(InputError, match="no style is called 'fire'; there are heat, signed, spot"):
        paint(PHOTO, bump(), style="fire")


@pytest.mark.parametrize("style", [heat, signed])
def test_an_unknown_colormap_lists_the_choices(style: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="no colormap is called 'jett'; there are jet, viridis"):
        style(PHOTO, bump(), colormap="jett")


@pytest.mark.parametrize(
    ("style", "option"),
    [
        ("heat", "opacity"),
        ("signed", "opacity"),
        ("spotlight", "blur"),
        ("spotlight", "brightness"),
    ],
)
def test_an_option_out_of_range_is_refused(style: str, option: str) -> None:
    with pytest.raises(InputError, match=f"{option} 1.5 is not in 0 to 1"):
        paint(PHOTO, bump(), style=style, **{option: 1.5})
