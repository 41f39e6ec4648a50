"""Explain scores of your own: how alike two photos are, and the score of a region."""

from dataclasses import replace
from importlib.resources import files

import torch
from PIL import Image
from torch import Tensor, nn

from multicam import EmbeddingSimilarity, RegionMean, explain
from multicam.tasks import backbone
from multicam.tasks.base import prepare_batch

network = backbone.pretrained()
cat, coffee = (
    Image.open(str(files("multicam") / "photos" / name)) for name in ("cat.jpg", "coffee.jpg")
)
collage = Image.new("RGB", (480, 480))
collage.paste(cat.resize((480, 240)), (0, 0))
collage.paste(coffee.resize((480, 240)), (0, 240))


# 1. What makes the collage similar to the photo of the cup?
def embed(images: Tensor) -> Tensor:
    return backbone.features(network, images).mean(dim=(2, 3))


inputs, photos = prepare_batch([collage, coffee], backbone.preprocess, network)
with torch.no_grad():
    reference = embed(inputs[1:])[0]
alike = explain(network, inputs[:1], EmbeddingSimilarity(reference), forward=embed)
alike = replace(alike, photos=photos[:1])
alike.figure().savefig("similarity.png")
print(f"similarity {alike.scores.item():.2f}, {alike.layer}, box {alike.boxes()[0][0]}")


# 2. What speaks for "tabby" in the upper half of a dense prediction, for "espresso" in the lower?
class Dense(nn.Module):
    """The classifier at every place: (batch, 1000, 7, 7)."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        places = backbone.features(self.network, images).movedim(1, -1)
        scores: Tensor = self.network.get_submodule("classifier")(places)
        return scores.movedim(-1, 1)


TABBY, ESPRESSO = 281, 967
upper = torch.zeros(7, 7)
upper[:3] = 1
targets = [RegionMean(TABBY, upper), RegionMean(ESPRESSO, upper.flip(0))]
regions = explain(Dense(), inputs[:1], targets, layer="network.blocks.6")
regions = replace(regions, photos=photos[:1])
regions.figure().savefig("regions.png")
print("upper: tabby {:.2f}, lower: espresso {:.2f}".format(*regions.scores[0].tolist()))
