"""Do maps change when what the network has learned is taken away, layer by layer?

The cascading randomisation of Adebayo et al., "Sanity Checks for Saliency Maps" (arXiv
1810.03292). The layers of the bundled classifier get random weights one after the other,
from the last to the first; each map of the class that the trained network predicted is
compared with the map from the trained network. A map that stays as it was does not show
what was learned.

python examples/randomization_check.py
python examples/randomization_check.py photo.jpg --seed 1 --out randomization.png
"""

import argparse
from collections.abc import Callable, Iterator
from importlib.resources import files

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from multicam import ClassLogit, explain, guided_backprop
from multicam.tasks import classification

STAGES = {"classifier": ["classifier"], "head": ["conv_head", "bn2"]}
STAGES |= {f"block {number}": [f"blocks.{number}"] for number in reversed(range(7))}
STAGES["stem"] = ["conv_stem", "bn1"]
SHOWN = ["trained", "classifier", "block 6", "block 4", "block 2", "stem"]

Method = Callable[[nn.Module, Tensor, ClassLogit], Tensor]


def grad_cam(network: nn.Module, images: Tensor, target: ClassLogit) -> Tensor:
    """Signed maps, (photo, 7, 7)."""
    return explain(network, images, target, layer="bn2").maps[:, 0]


def guided(network: nn.Module, images: Tensor, target: ClassLogit) -> Tensor:
    """Magnitudes over the colours, (photo, 224, 224)."""
    return guided_backprop(network, images, target).values[:, 0].abs().sum(dim=1)


METHODS: dict[str, Method] = {"Grad-CAM": grad_cam, "guided backpropagation": guided}


def randomized(network: nn.Module) -> Iterator[str]:
    """Randomise one stage more at each step, from the last to the first, and give its name.

    The new weights are normal with the mean and the deviation of the old ones, so that
    activations keep their scale.
    """
    yield "trained"
    for name, modules in STAGES.items():
        for module in modules:
            for weights in network.get_submodule(module).parameters():
                weights.data = torch.randn_like(weights) * weights.std() + weights.mean()
        yield name


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's, -1 to 1: do two maps put their places in the same order?"""
    ranks = [values.flatten().argsort().argsort().double() for values in (one, other)]
    return torch.corrcoef(torch.stack(ranks))[0, 1].item()


def compared(maps: dict[str, Tensor]) -> dict[str, list[float]]:
    """Stage to the rank correlation of each photo's map with that of the trained network."""
    return {
        stage: list(map(rank_correlation, found, maps["trained"])) for stage, found in maps.items()
    }


def pictured(photo: np.ndarray, maps: dict[str, dict[str, Tensor]]) -> Figure:
    """The first photo's maps: a row for each method, a column for each stage in `SHOWN`."""
    figure = Figure(figsize=(2 * len(SHOWN), 4.4), layout="constrained")
    rows = figure.subplots(len(METHODS), len(SHOWN))
    for panels, (method, found) in zip(rows, maps.items(), strict=True):
        panels[0].set_ylabel(method, fontsize=12)
        for panel, stage in zip(panels, SHOWN, strict=True):
            values = found[stage][0].relu().numpy()
            panel.set_xticks([])
            panel.set_yticks([])
            if method == "Grad-CAM":
                panel.set_title(stage, fontsize=13)
                panel.imshow(photo, extent=(0, 1, 0, 1))
                panel.imshow(
                    values, "jet", alpha=0.5, interpolation="bilinear", extent=(0, 1, 0, 1)
                )
            else:
                panel.imshow(values**0.5, "gray", vmax=np.quantile(values**0.5, 0.995))
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    bundled = [f"{files('multicam')}/photos/{name}.jpg" for name in ("cat", "coffee", "rocket")]
    parser.add_argument("photos", nargs="*", default=bundled)
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    parser.add_argument("--out", default="randomization.png")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    task = classification.load()
    images, _ = task.prepare(options.photos)
    target = ClassLogit(task.model(images).argmax(dim=1))
    maps: dict[str, dict[str, Tensor]] = {name: {} for name in METHODS}
    for stage in randomized(task.model):
        for name, method in METHODS.items():
            maps[name][stage] = method(task.model, images, target)

    correlations = {name: compared(found) for name, found in maps.items()}
    print("| random weights down to | " + " | ".join(METHODS) + " |\n|---|---|---|")
    for stage in STAGES:
        means = [torch.tensor(found[stage]).mean() for found in correlations.values()]
        print(f"| {stage} | " + " | ".join(f"{mean:.2f}" for mean in means) + " |")
    seen = ((images[0] * 128 + 127) / 255).clamp(0, 1).permute(1, 2, 0)
    pictured(seen.numpy(), maps).savefig(options.out, dpi=110)
    print(f"rank correlation with the trained network's maps, {len(images)} photos: {options.out}")
