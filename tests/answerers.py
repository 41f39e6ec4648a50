"""Small CNN-LSTM networks that answer questions, written as users write theirs."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from multicam.tasks.questions import Reader

WORDS = ["<pad>", "<unk>", "what", "is", "the", "dog", "holding", "color", "this"]
ANSWERS = ["frisbee", "ball", "stick", "brown", "yes"]

reader = Reader.of_words(WORDS, longest=12)


def transform(image: Image.Image, size: tuple[int, int] = (32, 24)) -> Tensor:
    pixels: Tensor = pil_to_tensor(image.resize(size))
    return pixels.float() / 255 - 0.5


class Fused(nn.Module):
    """Photo and question meet in an element-wise product (Antol et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 12, 3, stride=2, padding=1),
            nn.Tanh(),
        )
        self.embedding = nn.Embedding(len(WORDS), 10, padding_idx=0)
        self.lstm = nn.LSTM(10, 12, batch_first=True)
        self.out = nn.Linear(12, len(ANSWERS))

    def asked(self, tokens: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(tokens))
        last: Tensor = states[torch.arange(len(tokens)), (tokens != 0).sum(dim=1) - 1]
        return last

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        seen = self.cnn(images).mean(dim=(2, 3)) * 10
        logits: Tensor = self.out(seen * self.asked(tokens))
        return logits


class Stacked(Fused):
    """The question chooses where to look (Yang et al. 2016); the output is a dict."""

    def forward(self, images: Tensor, tokens: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        places, question = self.cnn(images).flatten(2), self.asked(tokens).unsqueeze(1)
        weights = (question @ places * 4).softmax(dim=2)
        seen = (weights @ places.transpose(1, 2) + question).squeeze(1)
        return {"logits": self.out(seen * 3)}
