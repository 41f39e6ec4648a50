from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from multicam import LayerError, token_grid
from multicam.grids import PREFIXES, channels_first, channels_last, infer_reshape

sides = st.integers(16, 300)


@given(
    size=st.tuples(sides, sides),
    channels=st.integers(1, 300),
    kernel=st.sampled_from([1, 2, 3, 5, 7]),
    stride=st.integers(1, 8),
    padded=st.booleans(),
)
@settings(deadline=None, max_examples=300)
def test_the_output_of_a_convolution_is_never_read_as_channels_last(
    size: tuple[int, int], channels: int, kernel: int, stride: int, padded: bool
) -> None:
    conv = nn.Conv2d(1, 1, kernel, stride, kernel // 2 if padded else 0)
    rows, columns = conv(torch.empty(1, 1, *size)).shape[2:]
    try:
        reshape = infer_reshape((2, channels, rows, columns), (2, 3, *size))
    except LayerError as error:
        assert "channels first or last" in str(error)  # noqa: PT017
    else:
        assert reshape is channels_first


@given(size=st.tuples(sides, sides), channels=st.integers(1, 300), stride=st.integers(1, 8))
@settings(deadline=None, max_examples=100)
def test_a_padded_convolution_is_always_read(
    size: tuple[int, int], channels: int, stride: int
) -> None:
    grid = [-(-side // stride) for side in size]
    assert infer_reshape((2, channels, *grid), (2, 3, *size)) is channels_first


@given(
    size=st.tuples(sides, sides),
    patch=st.integers(2, 16),
    prefix=st.sampled_from(PREFIXES),
)
@settings(deadline=None, max_examples=200)
def test_tokens_are_read_right_or_refused(size: tuple[int, int], patch: int, prefix: int) -> None:
    rows, columns = size[0] // patch, size[1] // patch
    assume(rows * columns > 1)
    tokens = torch.arange(rows * columns, dtype=torch.float32).reshape(1, -1, 1)
    tokens = torch.cat([torch.full((1, prefix, 1), -1.0), tokens], dim=1)
    try:
        reshape = infer_reshape(tuple(tokens.shape), (1, 3, *size))
    except LayerError as error:
        assert f"token_grid({rows}, {columns}, " in str(error)  # noqa: PT017
    else:
        expected = torch.arange(rows * columns, dtype=torch.float32).reshape(1, 1, rows, columns)
        assert torch.equal(reshape(tokens), expected)


@pytest.mark.parametrize(
    ("tokens", "size", "grid"),
    [
        (197, (224, 224), (14, 14)),  # ViT-B/16
        (196, (224, 224), (14, 14)),  # without a class token
        (198, (224, 224), (14, 14)),  # DeiT, distilled
        (261, (224, 224), (16, 16)),  # DINOv2 with registers
        (1370, (518, 518), (37, 37)),  # DINOv2
        (577, (384, 384), (24, 24)),  # ViT-B/16 at 384
        (1 + 8 * 20, (128, 320), (8, 20)),  # not square
    ],
)
def test_tokens_of_known_models(tokens: int, size: tuple[int, int], grid: tuple[int, int]) -> None:
    reshape = infer_reshape((2, tokens, 3), (2, 3, *size))
    assert reshape(torch.zeros(2, tokens, 3)).shape == (2, 3, *grid)


@pytest.mark.parametrize("size", [(64, 96), (96, 64), (224, 320), (480, 640)])
def test_swin_grids_are_read_as_channels_last(size: tuple[int, int]) -> None:
    for stride, channels in [(4, 96), (8, 192), (16, 384), (32, 768)]:
        shape = (2, -(-size[0] // stride), -(-size[1] // stride), channels)
        assert infer_reshape(shape, (2, 3, *size)) is channels_last


def test_a_grid_in_one_two_and_three_dimensions_is_channels_first() -> None:
    assert infer_reshape((2, 8, 50), (2, 1, 100)) is channels_first
    assert infer_reshape((2, 8, 5, 5), (2, 3, 10, 10)) is channels_first
    assert infer_reshape((2, 8, 4, 5, 5), (2, 3, 4, 10, 10)) is channels_first


@pytest.mark.parametrize(
    ("shape", "signal", "message"),
    [
        ((2, 9, 4), (2, 3, 48, 48), r"token_grid\(3, 3, prefix=0\) or token_grid\(2, 2, prefix=5"),
        ((2, 33, 4), (2, 3, 48, 48), r"token_grid\(height, width, prefix=\.\.\.\)"),
        ((2, 16, 4), None, r"not certain.*=token_grid\(4, 4, prefix=0\)"),
        ((2, 784, 4), (2, 3, 4, 224, 224), r"not certain"),
        ((2, 9, 38, 192), (2, 3, 70, 300), r"channels first or last; .*reshape=multicam\.grids\."),
        ((2, 5), (2, 3, 8, 8), r"\(2, 5\) is not spatial; choose an earlier layer"),
        ((2, 512, 1, 1), (2, 3, 8, 8), r"a single place; choose an earlier layer"),
    ],
)
def test_what_leaves_a_doubt_is_asked_for(
    shape: tuple[int, ...], signal: tuple[int, ...] | None, message: str
) -> None:
    with pytest.raises(LayerError, match=message):
        infer_reshape(shape, signal)


def test_a_token_grid_leaves_the_prefix_out_and_keeps_the_order() -> None:
    tokens = torch.arange(7.0).reshape(1, 7, 1)
    assert token_grid(2, 3, prefix=1)(tokens).tolist() == [[[[1, 2, 3], [4, 5, 6]]]]


def test_a_token_grid_that_does_not_fit_says_so() -> None:
    with pytest.raises(LayerError, match=r"needs shape \(batch, 7, channel\); .* \(1, 8, 1\)"):
        token_grid(2, 3, prefix=1)(torch.zeros(1, 8, 1))
