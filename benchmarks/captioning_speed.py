"""What maps for all words of a caption cost: multicam and its peers, side by side in one run.

    pip install -e '.[bench]'
    python benchmarks/captioning_speed.py               # two tables on the screen
    python benchmarks/captioning_speed.py --markdown    # the same, for docs/performance.md

One photo, of 224 x 224 for ResNet-50 and 448 x 448 for the bundled captioner, a given caption of
16 words, a Grad-CAM map of the log-probability of each, CPU. Two captioners: ResNet-50 with an
LSTM of 512 units and 5,000 words, random weights (Show and Tell, Vinyals et al. 2015: the pooled
and projected feature map is the initial state), at layer4; and the bundled one at decoder.places.
The rows:

    forward         encoder and decoder once, in inference mode, no map
    multicam        `explain(..., vectorize=True)`, what `Captioning.explain` runs once the
                    photo is a tensor
    from the photo  `Captioning.explain` from the PIL image on: also prepares the photo,
                    reads the caption, and makes a map of the caption as a whole
    full passes     for each word a forward pass of everything with its graph, and
                    `backward()` to all parameters
    torchcam        one forward pass, a backward pass for each word over the kept graph
    captum          a call of LayerGradCam for each word
    grad-cam        a call with a target for each word

All parameters require gradients, as those of a model do that was just loaded: without
them the peers find no gradient at a layer. How times are taken is in sidebyside.py; all
libraries must give the same maps.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from statistics import median

import torch
from PIL import Image
from sidebyside import Run, Seconds, take_times, times_of
from tables import show
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, resnet50

from multicam import __version__, explain
from multicam.sequences import PhraseLogProb
from multicam.tasks import captioning
from multicam.tasks.captioning import Captioning
from multicam.tasks.teacher import Teacher
from multicam.tasks.vocabulary import Vocabulary

CAPTION = (
    "a brown dog with red collar runs through tall green grass near two children playing outside"
)
STEPS = range(len(CAPTION.split()))


class ShowAndTell(nn.Module):
    """ResNet-50 and an LSTM that starts from the pooled and projected feature map."""

    def __init__(self, words: int = 5000, hidden: int = 512) -> None:
        super().__init__()
        self.cnn = resnet50(num_classes=2 * hidden)
        self.embedding = nn.Embedding(words, hidden)
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True)
        self.out = nn.Linear(hidden, words)

    def encode(self, images: Tensor) -> Tensor:
        return self.cnn(images)

    def decode(self, features: Tensor, tokens: Tensor) -> Tensor:
        start = features.unsqueeze(0).chunk(2, dim=2)
        hidden, _ = self.lstm(self.embedding(tokens), tuple(part.contiguous() for part in start))
        return self.out(hidden)


def show_and_tell() -> Captioning:
    torch.manual_seed(0)
    words = ["<start>", "<end>", "<unk>", *CAPTION.split()]
    words += [f"word{index}" for index in range(5000 - len(words))]
    transform = ResNet50_Weights.DEFAULT.transforms(resize_size=224)
    model = ShowAndTell(len(words)).eval()
    return Captioning(model, transform, Vocabulary.of_words(words), layer="cnn.layer4")


CAPTIONERS = {
    "ResNet-50 + LSTM 512, 5,000 words": show_and_tell,
    "the bundled captioner": captioning.load,
}


@dataclass(frozen=True)
class Case:
    """A captioner with a photo, and the caption as its decoder is given it."""

    task: Captioning
    photo: Image.Image
    image: Tensor
    said: list[int]
    tokens: Tensor

    @property
    def layer(self) -> nn.Module:
        return self.task.model.get_submodule(self.task.layer)

    def log_probs(self, image: Tensor) -> Tensor:
        """Of all words at all steps, (batch, step, word)."""
        model, tokens = self.task.model, self.tokens.expand(len(image), -1)
        return model.decode(model.encode(image), tokens).log_softmax(dim=2)


def forward(case: Case) -> Run:
    model = case.task.model

    def run() -> Tensor:
        with torch.inference_mode():
            return model.decode(model.encode(case.image), case.tokens)

    return run


def multicam(case: Case, method: str = "gradcam") -> Run:
    model, layer = case.task.model, case.task.layer
    targets = [PhraseLogProb([step], [token]) for step, token in enumerate(case.said)]
    options = {"layer": layer, "method": method, "forward": Teacher(model), "vectorize": True}
    return lambda: explain(model, (case.image, case.tokens), targets, **options).heatmaps()


def from_the_photo(case: Case) -> Run:
    def run() -> Tensor:
        found = case.task.explain(case.photo, CAPTION, target=PhraseLogProb, method="gradcam")
        return found.heatmaps()[:, : len(STEPS)]

    return run


def full_passes(case: Case) -> Run:
    found: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        output.retain_grad()
        found.append(output)

    def word(step: int, token: int) -> Tensor:
        found.clear()
        case.task.model.zero_grad()
        case.log_probs(case.image)[0, step, token].backward()
        (activations,) = found
        weights = activations.grad.mean(dim=(2, 3), keepdim=True)
        return (weights * activations).sum(dim=1).relu().detach()

    def run() -> Tensor:
        with case.layer.register_forward_hook(keep):
            return torch.stack([word(*pair) for pair in enumerate(case.said)], dim=1)

    return run


def torchcam(case: Case, method: str = "GradCAM") -> Run:
    from torchcam import methods

    def run() -> Tensor:
        with getattr(methods, method)(case.task.model, case.task.layer) as cam:
            steps = case.log_probs(case.image).unbind(dim=1)
            maps = [
                cam(token, scores, normalized=False, retain_graph=True)[0]
                for token, scores in zip(case.said, steps, strict=True)
            ]
        return torch.stack(maps, dim=1)

    return run


def captum(case: Case) -> Run:
    from captum.attr import LayerGradCam

    def run() -> Tensor:
        cam = LayerGradCam(case.log_probs, case.layer)
        maps = [
            cam.attribute(case.image, pair, relu_attributions=True).detach()
            for pair in enumerate(case.said)
        ]
        return torch.cat(maps, dim=1)

    return run


class Told(nn.Module):
    """A captioner with its caption, as a model of one input."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.captioner, self.log_probs = case.task.model, case.log_probs

    def forward(self, image: Tensor) -> Tensor:
        return self.log_probs(image)


