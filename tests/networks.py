"""Small real networks that the tests explain."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)


class ConvNet(nn.Module):
    """Two convolutions over 1, 2 or 3 dimensions; smooth, so that differences can check it."""

    def __init__(self, dims: int = 2, channels: int = 4, classes: int = 3) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        self.first = conv(2, channels, 3, padding=1)
        self.second = conv(channels, channels, 3, padding=1)
        self.head = nn.Linear(channels, classes)

    def after_second(self, maps: Tensor) -> Tensor:
        squared: Tensor = self.head(maps.tanh().flatten(2).square().mean(dim=2))
        return squared

    def forward(self, signal: Tensor) -> Tensor:
        return self.after_second(self.second(self.first(signal).tanh()))


class TwoChannels(nn.Module):
    """Its input is the feature map; logits are sums that fit on the back of an envelope."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        first, second = self.layer(maps).flatten(2).sum(dim=2).unbind(dim=1)
        return torch.stack([2 * first - second, first * second], dim=1)


class Inplace(nn.Module):
    """A residual block whose ReLU and sum change their tensors in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        shortcut = self.stem(images)
        x = self.norm(self.conv(shortcut))
        x += shortcut
        logits: Tensor = self.head(self.relu(x).mean(dim=(2, 3)))
        return logits


class ConvRecurrent(nn.Module):
    """Convolutions whose places are read one after the other by an LSTM or a GRU."""

    def __init__(self, cell: type[nn.LSTM | nn.GRU] = nn.LSTM, classes: int = 5) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )
        self.deep = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.recurrent = cell(8, 6, batch_first=True)
        self.head = nn.Linear(6, classes)
        self.fails = False

    def forward(self, images: Tensor) -> Tensor:
        sequence = self.deep(self.conv(images)).flatten(2).transpose(1, 2)
        states, _ = self.recurrent(sequence)
        if self.fails:
            raise ArithmeticError("the model itself failed")
        logits: Tensor = self.head(states[:, -1])
        return logits


class Asked(nn.Module):
    """Two inputs, an image and the token ids of a question; the output is a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.image = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1)
        )
        self.head = nn.Linear(8, 5)

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> dict[str, Tensor]:
        places = self.image(pixel_values).tanh()
        question = self.words(input_ids).mean(dim=1)
        seen = (places * question[:, :, None, None]).mean(dim=(2, 3))
        return {"logits": self.head(seen), "question": question}


class Tokens(nn.Module):
    """A transformer over patches, with class and register tokens in front."""

    def __init__(self, patch: int = 8, prefix: int = 1, pooled: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, patch, patch)
        self.prefix = nn.Parameter(torch.randn(1, prefix, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 5)
        self.pooled = pooled

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.prefix.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = self.encoder(tokens)
        logits: Tensor = self.head(tokens.mean(dim=1) if self.pooled else tokens[:, 0])
        return logits


class Wrapped(nn.Module):
    """Gives the logits of a network in another type, made by `wrap`."""

    def __init__(self, network: nn.Module, wrap: Any) -> None:
        super().__init__()
        self.network = network
        self.wrap = wrap

    def forward(self, images: Tensor) -> Any:
        return self.wrap(self.network(images))


def hugging_face_resnet() -> nn.Module:
    """A ResNet of three stages."""
    options: dict[str, Any] = {"num_labels": 5}
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12, 16], depths=[1, 2, 1], **options)
    return cast("nn.Module", ResNetForImageClassification(config).eval())


def hugging_face_vit(attention: str = "sdpa", size: int = 64) -> nn.Module:
    """A vision transformer of three layers, with a class token, and patches of 16 pixels."""
    options: dict[str, Any] = {"num_labels": 5, "attn_implementation": attention}
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=size,
        patch_size=16,
        **options,
    )
    return cast("nn.Module", ViTForImageClassification(config).eval())


def images(batch: int = 2, size: int | tuple[int, int] = 16, seed: int = 1) -> Tensor:
    """Random images, (batch, 3, height, width)."""
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))
