"""The bundled captioner: EfficientNet-Lite0, and an LSTM that attends to its feature map."""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multicam.tasks import backbone
from multicam.tasks.vocabulary import Vocabulary

LAYER = "decoder.places"
"""The feature map V that the decoder attends to, 512 channels of 7 x 7."""

METHOD = "hirescam"
"""Attention gives each place a gradient of its own, which Grad-CAM's mean over places loses."""

PAD, START, END, UNKNOWN = "<pad>", "<start>", "<end>", "<unk>"
"""The words of a vocabulary that are no words, in the order of their tokens 0 to 3."""


@final
class Captioner(nn.Module):
    """From a photo and the words so far to the next word.

    The LSTM starts from the mean of the feature map, reads the words, and looks at the
    map with its current state h_t (Lu et al., "Knowing When to Look", arXiv 1612.01887,
    equations 6 to 8, with a scaled dot product as the attention):

        V   = ReLU(W_v A)                    one vector for each place
        c_t = sum of softmax(V W_q h_t) V    what it sees
        p_t = softmax(E tanh(W [h_t, c_t]))  E: the embedding of the words, transposed

    Args:
        encoder: the EfficientNet-Lite0 of `backbone.pretrained`; it is not trained.
        words: size of the vocabulary.
        hidden: size of the LSTM and of the embeddings.
        dropout: on embeddings, places and states, while training.
    """

    def __init__(
        self, encoder: nn.Module, words: int, hidden: int = 512, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.decoder = Decoder(words, hidden, dropout)

    def encode(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch place hidden"]:
        """V, a vector for each place."""
        return self.decoder.places_of(backbone.features(self.encoder, images))

    def decode(
        self,
        places: Float[Tensor, "batch place hidden"],
        tokens: Int[Tensor, "batch steps"],
    ) -> Float[Tensor, "batch steps words"]:
        """Logits of the word after each of the given ones, of which the first is `START`."""
        decoder = self.decoder
        logits: Tensor = decoder.logits(decoder.states(places, tokens))
        return logits

    def forward(
        self, images: Float[Tensor, "batch 3 height width"], tokens: Int[Tensor, "batch steps"]
    ) -> Float[Tensor, "batch steps words"]:
        """Encode, then decode."""
        return self.decode(self.encode(images), tokens)


@final
class Decoder(nn.Module):
    """The part of a `Captioner` that is trained."""

    def __init__(self, words: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, hidden, padding_idx=0)
        self.places = backbone.Places(hidden)
        self.start = nn.Linear(hidden, 2 * hidden)
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True)
        self.query = nn.Linear(hidden, hidden)
        self.mix = nn.Linear(2 * hidden, hidden)
        self.bias = nn.Parameter(torch.zeros(words))
        self.dropout = nn.Dropout(dropout)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def places_of(self, features: Tensor) -> Float[Tensor, "batch place hidden"]:
        """A vector for each place of a feature map: V = ReLU(W_v A)."""
        seen: Tensor = self.dropout(self.places(features).flatten(2).transpose(1, 2))
        return seen

    def begin(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """The LSTM's state before the first token, from the mean of the places."""
        hidden, memory = self.start(places.mean(dim=1)).tanh().unsqueeze(0).chunk(2, dim=2)
        return hidden.contiguous(), memory.contiguous()

    def states(self, places: Tensor, tokens: Tensor) -> Float[Tensor, "batch steps hidden"]:
        """What is known after each token."""
        hidden, _ = self.lstm(self.dropout(self.embedding(tokens)), self.begin(places))
        return self.attend(places, hidden)

    def attend(self, places: Tensor, hidden: Tensor) -> Float[Tensor, "batch steps hidden"]:
        """Look at the places with each state of the LSTM: tanh(W [h_t, c_t])."""
        attention = self.query(hidden) @ places.transpose(1, 2) / places.shape[2] ** 0.5
        seen = attention.softmax(dim=2) @ places
        mixed: Tensor = self.dropout(self.mix(torch.cat([hidden, seen], dim=2)).tanh())
        return mixed

    def logits(self, states: Float[Tensor, "*places hidden"]) -> Float[Tensor, "*places words"]:
        """The words, by the similarity of a state with their embeddings."""
        return states @ self.embedding.weight.T + self.bias


def pretrained() -> tuple[Captioner, Vocabulary]:
    """The captioner with its shipped weights, in eval mode, and its vocabulary.

    Raises:
        MissingExtraError: timm or the encoder's weights are not installed.
    """
    from safetensors.torch import load

    folder = files("multicam.tasks") / "weights"
    with as_file(folder / "captioner.vocabulary.json") as path:
        vocabulary = Vocabulary.from_file(path)
    model = Captioner(backbone.pretrained(), len(vocabulary))
    weights = load((folder / "captioner.safetensors").read_bytes())
    model.decoder.load_state_dict({name: value.float() for name, value in weights.items()})
    return model.eval(), vocabulary