def log_prob(step: int, token: int) -> Callable[[Tensor], Tensor]:
    """A target of one sample, as peers take it."""
    return lambda log_probs: log_probs[step, token]


def grad_cam(case: Case, method: str = "GradCAM") -> Run:
    import pytorch_grad_cam

    extractor = getattr(pytorch_grad_cam, method)

    def run() -> Tensor:
        with extractor(model=Told(case), target_layers=[case.layer]) as cam:
            maps = [cam(case.image, [log_prob(*pair)]) for pair in enumerate(case.said)]
        return torch.stack([torch.from_numpy(batch) for batch in maps], dim=1)

    return run


ADAPTERS: dict[str, Callable[[Case], Run]] = {
    "forward": forward,
    "multicam": multicam,
    "from the photo": from_the_photo,
    "full passes": full_passes,
    "torchcam": torchcam,
    "captum": captum,
    "grad-cam": grad_cam,
}

VERSIONS = {"multicam": __version__, **{name: version(name) for name in list(ADAPTERS)[4:]}}


def prepared(captioner: str) -> Case:
    """A captioner with the photo of the cat and the caption."""
    task = CAPTIONERS[captioner]()
    task.model.requires_grad_(True)
    photo = Image.open(str(files("multicam") / "photos" / "cat.jpg")).convert("RGB")
    image, _ = task.prepare(photo)
    said = task.vocabulary.encode(CAPTION)
    tokens = torch.tensor([[task.vocabulary.start, *said[:-1]]])
    return Case(task, photo, image, said, tokens)


def make(captioner: str, name: str) -> Run:
    return ADAPTERS[name](prepared(captioner))


def rows(taken: Seconds) -> list[list[str]]:
    return [
        [
            f"{name} {VERSIONS.get(name, '')}".strip(),
            f"{median(own):.3f} s",
            f"{times_of(own, taken['forward']):.2f}",
            f"{times_of(taken['full passes'], own):.1f}",
            str(len(own)),
        ]
        for name, own in taken.items()
    ]


COLUMNS = [
    "",
    f"{len(STEPS)} maps",
    "multiple of the forward pass",
    "full passes take times as long",
    "calls",
]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="calls of each fast library")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    for captioner in CAPTIONERS:
        makers = {name: partial(make, captioner, name) for name in ADAPTERS}
        title = (
            f"{captioner}: median of {options.rounds} rounds "
            f"(torch {torch.__version__}, {options.threads} CPU threads)"
        )
        taken = take_times(makers, options.rounds, options.threads)
        show(title, COLUMNS, rows(taken), markdown=options.markdown)


if __name__ == "__main__":
    main()
