"""Train the bundled captioner on Flickr8k.

    python examples/train_captioner.py --data PATH

PATH holds flickr8k/images (224 x 224) and flickr8k/captions.json with the official
splits. The encoder is frozen: its feature maps are computed once, of each photo and of
its mirror image, and kept in --cache (1.5 GB). Training has two parts: captions are
learned word by word; then those that score best are said more often. The weights are the
mean of what the parts end with (Wortsman et al., arXiv 2109.01903). It goes on where it was
interrupted, needs the extra `train`, and takes about 50 minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from rich.progress import track
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from training import Checkpoint, feature_maps

from multicam.tasks import backbone
from multicam.tasks.captioner import END, PAD, START, UNKNOWN, Captioner, Decoder

LONGEST = 22
"""Words of a caption that are read."""

SETTINGS = ("epochs", "batch", "rate", "least", "seed")
"""Options that the first part of the training depends on."""

SAMPLES = 5
"""Captions of each photo that are held against each other in the second part."""


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


def batches(lengths: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Captions of similar length together, in random order."""
    noisy = lengths + 1.5 * torch.rand(len(lengths), generator=generator)
    chunks = noisy.argsort().split(size)
    for index in torch.randperm(len(chunks), generator=generator):
        yield chunks[int(index)]


def loss_of(decoder: Decoder, maps: Tensor, tokens: Tensor, smoothing: float) -> Tensor:
    tokens = tokens[:, : int((tokens != 0).sum(dim=1).max())]
    asked = tokens[:, 1:] != 0
    states = decoder.states(decoder.places_of(maps), tokens[:, :-1])
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
    photos = [flickr / "images" / name for name in names]
    views = [
        feature_maps(photos, options.cache / f"train-{view}.npy", mirrored=view == "mirrored")
        for view in ("plain", "mirrored")
    ]
    torch.manual_seed(options.seed)
    model = Captioner(backbone.pretrained(), tokenizer.get_vocab_size())
    decoder = model.decoder.train()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-3, betas=(0.9, 0.99))
    steps = -(-len(tokens) // options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=options.rate, total_steps=steps * options.epochs, pct_start=0.15
    )
    checkpoint = Checkpoint(options, "captioner", SETTINGS)
    done = checkpoint.resume(decoder, optimizer, schedule)
    lengths = (tokens != 0).sum(dim=1).float()
    for epoch in range(done, options.epochs):
        torch.manual_seed(options.seed + 1 + epoch)
        generator = torch.Generator().manual_seed(options.seed + 1 + epoch)
        total = 0.0
        order = batches(lengths, options.batch, generator)
        for rows in track(order, f"epoch {epoch + 1} of {options.epochs}", total=steps):
            shown = photo_of[rows].numpy()
            mirrored = torch.rand(len(rows), 1, 1, 1, generator=generator).numpy() < 0.5
            maps = np.where(mirrored, views[1][shown], views[0][shown])
            loss = loss_of(decoder, torch.from_numpy(maps).float(), tokens[rows], 0.1)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: training loss {total / steps:.4f}", flush=True)
        checkpoint.save(epoch + 1, decoder, optimizer, schedule)
    before = [weight.detach().clone() for weight in decoder.parameters()]
    be_critical(options, decoder, tokenizer, views, [captions[name] for name in names])
    with torch.no_grad():
        for weight, earlier in zip(decoder.parameters(), before, strict=True):
            weight.lerp_(earlier, 0.5)
    save(options.out, decoder, tokenizer)
    print(f"Weights and vocabulary are in {options.out}")


