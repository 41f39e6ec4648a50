"""Which places in a photo each word of a caption came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, TypeAlias, cast, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from multicam.crosscheck import CrossCheck, crosscheck
from multicam.errors import InputError
from multicam.explainer import LayerLike, explain
from multicam.explanation import Explanation
from multicam.geometry import Photo
from multicam.methods import Method
from multicam.preprocessing import Transform
from multicam.sequences import CaptionLogProb, ConceptLogit, PhraseLogit
from multicam.targets import Target
from multicam.tasks import backbone
from multicam.tasks.base import Images, Layers, evaluating, prepare_batch
from multicam.tasks.beam import beam_search
from multicam.tasks.captioner import LAYER, METHOD, pretrained
from multicam.tasks.phrases import Phrase, distinct, phrases_of
from multicam.tasks.teacher import EncoderDecoder, Teacher, last_layer
from multicam.tasks.vocabulary import Vocabulary

TargetOf: TypeAlias = Callable[[Sequence[int], Sequence[int]], Target]
"""From the steps of a phrase and its tokens at them to what is explained of it."""

MAP_SIZE = 448
"""Pixels a side of the bundled captioner's input for explaining: maps of 14 x 14 places.

Captions are written at 224 pixels, the size of the training; docs/grounding.md has how
well words point at either size.
"""

Generate: TypeAlias = Callable[[Tensor, int, int], list[int]]
"""From one photo, a beam and a length to the tokens of a caption, without start and end."""


def load(name: str | None = None) -> Captioning:
    """A captioner ready to explain, with its preprocessing and vocabulary.

    Args:
        name: None for the bundled CNN-LSTM, which needs the extra `models` and no
            network; else `hf:NAME_OR_FOLDER`, a Hugging Face captioner (BLIP, GIT or a
            `VisionEncoderDecoderModel`).

    Returns:
        The captioner on the CPU, in eval mode.

    Raises:
        InputError: no such model, or it cannot be loaded.
        MissingExtraError: timm or the bundled weights are not installed.
    """
    if name is None:
        model, vocabulary = pretrained()
        closer = partial(backbone.squeeze, size=MAP_SIZE)
        return Captioning(
            model,
            backbone.squeeze,
            vocabulary,
            map_transform=closer,
            layer=LAYER,
            method=METHOD,
        )
    kind, _, rest = name.partition(":")
    if kind != "hf" or not rest:
        raise InputError(
            f"no captioner is called {name!r}; give hf:NAME_OR_FOLDER, or leave it out"
        )
    from multicam.tasks.huggingface_captioners import hugging_face

    return hugging_face(rest)


@final
@dataclass(frozen=True, eq=False, repr=False)
class Captioning:
    """A captioner with its preprocessing and its vocabulary.

    The model always runs in eval mode here, and comes back in the mode it was in.

    Args:
        model: the network that holds the feature maps.
        transform: from an RGB photo to (channel, height, width), not random.
        map_transform: the same for explaining, where a larger input than that for writing
            captions gives finer maps; the encoder needs to take both sizes.
        vocabulary: its words; see `Vocabulary.of_words` for a plain list.
        captioner: what encodes and decodes; None where the model itself does.
        generate: how the model captions a photo by itself; None for beam search by
            encode and decode.
        layer: the feature map to use where `explain` is given none.
        method: the method to use where `explain` is given none.
        longest: tokens of the longest caption, start and end not counted.

    Example:
        >>> from multicam.tasks import captioning
        >>> task = captioning.load()                                   # doctest: +SKIP
        >>> task.explain("dog.jpg", words=["brown dog"]).labels         # doctest: +SKIP
        (('brown dog',),)
    """

    model: nn.Module
    transform: Transform
    vocabulary: Vocabulary
    captioner: EncoderDecoder | None = field(default=None, kw_only=True)
    generate: Generate | None = field(default=None, kw_only=True)
    map_transform: Transform | None = field(default=None, kw_only=True)
    layer: LayerLike | None = field(default=None, kw_only=True)
    method: str | Method = field(default="gradcam", kw_only=True)
    longest: int = field(default=20, kw_only=True)

    def __post_init__(self) -> None:
        _ = self._coder

    def __repr__(self) -> str:
        """One line; a model's own repr fills pages."""
        layer = f", layer={self.layer!r}" if self.layer is not None else ""
        return f"Captioning({type(self.model).__name__}, {len(self.vocabulary)} words{layer})"

    def caption(self, image: Images, /, beam: int = 5) -> str:
        """What the captioner says about a photo.

        Args:
            image: path, bytes, PIL image, array or tensor.
            beam: sequences kept while searching; 1 is greedy.

        Raises:
            InputError: the image cannot be read, or the beam is below 1.
        """
        with evaluating(self.model):
            return self.vocabulary.spell(self._written(image, beam)).strip()

    def explain(
        self,
        image: Images,
        /,
        caption: str | None = None,
        words: str | Sequence[str] | None = None,
        *,
        beam: int = 5,
        target: TargetOf = PhraseLogit,
        layer: Layers | None = None,
        method: str | Method | None = None,
    ) -> Explanation:
        """Explain words of a caption, all from one pass of the encoder.

        Args:
            image: one photo: path, bytes, PIL image, array or tensor.
            caption: the text to explain; None has the captioner write one.
            words: words and phrases of the caption, each as one string: a map for each
                place where it stands ("dog", "dog (2)"). None explains every word in
                order, and last the whole caption.
            beam: as for `caption`.
            target: from steps and tokens to what is explained of a phrase: the class
                `PhraseLogit` or `PhraseLogProb`, what `concept` gives, or a function.
                The whole caption is explained by its log-probability.
            layer: the feature map, or a list to fuse; None takes the task's own, or
                else the last one that the caption depends on.
            method: as for `multicam.explain`; None takes the task's own.

        Returns:
            One map for each word or phrase, labelled by it, with the photo.

        Raises:
            InputError: the image cannot be read; the caption is empty, too long, or has
                a word that the vocabulary lacks; a phrase is not in the caption.
            LayerError: the layer cannot be used.
        """
        with evaluating(self.model):
            asked = self._asked(image, caption, words, beam, target)
            used = self.method if method is None else method
            explanation = self._explained(asked, self._layer(layer, asked), used)
        return replace(explanation, labels=(asked.labels,), photos=asked.photos)

    def crosscheck(
        self,
        image: Images,
        /,
        caption: str | None = None,
        words: str | Sequence[str] | None = None,
        *,
        beam: int = 5,
        target: TargetOf = PhraseLogit,
        layer: LayerLike | None = None,
        method: str | Method | None = None,
    ) -> CrossCheck:
        """The maps of `explain` beside those of Captum, which takes a pass for each word.

        Args:
            image: see `explain`, like all arguments.
            caption: see `explain`.
            words: see `explain`.
            beam: see `explain`.
            target: see `explain`.
            layer: one feature map.
            method: one that Captum has, see `multicam.crosscheck`.

        Raises:
            InputError: Captum does not have the method, or as for `explain`.
            LayerError: the layer cannot be used.
        """
        method = self.method if method is None else method
        with evaluating(self.model):
            asked = self._asked(image, caption, words, beam, target)
            found = cast("LayerLike", self._layer(layer, asked))
            ours = self._explained(asked, found, method)
            theirs = crosscheck(
                self.model,
                (asked.inputs, asked.tokens),
                asked.targets,
                layer=found,
                method=method,
                forward=Teacher(self._coder),
            )
        return replace(theirs, ours=ours.maps, labels=(asked.labels,))

    def concept(
        self, *alternatives: str, of: Callable[[int, Sequence[int]], Target] = ConceptLogit
    ) -> TargetOf:
        """For `explain(target=...)`: the word or any of its alternatives.

        Args:
            alternatives: words of the vocabulary; where one is made of pieces, its first
                piece counts.
            of: `ConceptLogit` or `ConceptLogProb`.

        Raises:
            InputError: a word is not in the vocabulary.
        """
        others = [self.vocabulary.encode(word)[0] for word in alternatives]

        def target(steps: Sequence[int], tokens: Sequence[int]) -> Target:
            return of(steps[0], sorted({tokens[0], *others}))

        return target

    def prepare(
        self, image: Images, /
    ) -> tuple[Float[Tensor, "1 channel height width"], tuple[Photo, ...]]:
        """The model's input for explaining a photo, and where on it the model looks."""
        return self._prepared(image, self.map_transform or self.transform)

    def _prepared(self, image: Images, transform: Transform) -> tuple[Tensor, tuple[Photo, ...]]:
        if isinstance(image, (list, tuple)):
            raise InputError(
                f"{len(image)} photos were given; each has a caption of its own, so give them "
                "one by one"
            )
        return prepare_batch(image, transform, self.model)

    @cached_property
    def _coder(self) -> EncoderDecoder:
        coder: Any = self.model if self.captioner is None else self.captioner
        if isinstance(coder, EncoderDecoder):
            return coder
        raise InputError(
            f"{type(coder).__name__} has no methods encode(images) and decode(features, tokens); "
            "give them to it, or pass an object that has them as captioner=..."
        )

    def _written(self, image: Images, beam: int) -> list[int]:
        if beam < 1:
            raise InputError(f"beam={beam}: give 1 (greedy) or more")
        inputs, _ = self._prepared(image, self.transform)
        with torch.no_grad():
            if self.generate is not None:
                return self.generate(inputs, beam, self.longest)
            unknown = self.vocabulary.unknown
            return beam_search(
                self._coder.decode,
                self._encoded(inputs),
                start=self.vocabulary.start,
                end=self.vocabulary.end,
                forbidden=() if unknown is None else (unknown,),
                beam=beam,
                longest=self.longest,
            )[0]

    def _encoded(self, inputs: Tensor) -> Any:
        features = self._coder.encode(inputs)
        tensors = [leaf for leaf in pytree.tree_leaves(features) if isinstance(leaf, Tensor)]
        if not any(tensor.ndim and len(tensor) == len(inputs) for tensor in tensors):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors) or "no tensor"
            raise InputError(
                f"encode gives features of shape {shapes} for a batch of {len(inputs)}; they need "
                "to be batch first"
            )
        return features

    def _explained(self, asked: _Asked, layer: Layers, method: str | Method) -> Explanation:
        return explain(
            self.model,
            (asked.inputs, asked.tokens),
            asked.targets,
            layer=layer,
            method=method,
            forward=Teacher(self._coder),
            vectorize=True,
        )

    def _layer(self, layer: Layers | None, asked: _Asked) -> Layers:
        if layer is not None:
            return layer
        if self.layer is not None:
            return self.layer
        target = asked.targets[-1]
        return last_layer(self.model, self._coder, asked.inputs, asked.tokens, target)

    def _asked(
        self,
        image: Images,
        caption: str | None,
        words: str | Sequence[str] | None,
        beam: int,
        target: TargetOf,
    ) -> _Asked:
        inputs, photos = self.prepare(image)
        said = self._written(image, beam) if caption is None else self._read(caption)
        if not said:
            raise InputError("the captioner says nothing about this photo; give caption='...'")
        phrases = phrases_of(self.vocabulary, said, words)
        steps = [phrase.steps for phrase in phrases]
        targets: list[Target] = [target(at, [said[step] for step in at]) for at in steps]
        if words is None:
            phrases.append(Phrase(self.vocabulary.spell(said).strip(), tuple(range(len(said)))))
            targets.append(CaptionLogProb(said))
        tokens = torch.tensor([[self.vocabulary.start, *said[:-1]]], device=inputs.device)
        return _Asked(
            inputs, photos, tokens, targets, distinct([phrase.text for phrase in phrases])
        )

    def _read(self, caption: str) -> list[int]:
        said = self.vocabulary.encode(caption)
        if len(said) > self.longest:
            raise InputError(
                f"the caption has {len(said)} tokens, and the captioner allows {self.longest}; "
                "shorten it"
            )
        return said


@dataclass(frozen=True)
class _Asked:
    """What is to be explained.

    Attributes:
        inputs: what the encoder is given.
        photos: the photo, and where on it the model looks.
        tokens: what the decoder is given.
        targets: of its logits.
        labels: one for each target.
    """

    inputs: Float[Tensor, "1 channel height width"]
    photos: tuple[Photo, ...]
    tokens: Int[Tensor, "1 step"]
    targets: list[Target]
    labels: tuple[str, ...]
