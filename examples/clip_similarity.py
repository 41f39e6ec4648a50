"""Which places make a photo fit a text: CLIP, built here small and with random weights.

With a network, `CLIPModel.from_pretrained("openai/clip-vit-base-patch32")` and its processor
take the places of the model and of the tensors here; nothing else changes.
"""

import torch
from transformers import CLIPConfig, CLIPModel

from multicam import EmbeddingSimilarity, explain

torch.manual_seed(0)
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
ends = {"bos_token_id": 0, "eos_token_id": 99, "pad_token_id": 1}
config = CLIPConfig(
    text_config={**sizes, "num_attention_heads": 4, "vocab_size": 100, **ends},
    vision_config={**sizes, "num_attention_heads": 4, "image_size": 96, "patch_size": 16},
    projection_dim=16,
)
model = CLIPModel(config).eval()
images = torch.randn(1, 3, 96, 96)
texts = torch.tensor([[1, 5, 8, 99], [1, 7, 20, 99]])


def embed(pixel_values: torch.Tensor) -> torch.Tensor:
    """The photo in the space of texts; transformers 4 gives the tensor itself."""
    found = model.get_image_features(pixel_values=pixel_values)
    return getattr(found, "pooler_output", found)


with torch.no_grad():
    found = model.get_text_features(input_ids=texts)
    meanings = getattr(found, "pooler_output", found)
similar = explain(
    model,
    {"pixel_values": images},
    [EmbeddingSimilarity(meaning) for meaning in meanings],
    forward=embed,
    layer="vision_model.encoder.layers.1.layer_norm1",
)
print(f"{similar.layer}: maps {tuple(similar.maps.shape)}, similarities {similar.scores.tolist()}")
