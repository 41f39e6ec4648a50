"""Which places in a photo speak for the answer to a question, and which words of the question."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from multicam.crosscheck import CrossCheck, crosscheck
from multicam.errors import InputError
from multicam.explainer import LayerLike, explain
from multicam.explanation import Explanation
from multicam.forward import Forward
from multicam.geometry import Photo
from multicam.layers import Layer
from multicam.methods import Method
from multicam.preprocessing import Transform
from multicam.targets import evaluate, settled
from multicam.tasks import backbone
from multicam.tasks.answerer import LAYER, LONGEST, METHOD, pretrained
from multicam.tasks.answers import Answering, AnswerList, Posed
from multicam.tasks.base import Images, Layers, evaluating, prepare_batch
from multicam.tasks.questions import Question, Reader
from multicam.words import WordContributions, embedding_of, word_contributions

MAP_SIZE = 448
"""Pixels a side of the bundled model's input for explaining: maps of 14 x 14 places.

Questions are answered at 224 pixels, the size of the training; maps of 7 x 7 places point
beside what is asked about.
"""


class UnknownWordWarning(UserWarning):
    """A question holds a word that the model has never seen."""


def load(name: str | None = None) -> VisualQuestionAnswering:
    """A model that answers questions, ready to explain.

    Args:
        name: None for the bundled CNN-LSTM, which needs the extra `models` and no
            network; else `hf:NAME_OR_FOLDER`, a Hugging Face model (ViLT, or BLIP for
            question answering).

    Returns:
        The model on the CPU, in eval mode.

    Raises:
        InputError: no such model, or it cannot be loaded.
        MissingExtraError: timm or the bundled weights are not installed.
    """
    if name is None:
        model, tokenizer, answers = pretrained()
        reader = Reader(tokenizer, unknown=1, longest=LONGEST)
        closer = partial(backbone.squeeze, size=MAP_SIZE)
        return VisualQuestionAnswering(
            model,
            backbone.squeeze,
            reader,
            answers,
            map_transform=closer,
            layer=LAYER,
            method=METHOD,
        )
    kind, _, rest = name.partition(":")
    if kind != "hf" or not rest:
        raise InputError(
            f"no model for questions is called {name!r}; give hf:NAME_OR_FOLDER, or leave it out"
        )
    from multicam.tasks.huggingface_vqa import hugging_face

    return hugging_face(rest)


@final
@dataclass(frozen=True, eq=False, repr=False)
class VisualQuestionAnswering:
    """A model that answers questions about photos, with its preprocessing and vocabulary.

    The model always runs in eval mode here, and comes back in the mode it was in.

    Args:
        model: from images (batch, channel, height, width) and tokens (batch, token), the
            shorter questions padded, to logits (batch, answers) or an output with them.
        transform: from an RGB photo to (channel, height, width), not random.
        reader: its vocabulary of questions; see `Reader.of_words` for a plain list.
        answers: what it can say, in the order of the logits; or an `Answering`.
        map_transform: the same for explaining, where a larger input than that for answering
            gives finer maps; the model needs to take both sizes. Its own answers and the
            notes beside them are those for `transform`.
        embedding: name of the layer that embeds the tokens; None has it found.
        layer: the feature map to use where `explain` is given none.
        method: the method to use where `explain` is given none.

    Example:
        >>> from multicam.tasks import vqa
        >>> task = vqa.load()                                              # doctest: +SKIP
        >>> task.explain("dog.jpg", "what is the dog holding?").labels     # doctest: +SKIP
        (('frisbee', 'ball', 'stick'),)
    """

    model: nn.Module
    transform: Transform
    reader: Reader
    answers: Sequence[str] | Answering
    map_transform: Transform | None = field(default=None, kw_only=True)
    embedding: str | None = field(default=None, kw_only=True)
    layer: LayerLike | None = field(default=None, kw_only=True)
    method: str | Method = field(default="gradcam", kw_only=True)

    def __repr__(self) -> str:
        """One line; a model's own repr fills pages."""
        known = self._answering
        count = f"{len(known.names)} answers" if isinstance(known, AnswerList) else "any answer"
        layer = f", layer={self.layer!r}" if self.layer is not None else ""
        return f"VisualQuestionAnswering({type(self.model).__name__}, {count}{layer})"

    def answer(self, image: Images, /, question: str) -> str:
        """What the model answers.

        Args:
            image: path, bytes, PIL image, array or tensor.
            question: in words.

        Raises:
            InputError: the image cannot be read, or the question is empty or too long.
        """
        with evaluating(self.model), torch.no_grad():
            posed, _ = self._posed(self._asked(image, question, None, 1, None), self.transform)
            output = Forward(self.model, posed.inputs, posed.forward)()
            return evaluate(posed.targets[0], output, 1).labels[0]

    def explain(
        self,
        image: Images,
        /,
        question: str | Sequence[str],
        answers: str | Sequence[str] | None = None,
        top: int = 3,
        *,
        contrast: tuple[str, str] | None = None,
        layer: Layers | None = None,
        method: str | Method | None = None,
    ) -> Explanation:
        """Explain answers, all from one pass of the model.

        With a `map_transform`, one more pass before it reads them at the model's own size.

        Args:
            image: one photo, or a list of them, each with a question of its own.
            question: in words; several may be asked about one photo.
            answers: one answer or several, the same for every question. None explains what
                the model would say, the best first.
            top: how many of these, at most as many as there are answers.
            contrast: two answers; a last map shows what speaks for the first rather than
                for the second.
            layer: the feature map, or a list to fuse; None takes the task's own, or else
                the last one that the answers depend on.
            method: as for `multicam.explain`; None takes the task's own.

        Returns:
            One map for each question and answer, labelled by the answer, with the photos.

        Raises:
            InputError: an image cannot be read, a question is empty or too long, or an
                answer is not among those of the model.
            LayerError: the layer cannot be used.

        Warns:
            UnknownWordWarning: the model has never seen a word of a question.
        """
        with evaluating(self.model):
            asked = self._asked(image, question, answers, top, contrast)
            posed, photos = self._for_maps(asked)
            explanation = explain(
                self.model,
                posed.inputs,
                posed.targets,
                layer=self._layer(layer, posed),
                method=self.method if method is None else method,
                forward=posed.forward,
                vectorize=True,
            )
        return replace(explanation, photos=photos)

    def words(
        self,
        image: Images,
        /,
        question: str,
        answers: str | Sequence[str] | None = None,
        top: int = 3,
        *,
        contrast: tuple[str, str] | None = None,
        method: str = "gradient x input",
    ) -> WordContributions:
        """How much each word of the question contributed to answers, by Captum.

        Args:
            image: one photo.
            question: in words.
            answers: see `explain`.
            top: see `explain`.
            contrast: see `explain`.
            method: "gradient x input", or "integrated gradients" (50 passes an answer).

        Returns:
            For each answer a signed contribution of each word, in the order of `explain`.

        Raises:
            InputError: as for `explain`, or the layer that embeds the words is not found.
        """
        with evaluating(self.model):
            asked = self._asked(image, question, answers, top, contrast)
            posed, _ = self._posed(asked, self.transform)
            read = asked.questions[0]
            return word_contributions(
                self.model,
                posed.inputs,
                posed.targets,
                [(word.text, word.places) for word in read.words],
                embedding=self._embedding(read, posed),
                forward=posed.forward,
                method=method,
            )

    def crosscheck(
        self,
        image: Images,
        /,
        question: str | Sequence[str],
        answers: str | Sequence[str] | None = None,
        top: int = 3,
        *,
        contrast: tuple[str, str] | None = None,
        layer: LayerLike | None = None,
        method: str | Method | None = None,
    ) -> CrossCheck:
        """The maps of `explain` beside those of Captum, which takes a pass for each answer.

        Args:
            image: see `explain`, like all arguments.
            question: see `explain`.
            answers: see `explain`.
            top: see `explain`.
            contrast: see `explain`.
            layer: one feature map.
            method: one that Captum has, see `multicam.crosscheck`.

        Raises:
            InputError: Captum does not have the method, or as for `explain`.
            LayerError: the layer cannot be used.
        """
        method = self.method if method is None else method
        asked = (image, question, answers, top)
        ours = self.explain(*asked, contrast=contrast, layer=layer, method=method)
        with evaluating(self.model):
            posed, _ = self._for_maps(self._asked(*asked, contrast))
            used = cast("LayerLike", self._layer(layer, posed)) or ours.layer
            given = (self.model, posed.inputs, posed.targets)
            theirs = crosscheck(*given, layer=used, method=method, forward=posed.forward)
        return replace(theirs, ours=ours.maps)

    def prepare(
        self, images: Images, /
    ) -> tuple[Float[Tensor, "batch channel height width"], tuple[Photo, ...]]:
        """The model's input for explaining photos, and where on them it looks."""
        return prepare_batch(images, self.map_transform or self.transform, self.model)

    @cached_property
    def _answering(self) -> Answering:
        if isinstance(self.answers, (list, tuple)):
            return AnswerList(tuple(self.answers))
        return cast("Answering", self.answers)

    def _layer(self, layer: Layers | None, posed: Posed) -> Layers | None:
        given = self.layer if layer is None else layer
        if given is None:
            return posed.layer
        if isinstance(given, (list, tuple)):
            return [_laid_out(one, posed) for one in given]
        return _laid_out(cast("LayerLike", given), posed)

    def _asked(
        self,
        image: Images,
        question: str | Sequence[str],
        answers: str | Sequence[str] | None,
        top: int,
        contrast: tuple[str, str] | None,
    ) -> _Asked:
        questions = [self.reader.read(one) for one in _listed(question)]
        _warn_of_unknown(questions)
        wanted = None if answers is None else _distinct(_listed(answers))
        if top < 1:
            raise InputError(f"top={top} asks for no answer; give 1 or more")
        if contrast is not None:
            _distinct(list(contrast))
        return _Asked(image, questions, wanted, top, contrast)

    def _for_maps(self, asked: _Asked) -> tuple[Posed, tuple[Photo, ...]]:
        """At the size for maps, with the answers that the model gives at its own."""
        if self.map_transform is None:
            return self._posed(asked, self.transform)
        said, _ = self._posed(asked, self.transform)
        with torch.no_grad():
            output = Forward(self.model, said.inputs, said.forward)()
        posed, photos = self._posed(asked, self.map_transform)
        return replace(posed, targets=[settled(one, output) for one in said.targets]), photos

    def _posed(self, asked: _Asked, transform: Transform) -> tuple[Posed, tuple[Photo, ...]]:
        images, photos = prepare_batch(asked.image, transform, self.model)
        count = len(asked.questions)
        if count > 1 == len(images):
            images, photos = images.expand(count, -1, -1, -1), photos * count
        if len(images) != count:
            raise InputError(
                f"{len(images)} photos and {count} questions were given; give a question for "
                "each photo, or several about one"
            )
        tokens = self._tokens(asked.questions)
        given = (asked.answers, asked.top, asked.contrast)
        return self._answering.pose(images, tokens, *given), photos

    def _embedding(self, asked: Question, posed: Posed) -> nn.Module:
        if self.embedding is not None:
            return self.model.get_submodule(self.embedding)
        return embedding_of(self.model, posed.inputs, self._tokens([asked]), posed.forward)

    def _tokens(self, asked: Sequence[Question]) -> Tensor:
        device = next((one.device for one in self.model.parameters()), None)
        return self.reader.padded(asked).to(device)


