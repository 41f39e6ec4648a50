"""Small CNN-LSTM captioners, written as users write theirs."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from multicam.tasks.vocabulary import Vocabulary

WORDS = ["<start>", "<end>", "<unk>", "a", "brown", "dog", "runs", "on", "grass", "man", "woman"]

vocabulary = Vocabulary.of_words(WORDS)


def transform(image: Image.Image) -> Tensor:
    pixels: Tensor = pil_to_tensor(image.resize((32, 24)))
    return pixels.float() / 255 - 0.5


def cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 12, 3, stride=2, padding=1),
        nn.Tanh(),
    )


class Pooled(nn.Module):
    """Show and Tell (Vinyals et al. 2015): the pooled features are the first input."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = cnn()
        self.project = nn.Linear(12, 10)
        self.embedding = nn.Embedding(len(WORDS), 10)
        self.lstm = nn.LSTM(10, 10, batch_first=True)
        self.out = nn.Linear(10, len(WORDS))

    def encode(self, images: Tensor) -> Tensor:
        projected: Tensor = self.project(self.cnn(images).mean(dim=(2, 3)))
        return projected

    def decode(self, features: Tensor, tokens: Tensor) -> Tensor:
        inputs = torch.cat([features.unsqueeze(1), self.embedding(tokens)], dim=1)
        states, _ = self.lstm(inputs)
        logits: Tensor = self.out(states[:, 1:])
        return logits


class Attentive(nn.Module):
    """Show, Attend and Tell (Xu et al. 2015): a step of an LSTM cell at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = cnn()
        self.embedding = nn.Embedding(len(WORDS), 10)
        self.begin = nn.Linear(12, 14)
        self.of_place = nn.Linear(12, 9)
        self.of_state = nn.Linear(14, 9)
        self.attention = nn.Linear(9, 1)
        self.cell = nn.LSTMCell(10 + 12, 14)
        self.out = nn.Linear(14, len(WORDS))

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        places = self.cnn(images).flatten(2).transpose(1, 2)
        return {"places": places, "mean": places.mean(dim=1)}

    def decode(self, features: dict[str, Tensor], tokens: Tensor) -> Tensor:
        places, hidden = features["places"], self.begin(features["mean"]).tanh()
        memory = torch.zeros_like(hidden)
        logits = []
        for embedded in self.embedding(tokens).unbind(dim=1):
            energy = (self.of_place(places) + self.of_state(hidden).unsqueeze(1)).tanh()
            weights = self.attention(energy).softmax(dim=1)
            context = (weights * places).sum(dim=1)
            hidden, memory = self.cell(torch.cat([embedded, context], dim=1), (hidden, memory))
            logits.append(self.out(hidden))
        return torch.stack(logits, dim=1)
