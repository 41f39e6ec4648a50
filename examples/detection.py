"""Which places a detection owes its score to: Faster R-CNN, here with random weights.

`weights="DEFAULT"` in place of None takes torchvision's own, where there is a network.
"""

import torch
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

from multicam import DetectionScore, explain

torch.manual_seed(0)
model = fasterrcnn_mobilenet_v3_large_320_fpn(
    weights=None, weights_backbone=None, num_classes=5, box_score_thresh=0.0
).eval()
images = [torch.rand(3, 320, 320)]

with torch.no_grad():
    (found,) = model(images)
box, label = found["boxes"][0].tolist(), int(found["labels"][0])

explained = explain(model, (images,), DetectionScore(box, label), layer="backbone.body.16")
print(
    f"class {label} at {[round(side) for side in box]}, score {explained.scores.item():.2f}: "
    f"maps {tuple(explained.maps.shape)}"
)
