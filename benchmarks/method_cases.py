"""The methods that peers have too: how each library is called, on two networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import captioning_speed
import gradcam
import torch
from captioning_speed import Told, log_prob
from sidebyside import Run
from torch import Tensor, nn

from multicam import METHODS, ClassLogit, explain
from multicam.smoothgradcam import SmoothGradCAMPlusPlus

PEERS = {
    "torchcam": {
        "gradcam": "GradCAM",
        "gradcam++": "GradCAMpp",
        "xgradcam": "XGradCAM",
        "layercam": "LayerCAM",
        "cam": "CAM",
        "finercam": "FinerCAM",
        "smoothgradcam++": "SmoothGradCAMpp",
        "scorecam": "ScoreCAM",
        "sscam": "SSCAM",
        "iscam": "ISCAM",
    },
    "grad-cam": {
        "gradcam": "GradCAM",
        "gradcam++": "GradCAMPlusPlus",
        "xgradcam": "XGradCAM",
        "hirescam": "HiResCAM",
        "elementwise": "GradCAMElementWise",
        "layercam": "LayerCAM",
        "eigencam": "EigenCAM",
        "eigengradcam": "EigenGradCAM",
        "shapleycam": "ShapleyCAM",
        "finercam": "FinerCAM",
        "ablationcam": "AblationCAM",
        "scorecam": "ScoreCAM",
    },
}
"""The methods of each peer, and what it calls them."""

OTHER_MAPS = {
    "torchcam": {"gradcam++", "smoothgradcam++", "scorecam", "sscam", "iscam"},
    "grad-cam": {"gradcam++", "finercam", "eigencam", "eigengradcam", "scorecam"},
}
"""Those of which a peer makes other maps."""

SHARED = [name for name in METHODS if any(name in peer for peer in PEERS.values())]
MANY_PASSES = {"ablationcam", "scorecam", "sscam", "iscam"}
RERUNNING = {"smoothgradcam++", *MANY_PASSES}
COPIES = SmoothGradCAMPlusPlus().samples
CAPTIONER = "the bundled captioner"


@dataclass(frozen=True)
class OnResNet:
    """A method at a layer of ResNet-50 for a batch, and the class that is explained."""

    method: str
    layer: str
    batch: int
    index: int

    @property
    def cells(self) -> list[str]:
        return [self.method, self.layer, str(self.batch)]

    def possible(self, peer: str) -> bool:
        return self.method in PEERS[peer]

    def make(self, library: str) -> Run:
        model, images = gradcam.network(self.batch)
        if library == "forward":
            return gradcam.forward(model, images, [self.index])
        adapters = {"multicam": multicam, "torchcam": torchcam, "grad-cam": grad_cam}
        return adapters[library](self, model, images)


def multicam(case: OnResNet, model: nn.Module, images: Tensor) -> Run:
    target = ClassLogit(case.index)
    return lambda: explain(model, images, target, layer=case.layer, method=case.method).heatmaps()


def torchcam(case: OnResNet, model: nn.Module, images: Tensor) -> Run:
    from torchcam import methods

    extractor = getattr(methods, PEERS["torchcam"][case.method])
    options = {"cam": {"fc_layer": "fc"}, "smoothgradcam++": {"num_samples": COPIES}}
    needs_graph = case.method not in RERUNNING | {"cam"}

    def run() -> Tensor:
        with extractor(model, case.layer, **options.get(case.method, {})) as cam:
            with torch.set_grad_enabled(needs_graph):
                scores = model(images)
            return cam(case.index, scores, normalized=False)[0].relu().unsqueeze(1)

    return run


def grad_cam(case: OnResNet, model: nn.Module, images: Tensor) -> Run:
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    extractor = getattr(pytorch_grad_cam, PEERS["grad-cam"][case.method])
    layer = model.get_submodule(case.layer)
    targets = [ClassifierOutputTarget(case.index)] * len(images)
    given = {"target_idx": case.index} if case.method == "finercam" else {"targets": targets}

    def run() -> Tensor:
        with extractor(model=model, target_layers=[layer]) as cam:
            return torch.from_numpy(cam(images, **given)).unsqueeze(1)

    return run


@dataclass(frozen=True)
class OnCaptioner:
    """A method for all words of a caption."""

    method: str

    @property
    def cells(self) -> list[str]:
        return [self.method, "captioner", f"1, {len(captioning_speed.STEPS)} words"]

    def possible(self, peer: str) -> bool:
        """Whether it can: grad-cam has Finer-CAM for classes alone."""
        return self.method in PEERS[peer] and (peer, self.method) != ("grad-cam", "finercam")

    def make(self, library: str) -> Run:
        case = captioning_speed.prepared(CAPTIONER)
        if library == "forward":
            return captioning_speed.forward(case)
        if library == "multicam":
            return captioning_speed.multicam(case, self.method)
        name = PEERS[library][self.method]
        if library == "grad-cam":
            return captioning_speed.grad_cam(case, name)
        if self.method in RERUNNING:
            return rerunning_torchcam(case, name)
        return captioning_speed.torchcam(case, name)


def rerunning_torchcam(case: captioning_speed.Case, method: str) -> Run:
    """For its methods that run the model again, and so need it with one input."""
    from torchcam import methods

    model, layer = Told(case), f"captioner.{case.task.layer}"
    options = {"num_samples": COPIES} if method == "SmoothGradCAMpp" else {}

    def run() -> Tensor:
        with getattr(methods, method)(model, layer, **options) as cam:
            with torch.no_grad():
                model(case.image)
            targets = [log_prob(*pair) for pair in enumerate(case.said)]
            maps = [cam(targets=target, normalized=False)[0] for target in targets]
        return torch.stack(maps, dim=1)

    return run


Case: TypeAlias = OnResNet | OnCaptioner


def highest_class(batch: int) -> int:
    """One with a positive score, since grad-cam's Ablation-CAM divides by it."""
    with torch.inference_mode():
        model, images = gradcam.network(batch)
        return int(model(images).mean(dim=0).argmax())
