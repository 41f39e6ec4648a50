"""Fine-tuning the bundled network on a data set of scenes, quickly, on a processor.

The early stages stay as they are: their output for each view of each photo is computed
once and kept on disk. A linear probe on the frozen network gives the new classifier its
first weights; then the last stages learn together with it (Kumar et al., "Fine-Tuning can
Distort Pretrained Features and Underperform Out-of-Distribution", arXiv 2202.10054).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from scenes import Part, Scenes, View
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout
from training import Checkpoint

from multicam.tasks import backbone

STAGE = 5
"""The first of the network's seven stages that learns."""

BATCH = 32
"""Photos that go through the network at once, in training too."""

DECAY = 1e-2
"""Of the probe's weights: half the sum of their squares counts this much."""

SETTINGS = ("epochs", "views", "rate", "seed")
"""Options that the result depends on."""


class Stopwatch:
    """Minutes that a run took, those before an interruption among them."""

    def __init__(self) -> None:
        self.before = {"wall": 0.0, "processor": 0.0}
        self.start = {"wall": time.perf_counter(), "processor": time.process_time()}

    def state_dict(self) -> dict[str, float]:
        """Seconds by the clock on the wall, and those in which a core computed."""
        now = {"wall": time.perf_counter(), "processor": time.process_time()}
        return {name: self.before[name] + now[name] - self.start[name] for name in now}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.before = state


def finetune(options: argparse.Namespace, scenes: Scenes, stopwatch: Stopwatch) -> nn.Module:
    """The bundled network, trained on the classes of the scenes, in eval mode."""
    torch.manual_seed(options.seed)
    network = backbone.pretrained().to(memory_format=torch.channels_last)
    views = [View(number, options.turned, options.seed) for number in range(options.views)]
    folder = options.cache / f"{scenes.fingerprint}-{'turned' if options.turned else 'upright'}"
    maps = [early_maps(network, scenes.train, view, folder) for view in views]
    late, classifier = late_stages(network), nn.Linear(1280, len(scenes.classes))
    network.classifier = classifier
    answers = torch.tensor(scenes.train.answers)
    optimizer = torch.optim.AdamW([*late.parameters(), *classifier.parameters()], lr=1e-3)
    steps = -(-len(answers) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=options.rate, total_steps=steps * options.epochs, pct_start=0.2
    )
    checkpoint = Checkpoint(options, folder.name, SETTINGS)
    parts = (late, classifier, optimizer, schedule, stopwatch)
    done = checkpoint.resume(*parts)
    if not checkpoint.path.exists():
        probe(late, classifier, maps[:2], answers)
        report("linear probe", network, scenes)
        checkpoint.save(0, *parts)
    for epoch in range(done, options.epochs):
        torch.manual_seed(options.seed + 1 + epoch)
        total = 0.0
        order = torch.randperm(len(answers)).split(BATCH)
        for rows in track(order, f"epoch {epoch + 1} of {options.epochs}"):
            seen = torch.randint(len(maps), (len(rows),))
            pairs = zip(seen.tolist(), rows.tolist(), strict=True)
            batch = np.stack([maps[view][row] for view, row in pairs])
            features = pooled(late, torch.from_numpy(batch).float())
            logits = classifier(dropout(features, 0.2))
            loss = cross_entropy(logits, answers[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: training loss {total / steps:.4f}", flush=True)
        checkpoint.save(epoch + 1, *parts)
    return network


def early_stages(network: nn.Module) -> nn.Sequential:
    """What stays as it is."""
    return nn.Sequential(network.conv_stem, network.bn1, *network.blocks[:STAGE])


def late_stages(network: nn.Module) -> nn.Sequential:
    """What learns, in eval mode: batch norms keep their running statistics."""
    return nn.Sequential(*network.blocks[STAGE:], network.conv_head, network.bn2)


def pooled(late: nn.Module, maps: Tensor) -> Tensor:
    """What the classifier reads, (batch, 1280)."""
    return late(maps.to(memory_format=torch.channels_last)).mean((2, 3))


def early_maps(network: nn.Module, part: Part, view: View, folder: Path) -> np.ndarray:
    """The early stages' output for one view of each photo, in half precision, from the folder."""
    path = folder / f"view-{view.number}-seed-{view.seed}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        early, found = early_stages(network), []
        for first in track(range(0, len(part.photos), BATCH), f"view {view.number + 1}"):
            chosen = part.photos[first : first + BATCH]
            inputs = torch.stack([view.of(photo, first + i) for i, photo in enumerate(chosen)])
            with torch.no_grad():
                found.append(early(inputs.to(memory_format=torch.channels_last)).half())
        partial = path.with_suffix(".part.npy")
        np.save(partial, torch.cat(found).numpy())
        partial.rename(path)
    return np.load(path, mmap_mode="c")


def probe(
    late: nn.Module, classifier: nn.Linear, maps: Sequence[np.ndarray], answers: Tensor
) -> None:
    """Fit the classifier alone, by logistic regression on what the frozen network says."""
    rows = [
        torch.from_numpy(some[i : i + BATCH]) for some in maps for i in range(0, len(some), BATCH)
    ]
    with torch.no_grad():
        features = torch.cat([pooled(late, row.float()) for row in track(rows, "linear probe")])
    wanted = answers.repeat(len(maps))
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    optimizer = torch.optim.LBFGS(
        classifier.parameters(), max_iter=200, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = cross_entropy(classifier(features), wanted, label_smoothing=0.1)
        found = found + DECAY / 2 * classifier.weight.square().sum()
        found.backward()
        return found

    optimizer.step(loss)


def predict(network: nn.Module, photos: Sequence[Path]) -> Tensor:
    """The probability of each class, (photo, class), for whole photos."""
    view, found = View(0, turned=False, seed=0), []
    for first in track(range(0, len(photos), BATCH), "test"):
        chosen = photos[first : first + BATCH]
        inputs = torch.stack([view.of(photo, 0) for photo in chosen])
        with torch.no_grad():
            found.append(network(inputs.to(memory_format=torch.channels_last)).softmax(dim=1))
    return torch.cat(found)


def report(what: str, network: nn.Module, scenes: Scenes) -> Tensor:
    """Print the accuracy on the test part; the probabilities, (photo, class)."""
    probabilities = predict(network, scenes.test.photos)
    right = int((probabilities.argmax(dim=1) == torch.tensor(scenes.test.answers)).sum())
    count = len(scenes.test.answers)
    low, high = wilson(right, count)
    print(
        f"{what}: accuracy on {count} test photos {100 * right / count:.1f} % "
        f"(95 % interval {100 * low:.1f} % to {100 * high:.1f} %)",
        flush=True,
    )
    return probabilities


def wilson(right: int, count: int, deviations: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a proportion, 95 % by default.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
    """
    share, spread = right / count, deviations**2 / count
    middle = share + spread / 2
    half = (spread * (share * (1 - share) + spread / 4)) ** 0.5
    return (middle - half) / (1 + spread), (middle + half) / (1 + spread)
