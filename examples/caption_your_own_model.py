"""A captioner of your own: which part of the photo gave each word?

Show and Tell (Vinyals et al. 2015) on ResNet-18, with random weights in place of yours.
"""

from importlib.resources import files

import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.transforms import Compose, Normalize, Resize, ToTensor

from multicam.tasks.captioning import Captioning
from multicam.tasks.vocabulary import Vocabulary

WORDS = ["<start>", "<end>", "<unk>", "a", "cup", "of", "coffee", "on", "the", "table"]


class ShowAndTell(nn.Module):
    def __init__(self, words: int, size: int = 256) -> None:
        super().__init__()
        self.cnn = resnet18()
        self.cnn.fc = nn.Linear(512, size)
        self.embedding = nn.Embedding(words, size)
        self.lstm = nn.LSTM(size, size, batch_first=True)
        self.head = nn.Linear(size, words)

    # The two methods that multicam asks for.

    def encode(self, images: Tensor) -> Tensor:
        return self.cnn(images)

    def decode(self, features: Tensor, tokens: Tensor) -> Tensor:
        words = self.embedding(tokens)
        states, _ = self.lstm(torch.cat([features.unsqueeze(1), words], dim=1))
        return self.head(states[:, 1:])  # (batch, step, vocabulary): the word after each token


torch.manual_seed(0)
model = ShowAndTell(len(WORDS))
transform = Compose(
    [Resize((224, 224)), ToTensor(), Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
)
task = Captioning(model, transform, Vocabulary.of_words(WORDS), layer="cnn.layer4")

photo = str(files("multicam") / "photos" / "coffee.jpg")
explanation = task.explain(photo, "a cup of coffee on the table")
explanation.figure().savefig("own_caption.png")

checked = task.crosscheck(photo, "a cup of coffee on the table")
print(f"{len(checked.labels[0])} maps; largest difference from Captum: {checked.max_rel:.0e}")
