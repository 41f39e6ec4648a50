"""Classifiers by name: the bundled one, torchvision, timm, Hugging Face."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from PIL.Image import Image
from torch import Tensor, nn

from multicam.errors import InputError, nearest
from multicam.preprocessing import Transform
from multicam.tasks import backbone
from multicam.tasks.base import optional


class Source(NamedTuple):
    """A classifier with what belongs to it; the fields are those of `Classification`."""

    model: nn.Module
    transform: Transform
    labels: Sequence[str] | Mapping[int, str] | None = None
    layer: str | None = None


def bundled() -> Source:
    """EfficientNet-Lite0 and the thousand classes of ImageNet."""
    from torchvision.models import EfficientNet_B0_Weights

    labels = EfficientNet_B0_Weights.DEFAULT.meta["categories"]
    return Source(backbone.pretrained(), backbone.preprocess, labels, backbone.LAYER)


def named(name: str) -> Source:
    """A classifier by `SOURCE:NAME`, in eval mode.

    Raises:
        InputError: there is no such source or name, or the weights cannot be had.
    """
    source, _, rest = name.partition(":")
    if source not in SOURCES or not rest:
        raise InputError(
            f"model {name!r} was not found: a name is torchvision:NAME, timm:NAME or "
            f"hf:NAME_OR_FOLDER{_torchvision_hint(name)}"
        )
    try:
        found = SOURCES[source](rest)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"model {name!r} cannot be loaded: {reason}") from error
    found.model.eval()
    return found


def _from_torchvision(name: str) -> Source:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise _unknown("torchvision", name, known)
    choices: Any = torchvision.models.get_model_weights(name)
    weights = choices.DEFAULT
    model = torchvision.models.get_model(name, weights=weights)
    return Source(model, weights.transforms(), weights.meta["categories"])


def _from_timm(name: str) -> Source:
    timm = optional("timm", package="timm", extra="models")
    if ":" not in name and not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    model = timm.create_model(name, pretrained=True)
    config = timm.data.resolve_model_data_config(model)
    return Source(model, timm.data.create_transform(**config), _timm_labels(timm, model))


def _timm_labels(timm: Any, model: Any) -> Sequence[str] | None:
    labels: Sequence[str] | None = model.pretrained_cfg.get("label_names")
    subset = timm.data.infer_imagenet_subset(model)
    if labels is None and subset is not None:
        labels = timm.data.ImageNetInfo(subset).label_descriptions()
    return labels


def _from_hugging_face(name: str) -> Source:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    processor = AutoImageProcessor.from_pretrained(name)
    model = AutoModelForImageClassification.from_pretrained(name)
    return Source(model, partial(processed, processor), model.config.id2label)


def processed(processor: Callable[..., Mapping[str, Tensor]], image: Image) -> Tensor:
    """A photo as an image processor of Hugging Face prepares it."""
    return processor(images=image, return_tensors="pt")["pixel_values"][0]


SOURCES: dict[str, Callable[[str], Source]] = {
    "torchvision": _from_torchvision,
    "timm": _from_timm,
    "hf": _from_hugging_face,
}
"""What stands before the colon of a model's name."""


def _torchvision_hint(name: str) -> str:
    import torchvision

    close = nearest(name, torchvision.models.list_models(module=torchvision.models), count=3)
    return "; perhaps " + " or ".join(f"torchvision:{one}" for one in close) if close else ""


def _unknown(source: str, name: str, known: Iterable[str]) -> InputError:
    close = ", ".join(f"{source}:{one}" for one in nearest(name, known))
    return InputError(f"{source} has no model {name!r}; the nearest are {close or 'none'}")