@dataclass(frozen=True)
class _Asked:
    """What was asked for, read and checked."""

    image: Images
    questions: list[Question]
    answers: list[str] | None
    top: int
    contrast: tuple[str, str] | None


def _laid_out(layer: LayerLike, posed: Posed) -> LayerLike:
    """A layer with nothing said of its layout is laid out as the one that fits the inputs."""
    reshape = posed.layer.reshape if isinstance(posed.layer, Layer) else None
    known = layer if isinstance(layer, Layer) else Layer(layer)
    return layer if reshape is None or known.reshape else replace(known, reshape=reshape)


def _listed(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


def _distinct(answers: list[str]) -> list[str]:
    if not answers:
        raise InputError("the list of answers is empty; leave it out for those of the model")
    seen = set()
    for answer in answers:
        if answer.lower().strip() in seen:
            raise InputError(f"the answer {answer!r} is given twice; give each once")
        seen.add(answer.lower().strip())
    return answers


def _warn_of_unknown(asked: Sequence[Question]) -> None:
    unknown = dict.fromkeys(word for question in asked for word in question.unknown)
    if unknown:
        listed = ", ".join(map(repr, unknown))
        message = f"the model has never seen {listed}, and answers without knowing what it means"
        warnings.warn(message, UnknownWordWarning, stacklevel=4)
