"""What Grad-CAM costs beside a forward pass: multicam and its peers, side by side in one run.

    pip install -e '.[bench]'
    python benchmarks/gradcam.py               # two tables on the screen
    python benchmarks/gradcam.py --markdown    # the same, for docs/performance.md

ResNet-50 with random weights, images of 224 x 224, layer4, CPU. Every library has a
process of its own, so that none profits from memory that another has grown. In each
round every one is called once, in random order, while the others wait; a ratio compares
a call with the forward pass of its own round.
Each library takes the fastest way that it offers to K targets: torchcam one forward pass
and K backward passes over a kept graph, captum and grad-cam K calls. Memory is measured
in a fresh process for each library (Linux).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from statistics import median

import torch
from memory import growth, in_a_fresh_process, mebibytes, saved_for_backward
from sidebyside import Run, Seconds, take_times, times_of
from tables import show
from torch import Tensor, nn
from torchvision.models import resnet50

from multicam import ClassLogit, __version__, explain


def forward(model: nn.Module, images: Tensor, classes: Sequence[int]) -> Run:
    def run() -> Tensor:
        with torch.inference_mode():
            return model(images)

    return run


def multicam(model: nn.Module, images: Tensor, classes: Sequence[int]) -> Run:
    targets = [ClassLogit(index) for index in classes]
    return lambda: explain(model, images, targets, layer="layer4").heatmaps()


def torchcam(model: nn.Module, images: Tensor, classes: Sequence[int]) -> Run:
    from torchcam.methods import GradCAM

    def run() -> Tensor:
        with GradCAM(model, "layer4") as cam:
            scores = model(images)
            maps = [cam(c, scores, normalized=False, retain_graph=True)[0] for c in classes]
        return torch.stack(maps, dim=1)

    return run


def captum(model: nn.Module, images: Tensor, classes: Sequence[int]) -> Run:
    from captum.attr import LayerGradCam

    def run() -> Tensor:
        cam = LayerGradCam(model, model.layer4)
        # Its maps hold their graph; without detach K of them would be kept.
        maps = [cam.attribute(images, c, relu_attributions=True).detach() for c in classes]
        return torch.cat(maps, dim=1)

    return run


def grad_cam(model: nn.Module, images: Tensor, classes: Sequence[int]) -> Run:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def run() -> Tensor:
        with GradCAM(model=model, target_layers=[model.layer4]) as cam:
            maps = [cam(images, [ClassifierOutputTarget(c)] * len(images)) for c in classes]
        return torch.stack([torch.from_numpy(batch) for batch in maps], dim=1)

    return run


ADAPTERS = {
    "forward": forward,
    "multicam": multicam,
    "torchcam": torchcam,
    "captum": captum,
    "grad-cam": grad_cam,
}


def network(batch: int) -> tuple[nn.Module, Tensor]:
    """ResNet-50 with random weights, and images for it."""
    torch.manual_seed(0)
    return resnet50().eval(), torch.randn(batch, 3, 224, 224)


def prepare(name: str, batch: int, targets: int) -> tuple[nn.Module, Run]:
    model, images = network(batch)
    return model, ADAPTERS[name](model, images, [60 * index for index in range(targets)])


def make(name: str, batch: int, targets: int) -> Run:
    _, run = prepare(name, batch, targets)
    return run


def time_case(batch: int, targets: int, rounds: int, threads: int) -> Seconds:
    return take_times(
        {name: partial(make, name, batch, targets) for name in ADAPTERS}, rounds, threads
    )


def time_cells(taken: Seconds) -> list[str]:
    base = taken["forward"]
    cells = [f"{median(base):.3f} s"]
    for name in list(ADAPTERS)[1:]:
        ratio = times_of(taken[name], base)
        few = f", {len(taken[name])} calls" if len(taken[name]) < len(base) else ""
        cells.append(f"{ratio:.2f} ({median(taken[name]):.3f} s{few})")
    return cells


def measure(name: str, batch: int, targets: int, threads: int) -> tuple[int, int]:
    """Growth of the resident memory, and most bytes saved for backward, of one call each."""
    torch.set_num_threads(threads)
    model, run = prepare(name, batch, targets)
    return growth(run), saved_for_backward(model, run)


def columns() -> list[str]:
    peers = [f"{name} {version(name)}" for name in list(ADAPTERS)[2:]]
    return ["", "batch", "targets", "forward", f"multicam {__version__}", *peers]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="calls of each fast library")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 1])
    parser.add_argument("--targets", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    cases = [(batch, targets) for batch in options.batches for targets in options.targets]
    timing, memory = [], []
    for batch, targets in cases:
        case = [str(batch), str(targets)]
        timing.append(
            ["time", *case, *time_cells(time_case(batch, targets, options.rounds, options.threads))]
        )
        measured = [
            in_a_fresh_process(measure, name, batch, targets, options.threads) for name in ADAPTERS
        ]
        for what, values in zip(("peak", "saved"), zip(*measured, strict=True), strict=True):
            memory.append([what, *case, *map(mebibytes, values)])
    setting = f"ResNet-50, layer4, torch {torch.__version__}, {options.threads} CPU threads"
    show(
        f"Time of a call as a multiple of the inference-mode forward pass; median of "
        f"{options.rounds} rounds ({setting})",
        columns(),
        timing,
        markdown=options.markdown,
    )
    show(
        "Memory: growth of the resident peak, and activations saved for backward",
        columns(),
        memory,
        markdown=options.markdown,
    )


if __name__ == "__main__":
    main()
