"""Fine-tune the bundled network on folders of photos, and show what it goes by.

    python examples/finetune_and_explain.py --data PATH --classes Airport DenseResidential --turned
    python examples/finetune_and_explain.py --data PATH --classes buildings street

PATH holds `train` and `test` with a folder of photos for each class, as AID and Intel's
scenes are often kept; or only the folders of the classes, as UC Merced's `Images` does, of
which a fifth is then drawn for the test.

The accuracy on the test part is printed, and three pictures are made: two classes in one
photo with their Guided Grad-CAM, one photo of every class with its map, and the most
confident mistakes with what spoke for the wrong class and what for the right one. A run
goes on where it was interrupted; one that has ended only makes other pictures. Two thousand
photos take about ten minutes on two quiet cores. On Linux, glibc gives memory back
to the system after every step, which costs about as much time again; this keeps it:

    export MALLOC_MMAP_THRESHOLD_=4294967295 MALLOC_TRIM_THRESHOLD_=17179869184 \\
      MALLOC_TOP_PAD_=268435456
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import scene_figures as figures
import torch
from finetune import Stopwatch, finetune, report
from rich.progress import track
from safetensors.torch import save_file
from scenes import Part, read
from torch import Tensor, nn

from multicam import images
from multicam.errors import InputError, MulticamError
from multicam.tasks import backbone
from multicam.tasks.classification import Classification

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST_SIZE = 64
"""Pixels of an input of which something is left in the last feature map."""

EXPLAINED = 4
"""Mistakes that are shown in a picture."""


def run(options: argparse.Namespace) -> None:
    stopwatch = Stopwatch()
    if options.size < LEAST_SIZE:
        raise InputError(f"--size {options.size} is too small for a map; {LEAST_SIZE} is the least")
    scenes = read(options.data, options.seed)
    pair = [scenes.index(name) for name in options.classes or ()]
    photo = images.load(options.photo) if options.photo else None
    network = finetune(options, scenes, stopwatch)
    save(options.out / "network.safetensors", network, scenes.classes)
    shares = report("fine-tuned", network, scenes)
    minutes = {name: seconds / 60 for name, seconds in stopwatch.state_dict().items()}
    print("took {wall:.1f} minutes; {processor:.1f} minutes of one core".format(**minutes))
    task = Classification(network, backbone.squeeze, scenes.classes, layer=backbone.LAYER)
    explain_test(options.out, task, scenes.test, shares)
    if photo or pair:
        closer = replace(task, transform=partial(backbone.squeeze, size=options.size))
        pair = pair or task.probabilities(photo)[0].topk(2).indices.tolist()
        shown = photo or most_mixed(closer, scenes.test, pair)
        keep(figures.two_classes(closer, shown, pair), options.out / "two_classes.png")


def explain_test(out: Path, task: Classification, test: Part, shares: Tensor) -> None:
    """A picture of every class, and of mistakes; `shares` are the photos' probabilities."""
    typical = [test.photos[most_typical(shares, test, one)] for one in range(len(task.names))]
    keep(figures.every_class(task, typical), out / "every_class.png")
    wrong = mistakes(shares, test)
    for (right, said), count in Counter((right, said) for _, right, said in wrong).most_common(5):
        print(f"{count} x {task.names[right]} taken for {task.names[said]}")
    if wrong:
        keep(figures.confusions(task, wrong[:EXPLAINED]), out / "confusions.png")


def most_mixed(task: Classification, test: Part, pair: Sequence[int]) -> Path:
    """The photo of one of two classes in which each class has a place of its own.

    That is where the map of each goes far beyond that of the other somewhere.
    """
    own = [number for number, answer in enumerate(test.answers) if answer in pair]
    photos = [test.photos[number] for number in own]

    def apart(photo: Path) -> float:
        one, other = task.explain(photo, list(pair)).heatmaps()[0]
        return min(float((one - other).max()), float((other - one).max()))

    return max(track(photos, "photo of both classes"), key=apart)


def most_typical(shares: Tensor, test: Part, index: int) -> int:
    """The photo of a class whose probability is in the middle of those of its class."""
    own = [number for number, answer in enumerate(test.answers) if answer == index]
    return sorted(own, key=lambda number: float(shares[number, index]))[len(own) // 2]


def mistakes(shares: Tensor, test: Part) -> list[tuple[Path, int, int]]:
    """Photos with the right class and the one that was said, the most confident first."""
    highest, said = shares.max(dim=1)
    order = highest.argsort(descending=True).tolist()
    answers = [(test.photos[number], test.answers[number], int(said[number])) for number in order]
    return [answer for answer in answers if answer[1] != answer[2]]


def keep(figure: Figure, path: Path) -> None:
    figure.savefig(path)
    print(path)


def save(path: Path, network: nn.Module, classes: Sequence[str]) -> None:
    """Write the weights, with the names of the classes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(weights, path, metadata={"classes": json.dumps(classes)})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the classes")
    parser.add_argument("--classes", nargs=2, help="two that are to be seen in one photo")
    parser.add_argument("--photo", type=Path, help="that one; else a test photo is chosen")
    parser.add_argument(
        "--size", type=int, default=backbone.SIZE, help="of that photo; more shows smaller things"
    )
    parser.add_argument("--out", type=Path, help="folder; else multicam-out/ and the data's name")
    parser.add_argument("--cache", type=Path, help="folder of what is computed once; else in --out")
    parser.add_argument("--turned", action="store_true", help="photos from above: no side is up")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--views", type=int, default=8, help="of each photo; the first is itself")
    parser.add_argument("--rate", type=float, default=5e-4, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    options.out = options.out or Path("multicam-out") / options.data.resolve().name
    options.cache = options.cache or options.out / "cache"
    torch.set_num_threads(options.threads)
    try:
        run(options)
    except MulticamError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
