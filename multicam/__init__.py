"""multicam: which places in the image made this number what it is?

Grad-CAM for any scalar of any PyTorch vision model; see `explain`.
"""

from multicam.augmenting import Augmented
from multicam.crosscheck import CrossCheck, crosscheck
from multicam.detection import DetectionScore
from multicam.errors import (
    InputError,
    LayerError,
    MissingExtraError,
    MulticamError,
    TargetError,
    UnreachedError,
)
from multicam.explainer import explain, explain_layers
from multicam.explanation import Explanation, fuse
from multicam.finer import FinerCAM
from multicam.grids import token_grid
from multicam.guided import InputGradients, deconvnet, guided_backprop, guided_grad_cam
from multicam.layers import FeatureMap, Layer, feature_maps
from multicam.methods import METHODS
from multicam.sequences import (
    CaptionLogProb,
    ConceptLogit,
    ConceptLogProb,
    PhraseLogit,
    PhraseLogProb,
    TokenLogit,
    TokenLogProb,
)
from multicam.smoothing import Smoothed
from multicam.targets import (
    ClassLogit,
    ClassLogProb,
    Difference,
    EmbeddingSimilarity,
    Negative,
    PerSample,
    RegionMean,
    TopClass,
)
from multicam.version import __version__
from multicam.weighting import grad_cam
from multicam.words import WordContributions, word_contributions

__all__ = [
    "METHODS",
    "Augmented",
    "CaptionLogProb",
    "ClassLogProb",
    "ClassLogit",
    "ConceptLogProb",
    "ConceptLogit",
    "CrossCheck",
    "DetectionScore",
    "Difference",
    "EmbeddingSimilarity",
    "Explanation",
    "FeatureMap",
    "FinerCAM",
    "InputError",
    "InputGradients",
    "Layer",
    "LayerError",
    "MissingExtraError",
    "MulticamError",
    "Negative",
    "PerSample",
    "PhraseLogProb",
    "PhraseLogit",
    "RegionMean",
    "Smoothed",
    "TargetError",
    "TokenLogProb",
    "TokenLogit",
    "TopClass",
    "UnreachedError",
    "WordContributions",
    "__version__",
    "crosscheck",
    "deconvnet",
    "explain",
    "explain_layers",
    "feature_maps",
    "fuse",
    "grad_cam",
    "guided_backprop",
    "guided_grad_cam",
    "token_grid",
    "word_contributions",
]
