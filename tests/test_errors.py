from __future__ import annotations

import pytest

from multicam import errors


@pytest.mark.parametrize("name", ["LayerError", "TargetError", "InputError", "MissingExtraError"])
def test_every_error_has_one_root(name: str) -> None:
    assert issubclass(getattr(errors, name), errors.MulticamError)


def test_an_unreached_score_is_an_error_of_layer_and_target() -> None:
    assert issubclass(errors.UnreachedError, errors.LayerError)
    assert issubclass(errors.UnreachedError, errors.TargetError)


def test_a_missing_extra_names_the_command() -> None:
    message = str(errors.MissingExtraError("timm", "models"))
    assert message == "timm is not installed; install it with: pip install 'multicam-xai[models]'"


def test_the_nearest_names_come_first() -> None:
    assert errors.nearest("layer5", ["conv1", "layer4", "layer3.0.conv1"])[0] == "layer4"
    assert errors.nearest("zzz", ["conv1", "layer4"]) == []