def be_critical(
    options: argparse.Namespace,
    decoder: Decoder,
    tokenizer: Tokenizer,
    views: Sequence[np.ndarray],
    captions: Sequence[list[str]],
) -> None:
    """Have the captions that score best be said more often.

    Self-critical sequence training (Rennie et al., arXiv 1612.00563): several captions of
    a photo are sampled, and each is rewarded by how far its score lies above the mean of
    the others (Luo, arXiv 2003.09971).
    """
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=options.critical_rate)
    count = -(-len(captions) // options.critical_batch)
    steps = max(1, options.critical * count)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=steps)
    names = (*SETTINGS, "critical", "critical_rate", "critical_batch")
    checkpoint = Checkpoint(options, "captioner", names)
    done = checkpoint.resume(decoder, optimizer, schedule)
    decoder.eval()
    references = [words_of(tokenizer, own) for own in captions]
    for epoch in range(done, options.critical):
        torch.manual_seed(options.seed + 1001 + epoch)
        order = torch.randperm(len(captions)).split(options.critical_batch)
        total = 0.0
        for chosen in track(order, f"self-critical epoch {epoch + 1} of {options.critical}"):
            photos = chosen.numpy()
            mirrored = torch.rand(len(photos), 1, 1, 1).numpy() < 0.5
            maps = np.where(mirrored, views[1][photos], views[0][photos])
            own = [references[photo] for photo in photos]
            loss, score = critical_loss(decoder, tokenizer, torch.from_numpy(maps).float(), own)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += score
        print(f"self-critical epoch {epoch + 1}: mean score {total / count:.4f}", flush=True)
        checkpoint.save(epoch + 1, decoder, optimizer, schedule)


def critical_loss(
    decoder: Decoder, tokenizer: Tokenizer, maps: Tensor, references: Sequence[list[str]]
) -> tuple[Tensor, float]:
    places = decoder.places_of(maps).repeat_interleave(SAMPLES, dim=0)
    tokens = sample(decoder, places.detach(), tokenizer)
    said = [tokenizer.decode(row) for row in tokens.tolist()]
    scores = score_of(said, [own for own in references for _ in range(SAMPLES)])
    grouped = scores.reshape(-1, SAMPLES)
    others = (grouped.sum(dim=1, keepdim=True) - grouped) / (SAMPLES - 1)
    advantage = (grouped - others).reshape(-1, 1)
    asked = tokens[:, 1:] != 0
    logits = decoder.logits(decoder.states(places, tokens[:, :-1])[asked])
    surprise = cross_entropy(logits, tokens[:, 1:][asked], reduction="none")
    loss = (advantage.expand_as(asked)[asked] * surprise).mean()
    return loss, scores.mean().item()


@torch.no_grad()
def sample(decoder: Decoder, places: Tensor, tokenizer: Tokenizer) -> Tensor:
    """Token rows drawn word by word: start, words, end, padding."""
    end = tokenizer.token_to_id(END)
    never = [tokenizer.token_to_id(name) for name in (PAD, START, UNKNOWN)]
    tokens = torch.full((len(places), 1), tokenizer.token_to_id(START))
    state, over = decoder.begin(places), torch.zeros(len(places), dtype=torch.bool)
    while not over.all() and tokens.shape[1] < LONGEST + 2:
        hidden, state = decoder.lstm(decoder.embedding(tokens[:, -1:]), state)
        logits = decoder.logits(decoder.attend(places, hidden)[:, 0])
        logits[:, never] = -torch.inf
        word = logits.softmax(dim=1).multinomial(1).masked_fill(over.unsqueeze(1), 0)
        tokens = torch.cat([tokens, word], dim=1)
        over |= word.squeeze(1) == end
    return tokens


def score_of(said: Sequence[str], references: Sequence[list[str]]) -> Tensor:
    """CIDEr and BLEU-4 of each caption, added up; rare words are those of the batch."""
    results = {number: [caption] for number, caption in enumerate(said)}
    wanted = dict(enumerate(references))
    _, cider = Cider().compute_score(wanted, results)
    _, bleu = Bleu(4).compute_score(wanted, results, verbose=0)
    return torch.tensor(cider, dtype=torch.float) + torch.tensor(bleu[3])


def words_of(tokenizer: Tokenizer, captions: Sequence[str]) -> list[str]:
    """Captions as the scores read them: lower case, without punctuation, rare words kept."""
    assert tokenizer.normalizer is not None
    return [" ".join(tokenizer.normalizer.normalize_str(text).split()) for text in captions]


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
    parser.add_argument("--critical", type=int, default=1, help="self-critical epochs")
    parser.add_argument("--critical-batch", type=int, default=50, help="photos in such a step")
    parser.add_argument("--critical-rate", type=float, default=1e-4, help="highest rate there")
    parser.add_argument("--least", type=int, default=4, help="occurrences that make a word")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(options)


if __name__ == "__main__":
    main()
