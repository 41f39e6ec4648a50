"""Train the bundled captioner on Flickr8k.

    python examples/train_captioner.py --data PATH

PATH holds flickr8k/images (224 x 224) and flickr8k/captions.json with the official
splits. The encoder is frozen: its feature maps are computed once, of each photo and of
its mirror image, and kept in --cache (2 GB). Training goes on where it was interrupted.
About 35 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy

from multicam.tasks import backbone
from multicam.tasks.captioner import END, PAD, START, UNKNOWN, Captioner, Decoder

LONGEST = 22
"""Words of a caption that are read."""

SETTINGS = ("epochs", "batch", "rate", "least", "seed")
"""Options that the result depends on."""


def build_vocabulary(captions: list[str], least: int) -> Tokenizer:
    """Lower-case words that occur often enough, without punctuation."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex(r"[^a-z0-9' -]"), "")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = [PAD, START, END, UNKNOWN]
    trainer = trainers.WordLevelTrainer(min_frequency=least, special_tokens=special)
    tokenizer.train_from_iterator(captions, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, captions: list[str]) -> Tensor:
    """Token rows (caption, LONGEST + 2): start, words, end, padding."""
    rows = torch.zeros(len(captions), LONGEST + 2, dtype=torch.long)
    start, end = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
    for row, encoding in zip(rows, tokenizer.encode_batch(captions), strict=True):
        tokens = [start, *encoding.ids[:LONGEST], end]
        row[: len(tokens)] = torch.tensor(tokens)
    return rows


def feature_maps(images: Path, names: list[str], cache: Path, *, mirrored: bool) -> np.ndarray:
    """The encoder's output for photos, (photo, 1280, 7, 7) in half precision, from the cache."""
    if not cache.exists():
        network = backbone.pretrained()
        found = np.empty((len(names), 1280, 7, 7), np.float16)
        for first in track(range(0, len(names), 32), f"feature maps: {cache.stem}"):
            batch = np.stack([read(images / name) for name in names[first : first + 32]])
            pixels = (torch.from_numpy(batch).permute(0, 3, 1, 2).float() - 127) / 128
            with torch.inference_mode():
                maps = backbone.features(network, pixels.flip(3) if mirrored else pixels)
            found[first : first + 32] = maps.half().numpy()
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.save(cache.with_suffix(".part.npy"), found)
        cache.with_suffix(".part.npy").rename(cache)
    return np.load(cache)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def batches(lengths: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Captions of similar length together, in random order."""
    noisy = lengths + 1.5 * torch.rand(len(lengths), generator=generator)
    chunks = noisy.argsort().split(size)
    for index in torch.randperm(len(chunks), generator=generator):
        yield chunks[int(index)]


def loss_of(decoder: Decoder, maps: Tensor, tokens: Tensor, smoothing: float) -> Tensor:
    tokens = tokens[:, : int((tokens != 0).sum(dim=1).max())]
    asked = tokens[:, 1:] != 0
    states = decoder.states(maps, tokens[:, :-1])
    logits = decoder.logits(states[asked])
    return cross_entropy(logits, tokens[:, 1:][asked], label_smoothing=smoothing)


def train(options: argparse.Namespace) -> None:
    flickr = options.data / "flickr8k"
    about = json.loads((flickr / "captions.json").read_text())
    names, captions = about["splits"]["train"], about["captions"]
    texts = [caption for name in names for caption in captions[name]]
    tokenizer = build_vocabulary(texts, options.least)
    tokens = encode(tokenizer, texts)
    photo_of = torch.tensor([i for i, name in enumerate(names) for _ in captions[name]])
    views = [
        feature_maps(flickr / "images", names, options.cache / f"train-{view}.npy", mirrored=flip)
        for flip, view in enumerate(("plain", "mirrored"))
    ]
    torch.manual_seed(options.seed)
    model = Captioner(backbone.pretrained(), tokenizer.get_vocab_size())
    decoder = model.decoder.train()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-3, betas=(0.9, 0.99))
    steps = -(-len(tokens) // options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=options.rate, total_steps=steps * options.epochs, pct_start=0.15
    )
    checkpoint = Checkpoint(options)
    done = checkpoint.resume(decoder, optimizer, schedule)
    lengths = (tokens != 0).sum(dim=1).float()
    for epoch in range(done, options.epochs):
        torch.manual_seed(options.seed + 1 + epoch)
        generator = torch.Generator().manual_seed(options.seed + 1 + epoch)
        total = 0.0
        order = batches(lengths, options.batch, generator)
        for rows in track(order, f"epoch {epoch + 1} of {options.epochs}", total=steps):
            photos = photo_of[rows].numpy()
            mirrored = torch.rand(len(rows), 1, 1, 1, generator=generator).numpy() < 0.5
            maps = np.where(mirrored, views[1][photos], views[0][photos])
            loss = loss_of(decoder, torch.from_numpy(maps).float(), tokens[rows], 0.1)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: training loss {total / steps:.4f}", flush=True)
        checkpoint.save(epoch + 1, decoder, optimizer, schedule)
    save(options.out, decoder, tokenizer)
    print(f"Weights and vocabulary are in {options.out}")


class Checkpoint:
    """What a run has learned so far; another run with the same settings goes on from it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.settings = {name: getattr(options, name) for name in SETTINGS}
        name = "-".join(f"{name}={value:g}" for name, value in self.settings.items())
        self.path = options.cache / f"captioner-{name}.checkpoint.pt"

    def resume(self, *parts: Any) -> int:
        """Put the parts back to where they were; the number of epochs that are done."""
        if not self.path.exists():
            return 0
        kept = torch.load(self.path, weights_only=True)
        for part, state in zip(parts, kept["states"], strict=True):
            part.load_state_dict(state)
        print(f"Going on after epoch {kept['epochs']} of {self.path}")
        return int(kept["epochs"])

    def save(self, epochs: int, *parts: Any) -> None:
        partial = self.path.with_suffix(".part")
        torch.save({"epochs": epochs, "states": [part.state_dict() for part in parts]}, partial)
        partial.rename(self.path)


def save(folder: Path, decoder: Decoder, tokenizer: Tokenizer) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().contiguous() for name, value in decoder.state_dict().items()}
    save_file(weights, folder / "captioner.safetensors")
    tokenizer.save(str(folder / "captioner.vocabulary.json"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds flickr8k/")
    parser.add_argument("--out", type=Path, default=Path("tasks/weights"))
    parser.add_argument("--cache", type=Path, default=Path("captioner-cache"))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=160, help="captions in a step")
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--least", type=int, default=4, help="occurrences that make a word")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(options)


if __name__ == "__main__":
    main()
