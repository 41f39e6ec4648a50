"""All methods by name, with what each costs and who published it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from types import MappingProxyType
from typing import Any, cast

from multicam import curvature, finer, perturbation, smoothgradcam, weighting
from multicam.errors import InputError, nearest
from multicam.wrapping import Method as Method


@dataclass(frozen=True)
class Listed:
    """A method that can be chosen by name.

    Attributes:
        method: the function, or the object with its settings.
        cost: in passes of the model for one image, see `UNITS`; all targets share them
            but for "a target".
        paper: its authors, and where it stands.
    """

    method: Method
    cost: str
    paper: str

    @property
    def summary(self) -> str:
        """The first sentence of the method's docstring."""
        text = " ".join((inspect.getdoc(self.method) or "").replace("`", "").split())
        return re.split(r"(?<=\.)\s", text, maxsplit=1)[0]


UNITS = (
    "C: channels of the layer; P: its places; N: masks; "
    "a replay is a forward pass of what follows the layer"
)
"""How `Listed.cost` counts."""

_BACKWARD = "1 forward, 1 backward a target"

LISTED: Mapping[str, Listed] = MappingProxyType(
    {
        "gradcam": Listed(weighting.grad_cam, _BACKWARD, "Selvaraju et al., arXiv 1610.02391"),
        "gradcam++": Listed(
            weighting.grad_cam_plus_plus, _BACKWARD, "Chattopadhay et al., arXiv 1710.11063"
        ),
        "xgradcam": Listed(weighting.x_grad_cam, _BACKWARD, "Fu et al., arXiv 2008.02312"),
        "hirescam": Listed(weighting.hires_cam, _BACKWARD, "Draelos and Carin, arXiv 2011.08891"),
        "elementwise": Listed(
            weighting.element_wise, _BACKWARD, "Pillai and Pirsiavash, AAAI 2021"
        ),
        "layercam": Listed(weighting.layer_cam, _BACKWARD, "Jiang et al., IEEE TIP 30, 2021"),
        "eigencam": Listed(weighting.eigen_cam, _BACKWARD, "Muhammad and Yeasin, arXiv 2008.00299"),
        "eigengradcam": Listed(weighting.eigen_grad_cam, _BACKWARD, "pytorch-grad-cam, no paper"),
        "cam": Listed(weighting.cam, _BACKWARD, "Zhou et al., arXiv 1512.04150"),
        "shapleycam": Listed(
            curvature.ShapleyCAM(), "1 forward, 2 backwards a target", "Cai, arXiv 2501.06261"
        ),
        "finercam": Listed(finer.FinerCAM(), _BACKWARD, "Zhang et al., arXiv 2501.11309"),
        "smoothgradcam++": Listed(
            smoothgradcam.SmoothGradCAMPlusPlus(),
            "9 forwards, 8 backwards a target",
            "Omeiza et al., arXiv 1908.01224",
        ),
        "ablationcam": Listed(
            perturbation.AblationCAM(), "1 forward, C replays", "Desai and Ramaswamy, WACV 2020"
        ),
        "scorecam": Listed(
            perturbation.ScoreCAM(), "1 forward, C forwards", "Wang et al., arXiv 1910.01279"
        ),
        "sscam": Listed(
            perturbation.SSCAM(), "1 forward, 35 C forwards", "Wang et al., arXiv 2006.14255"
        ),
        "iscam": Listed(
            perturbation.ISCAM(), "1 forward, 10 C forwards", "Naidu et al., arXiv 2010.03023"
        ),
        "reciprocam": Listed(
            perturbation.ReciproCAM(), "1 forward, P + 1 replays", "Byun and Lee, arXiv 2209.14074"
        ),
        "occlusion": Listed(
            perturbation.Occlusion(),
            "1 forward, N forwards (about 225)",
            "Zeiler and Fergus, arXiv 1311.2901",
        ),
        "rise": Listed(
            perturbation.RISE(), "1 forward, N forwards (1000)", "Petsiuk et al., arXiv 1806.07421"
        ),
    }
)
"""The methods that can be chosen by name, and what is known of each."""

METHODS: Mapping[str, Method] = MappingProxyType(
    {name: listed.method for name, listed in LISTED.items()}
)
"""The methods that can be chosen by name."""


def method_named(method: str | Method) -> tuple[str, Method]:
    """The name of a method and the method itself, given as either.

    Raises:
        InputError: no method has this name.
    """
    if not isinstance(method, str):
        return getattr(method, "__name__", type(method).__name__), method
    if method not in METHODS:
        close = ", ".join(nearest(method, METHODS) or METHODS)
        raise InputError(
            f"no method is called {method!r}; try {close}, or pass a function of (A, G)"
        )
    return method, METHODS[method]


def takes_many_passes(method: str) -> bool:
    """Whether a method runs the model so often that it can show a progress bar."""
    found = METHODS[method]
    return is_dataclass(found) and any(field.name == "progress" for field in fields(found))


def with_progress(method: str, what: str) -> Method:
    """A method of many passes, with a progress bar that says `what`."""
    return cast("Method", replace(cast("Any", METHODS[method]), progress=what))
