"""What maps for ten answers cost: multicam and its peers, side by side in one run.

    pip install -e '.[bench]'
    python benchmarks/vqa_speed.py               # two tables on the screen
    python benchmarks/vqa_speed.py --markdown    # the same, for docs/performance.md

One photo, one question, a Grad-CAM map of the logit of each of the ten answers that the
model ranks highest, CPU. Two models: ResNet-50 with an LSTM of 512 units that reads the
question, their element-wise product and 1,000 answers, random weights (Antol et al., arXiv
1505.00468, section 4), at layer4, 224 x 224; and the bundled one at head.places, at the
448 x 448 of its maps. The rows are those of captioning_speed.py, with answers in place of words:

    forward         the model once, in inference mode, no map
    multicam        `explain(..., vectorize=True)`, what `VisualQuestionAnswering.explain`
                    runs once the photo is a tensor and the question tokens
    from the photo  `VisualQuestionAnswering.explain` from the PIL image and the text on
    full passes     for each answer a forward pass of everything with its graph, and
                    `backward()` to all parameters
    torchcam        one forward pass, a backward pass for each answer over the kept graph
    captum          a call of LayerGradCam for each answer
    grad-cam        a call with a target for each answer
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.resources import files

import captioning_speed
import torch
from captioning_speed import COLUMNS, captum, full_passes, grad_cam, rows, torchcam
from PIL import Image
from sidebyside import Run, take_times
from tables import show
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, resnet50

from multicam import explain
from multicam.tasks import vqa
from multicam.tasks.answers import AnswerList
from multicam.tasks.questions import Reader
from multicam.tasks.vqa import VisualQuestionAnswering

QUESTION = "what is the cat on the left looking at?"
ANSWERS = 10


class Product(nn.Module):
    """A CNN and an LSTM, whose element-wise product decides among answers."""

    def __init__(self, cnn: nn.Module, words: int, answers: int, hidden: int = 512) -> None:
        super().__init__()
        self.cnn = cnn
        self.embedding = nn.Embedding(words, hidden)
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True)
        self.out = nn.Linear(hidden, answers)

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(tokens))
        return self.out(self.cnn(images).tanh() * states[:, -1].tanh())


def resnet_and_lstm(resnet: Callable[..., nn.Module] = resnet50) -> VisualQuestionAnswering:
    torch.manual_seed(0)
    words = ["<pad>", "<unk>", *dict.fromkeys(QUESTION.strip("?").split())]
    model = Product(resnet(num_classes=512), len(words), answers=1000).eval()
    return VisualQuestionAnswering(
        model,
        ResNet50_Weights.DEFAULT.transforms(resize_size=224),
        Reader.of_words(words),
        [f"answer {index}" for index in range(1000)],
        layer="cnn.layer4",
    )


ANSWERERS = {
    "ResNet-50 + LSTM 512, 1,000 answers": resnet_and_lstm,
    "the bundled answerer": vqa.load,
}


@dataclass(frozen=True)
class Case(captioning_speed.Case):
    """A model with a photo and a question; `said` are the answers to explain."""

    task: VisualQuestionAnswering

    @property
    def answers(self) -> list[str]:
        return [self.task.answers[index] for index in self.said]

    def log_probs(self, image: Tensor) -> Tensor:
        """The logits of all answers, the same at each of the steps that peers go through."""
        logits = self.task.model(image, self.tokens)
        return logits.unsqueeze(1).expand(-1, len(self.said), -1)


def forward(case: Case) -> Run:
    def run() -> Tensor:
        with torch.inference_mode():
            return case.task.model(case.image, case.tokens)

    return run


def multicam(case: Case) -> Run:
    task = case.task
    known = AnswerList(tuple(task.answers))

    def run() -> Tensor:
        posed = known.pose(case.image, case.tokens, case.answers, len(case.said), None)
        options = {"layer": task.layer, "forward": posed.forward, "vectorize": True}
        return explain(task.model, posed.inputs, posed.targets, **options).heatmaps()

    return run


def from_the_photo(case: Case) -> Run:
    asked = case.photo, QUESTION, case.answers
    return lambda: case.task.explain(*asked, method="gradcam").heatmaps()


ADAPTERS: dict[str, Callable[[Case], Run]] = {
    "forward": forward,
    "multicam": multicam,
    "from the photo": from_the_photo,
    "full passes": full_passes,
    "torchcam": torchcam,
    "captum": captum,
    "grad-cam": grad_cam,
}


def pose(task: VisualQuestionAnswering) -> Case:
    task.model.requires_grad_(True)
    photo = Image.open(str(files("multicam") / "photos" / "cat.jpg")).convert("RGB")
    image, _ = task.prepare(photo)
    tokens = task.reader.padded([task.reader.read(QUESTION)])
    with torch.inference_mode():
        said = task.model(image, tokens)[0].topk(ANSWERS).indices.tolist()
    return Case(task, photo, image, said, tokens)


def make(answerer: str, name: str) -> Run:
    return ADAPTERS[name](pose(ANSWERERS[answerer]()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="calls of each fast library")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    for answerer in ANSWERERS:
        makers = {name: partial(make, answerer, name) for name in ADAPTERS}
        title = (
            f"{answerer}: median of {options.rounds} rounds "
            f"(torch {torch.__version__}, {options.threads} CPU threads)"
        )
        taken = take_times(makers, options.rounds, options.threads)
        columns = [COLUMNS[0], f"{ANSWERS} maps", *COLUMNS[2:]]
        show(title, columns, rows(taken), markdown=options.markdown)


if __name__ == "__main__":
    main()
