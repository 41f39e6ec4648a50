"""A model of your own that answers questions: which places gave each answer, and which words?

ResNet-18 and an LSTM, fused by an element-wise product (Antol et al. 2015), with random
weights in place of yours.
"""

from importlib.resources import files

import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.transforms import Compose, Normalize, Resize, ToTensor

from multicam.tasks.questions import Reader
from multicam.tasks.vqa import VisualQuestionAnswering

WORDS = ["<pad>", "<unk>", "what", "is", "in", "the", "cup", "color", "of"]
ANSWERS = ["coffee", "tea", "red", "white"]


class Antol(nn.Module):
    def __init__(self, words: int, answers: int, size: int = 256) -> None:
        super().__init__()
        self.cnn = resnet18()
        self.cnn.fc = nn.Linear(512, size)
        self.embedding = nn.Embedding(words, size, padding_idx=0)
        self.lstm = nn.LSTM(size, size, batch_first=True)
        self.head = nn.Linear(size, answers)

    # What multicam asks for: images and padded tokens in, a logit for each answer out.

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(tokens))
        last = (tokens != 0).sum(dim=1) - 1
        question = states[torch.arange(len(tokens)), last]
        return self.head(self.cnn(images).tanh() * question)


torch.manual_seed(0)
model = Antol(len(WORDS), len(ANSWERS))
transform = Compose(
    [Resize((224, 224)), ToTensor(), Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
)
task = VisualQuestionAnswering(
    model, transform, Reader.of_words(WORDS), ANSWERS, layer="cnn.layer4"
)

photo = str(files("multicam") / "photos" / "coffee.jpg")
asked = "What is in the cup?"
found = task.explain(photo, asked, contrast=("coffee", "tea"))
found.figure(words=task.words(photo, asked, contrast=("coffee", "tea"))).savefig("own_answer.png")

checked = task.crosscheck(photo, asked, contrast=("coffee", "tea"))
print(f"{len(checked.labels[0])} maps; largest difference from Captum: {checked.max_rel:.0e}")
