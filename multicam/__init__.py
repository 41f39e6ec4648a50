"""multicam: which places in the image made this number what it is?

Grad-CAM for any scalar of any PyTorch vision model; see `explain`.
"""

from multicam.crosscheck import CrossCheck, crosscheck
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
from multicam.grids import token_grid
from multicam.layers import FeatureMap, Layer, feature_maps
from multicam.sequences import (
    CaptionLogProb,
    ConceptLogit,
    ConceptLogProb,
    PhraseLogit,
    PhraseLogProb,
    TokenLogit,
    TokenLogProb,
)
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
from multicam.weighting import METHODS, grad_cam
from multicam.words import WordContributions, word_contributions

__all__ = [
    "METHODS",
    "CaptionLogProb",
    "ClassLogProb",
    "ClassLogit",
    "ConceptLogProb",
    "ConceptLogit",
    "CrossCheck",
    "Difference",
    "EmbeddingSimilarity",
    "Explanation",
    "FeatureMap",
    "InputError",
    "Layer",
    "LayerError",
    "MissingExtraError",
    "MulticamError",
    "Negative",
    "PerSample",
    "PhraseLogProb",
    "PhraseLogit",
    "RegionMean",
    "TargetError",
    "TokenLogProb",
    "TokenLogit",
    "TopClass",
    "UnreachedError",
    "WordContributions",
    "__version__",
    "crosscheck",
    "explain",
    "explain_layers",
    "feature_maps",
    "fuse",
    "grad_cam",
    "token_grid",
    "word_contributions",
]
