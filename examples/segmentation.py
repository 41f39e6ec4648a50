"""Which places a segmented region owes its class to: LR-ASPP, here with random weights.

`weights="DEFAULT"` in place of None takes torchvision's own, where there is a network.
"""

import torch
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from multicam import RegionMean, explain

torch.manual_seed(0)
model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21).eval()
images = torch.randn(1, 3, 128, 128)

with torch.no_grad():
    classes = model(images)["out"].argmax(dim=1)[0]
most = int(classes.flatten().mode().values)
region = classes == most
left, right = region & (torch.arange(128) < 64), region & (torch.arange(128) >= 64)

targets = [RegionMean(most, half, key="out") for half in (left, right)]
explained = explain(model, images, targets, layer="backbone.16")
print(
    f"class {most}, its pixels on the left and on the right: maps "
    f"{tuple(explained.maps.shape)}, mean logits {explained.scores[0].tolist()}"
)
