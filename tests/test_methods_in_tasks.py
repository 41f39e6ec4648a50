"""Every method in each of the three tasks, with the bundled models."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import pytest
from PIL import Image

from multicam import METHODS, Explanation, InputError
from multicam.methods import Method
from multicam.perturbation import ISCAM, RISE, SSCAM, Occlusion
from multicam.tasks import captioning, classification, vqa

SMALLER: dict[str, Method] = {
    "sscam": SSCAM(samples=2),
    "iscam": ISCAM(steps=2),
    "occlusion": Occlusion(window=112, stride=112),
    "rise": RISE(masks=8),
}
"""The same methods with fewer passes."""

EARLY = "blocks.0"
"""16 channels, for methods that take a forward pass for each."""

BY_CHANNEL = {"scorecam", "sscam", "iscam"}

Ask = Callable[..., Explanation]


@pytest.fixture(scope="module")
def tasks() -> dict[str, Ask]:
    photo = Image.open(str(files("multicam") / "photos" / "cat.jpg"))
    classify, caption, answer = classification.load(), captioning.load(), vqa.load()

    def ask(**options: Any) -> Explanation:
        return answer.explain(photo, "what animal is this?", ["cat", "dog"], **options)

    return {
        "classification": lambda **options: classify.explain(photo, [281, 282], **options),
        "captioning": lambda **options: caption.explain(photo, "a cat", words=["cat"], **options),
        "vqa": ask,
    }


@pytest.mark.parametrize("task", ["classification", "captioning", "vqa"])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "cam"])
def test_every_method_runs_in_every_task(tasks: dict[str, Ask], task: str, name: str) -> None:
    early = EARLY if task == "classification" else f"encoder.{EARLY}"
    layer = early if name in BY_CHANNEL else None
    found = tasks[task](method=SMALLER.get(name, name), layer=layer)
    assert found.maps.isfinite().all()
    assert found.maps.flatten(2).std(dim=2).gt(0).all()


def test_cam_is_for_networks_that_end_in_pooling_and_a_linear_layer(tasks: dict[str, Ask]) -> None:
    found = tasks["classification"](method="cam")
    gradcam = tasks["classification"]()
    places = found.maps[0, 0].numel()
    assert (found.maps - places * gradcam.maps).abs().max() < 1e-4 * found.maps.abs().max()
    with pytest.raises(InputError, match="networks that end in global average pooling"):
        tasks["vqa"](method="cam")
