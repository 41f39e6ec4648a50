"""Feature maps that are not pictures: signals, volumes and videos, and tokens of transformers."""

import torch
from torch import nn
from torchvision.models import swin_t, vit_b_32
from torchvision.models.video import r3d_18

from multicam import ClassLogit, explain

torch.manual_seed(0)


def say(what: str, model: nn.Module, inputs: torch.Tensor, layer: str) -> None:
    found = explain(model.eval(), inputs, [ClassLogit(0), ClassLogit(1)], layer=layer)
    print(f"{what}: input {tuple(inputs.shape)}, {found.layer}, maps {tuple(found.maps.shape)}")


heartbeat = nn.Sequential(
    nn.Conv1d(1, 8, 9, stride=4),
    nn.ReLU(),
    nn.Conv1d(8, 16, 9, stride=4),
    nn.ReLU(),
    nn.AdaptiveAvgPool1d(1),
    nn.Flatten(),
    nn.Linear(16, 2),
)
say("a signal", heartbeat, torch.randn(1, 1, 1000), "3")
say("a video", r3d_18(), torch.randn(1, 3, 8, 64, 64), "layer3")
photo = torch.randn(1, 3, 96, 96)
say("tokens of a ViT", vit_b_32(image_size=96), photo, "encoder.layers.encoder_layer_11.ln_1")
say("windows of a Swin", swin_t(), photo, "features.7")
