"""Explaining the words of captions."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from captioners import Attentive, Pooled, transform, vocabulary
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from multicam import (
    ConceptLogProb,
    InputError,
    LayerError,
    PhraseLogit,
    PhraseLogProb,
    TargetError,
    TokenLogit,
    explain,
)
from multicam.crosscheck import COMPARABLE
from multicam.tasks import backbone, captioning
from multicam.tasks.captioning import Captioning, TargetOf
from multicam.tasks.teacher import EncoderDecoder, Teacher

CAPTION = "a brown dog runs on a brown grass"
KINDS = [Pooled, Attentive]
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))


def task_of(kind: type[nn.Module] = Pooled, **options: Any) -> Captioning:
    torch.manual_seed(2)
    settings: dict[str, Any] = {"layer": "cnn.3"} | options
    return Captioning(kind().eval(), transform, vocabulary, **settings)


def teacher(task: Captioning) -> Teacher:
    return Teacher(cast("EncoderDecoder", cast("Any", task.model)))


@pytest.fixture(scope="module")
def bundled() -> Captioning:
    return captioning.load()


def test_every_word_has_a_map_and_last_the_whole_caption() -> None:
    explanation = task_of().explain(PHOTO, "A brown dog runs!", target=PhraseLogProb)
    assert explanation.labels == (("a", "brown", "dog", "runs", "a brown dog runs"),)
    assert explanation.maps.shape == (1, 5, 6, 8)
    assert explanation.photos[0].image.size == PHOTO.size
    words, whole = explanation.scores[0, :4], explanation.scores[0, 4]
    assert whole.item() == pytest.approx(words.sum().item(), rel=1e-5)
    assert torch.allclose(explanation.maps[0, :4].sum(dim=0), explanation.maps[0, 4], atol=1e-7)


def test_a_word_is_explained_by_its_logit_and_noted_with_its_probability() -> None:
    task = task_of()
    said = vocabulary.encode(CAPTION)
    inputs, _ = task.prepare(PHOTO)
    logits = teacher(task)(inputs, torch.tensor([[vocabulary.start, *said[:-1]]]))[0]
    explanation = task.explain(PHOTO, CAPTION)
    for step, token in enumerate(said):
        assert explanation.scores[0, step].item() == pytest.approx(logits[step, token].item())
        probability = logits[step].softmax(dim=0)[token].item()
        assert explanation.notes[0][step] == f"p = {probability:.2g}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", ["cnn.0", "cnn.3", "cnn"])
def test_all_words_at_once_are_as_one_by_one(kind: type[nn.Module], layer: str) -> None:
    task = task_of(kind)
    together = task.explain(PHOTO, CAPTION, layer=layer)
    inputs, _ = task.prepare(PHOTO)
    said = vocabulary.encode(CAPTION)
    given = (inputs, torch.tensor([[vocabulary.start, *said[:-1]]]))
    for step, token in enumerate(said):
        alone = explain(
            task.model,
            given,
            TokenLogit(step, token),
            layer=layer,
            forward=teacher(task),
        )
        assert together.scores[0, step].item() == pytest.approx(alone.scores.item(), rel=1e-5)
        peak = alone.maps.abs().max()
        assert (together.maps[0, step] - alone.maps[0, 0]).abs().max() <= 1e-5 * peak


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", ["cnn.0", "cnn.1", "cnn"])
def test_each_word_agrees_with_captum(kind: type[nn.Module], layer: str) -> None:
    checked = task_of(kind).crosscheck(PHOTO, CAPTION, layer=layer)
    assert checked.ours.shape == (1, 9, *checked.captum.shape[2:])
    assert checked.max_rel <= 1e-5
    assert checked.captum.abs().amax(dim=(2, 3)).min() > 0


def test_the_encoder_runs_once_for_all_words() -> None:
    task = task_of()
    calls = []
    task.model.get_submodule("cnn.0").register_forward_hook(lambda *_: calls.append(1))
    task.explain(PHOTO, CAPTION)
    assert len(calls) == 1


def test_a_word_does_not_depend_on_those_after_it() -> None:
    task = task_of(Attentive)
    short = task.explain(PHOTO, "a brown dog")
    long = task.explain(PHOTO, "a brown dog runs on grass")
    assert torch.allclose(short.maps[0, :3], long.maps[0, :3], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("target", [PhraseLogit, PhraseLogProb])
def test_a_phrase_adds_up_the_scores_of_its_words(target: TargetOf) -> None:
    task = task_of()
    words = task.explain(PHOTO, CAPTION, target=target)
    phrase = task.explain(PHOTO, CAPTION, words=["dog runs"], target=target)
    assert phrase.labels == (("dog runs",),)
    assert torch.allclose(phrase.scores[0, 0], words.scores[0, 2:4].sum())
    assert torch.allclose(phrase.maps[0, 0], words.maps[0, 2:4].sum(dim=0), atol=1e-7)


def test_a_phrase_that_occurs_twice_is_explained_twice() -> None:
    explanation = task_of().explain(PHOTO, CAPTION, words=["a Brown", "runs"])
    assert explanation.labels == (("a Brown", "a Brown (2)", "runs"),)
    assert not torch.allclose(explanation.maps[0, 0], explanation.maps[0, 1])


def test_a_single_word_may_be_given_as_a_string() -> None:
    assert task_of().explain(PHOTO, CAPTION, "dog").labels == (("dog",),)


def test_the_target_is_a_choice() -> None:
    task = task_of()
    logit = task.explain(PHOTO, CAPTION, "dog")
    log_prob = task.explain(PHOTO, CAPTION, "dog", target=PhraseLogProb)
    assert not torch.allclose(log_prob.maps, logit.maps)
    doubled = task.explain(
        PHOTO,
        CAPTION,
        "dog",
        target=lambda steps, tokens: lambda out: 2 * PhraseLogProb(steps, tokens)(out),
    )
    assert torch.allclose(doubled.maps, 2 * log_prob.maps)


def test_a_concept_counts_its_alternatives() -> None:
    task = task_of()
    man = task.explain(PHOTO, "a man runs", "man")
    person = task.explain(PHOTO, "a man runs", "man", target=task.concept("woman", "man"))
    woman = task.explain(PHOTO, "a woman runs", "woman")
    total = man.scores.exp() + woman.scores.exp()
    assert torch.allclose(person.scores.exp(), total)
    share = task.concept("woman", of=ConceptLogProb)
    log_prob = task.explain(PHOTO, "a man runs", "man", target=share)
    assert log_prob.notes == person.notes
    assert log_prob.notes[0][0] == f"p = {log_prob.scores.exp().item():.2g}"
    with pytest.raises(InputError, match="the word 'child' is not in"):
        task.concept("child")


def test_the_caption_is_written_by_beam_search_where_none_is_given() -> None:
    task = task_of(Attentive, longest=6)
    said = task.caption(PHOTO, beam=3)
    assert 0 < len(said.split()) <= 6
    assert task.explain(PHOTO, beam=3).labels[0][-1] == said
    greedy = task.caption(PHOTO, beam=1).split()
    inputs, _ = task.prepare(PHOTO)
    first = teacher(task)(inputs, torch.tensor([[vocabulary.start]]))[0, 0]
    first[[vocabulary.start, 2]] = -torch.inf
    assert vocabulary.spell([int(first.argmax())]) == greedy[0]


def test_a_models_own_generation_is_used() -> None:
    def generate(images: Tensor, beam: int, longest: int) -> list[int]:
        assert images.shape == (1, 3, 24, 32)
        return vocabulary.encode("a man on grass")[:longest]

    task = task_of(generate=generate)
    assert task.caption(PHOTO) == "a man on grass"


def test_the_layer_is_found_where_none_is_named() -> None:
    explanation = task_of(layer=None).explain(PHOTO, "a dog")
    assert explanation.layer == "cnn"
    assert task_of(layer=None).crosscheck(PHOTO, "a dog").max_rel <= 1e-5


def test_layers_are_fused() -> None:
    fused = task_of().explain(PHOTO, "a dog", layer=["cnn.0", "cnn.3"])
    assert fused.layer == "cnn.0 + cnn.3"
    assert fused.maps.shape == (1, 3, 12, 16)


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("words", [None, ["cat"]])
def test_the_model_comes_back_as_it_was(mode: bool, words: list[str] | None) -> None:
    task = task_of(Attentive)
    task.model.train(mode).requires_grad_(False)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    hooks = sum(len(module._forward_hooks) for module in task.model.modules())
    if words is None:
        task.explain(PHOTO, CAPTION)
    else:
        with pytest.raises(InputError):
            task.explain(PHOTO, CAPTION, words)
    after = task.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(module.training is mode for module in task.model.modules())
    assert all(parameter.grad is None for parameter in task.model.parameters())
    assert sum(len(module._forward_hooks) for module in task.model.modules()) == hooks


def test_it_works_in_inference_mode() -> None:
    task = task_of()
    outside = task.explain(PHOTO, CAPTION)
    with torch.inference_mode():
        inside = task.explain(PHOTO, CAPTION)
    assert torch.equal(inside.maps, outside.maps)


class Apart:
    """Encodes and decodes for a network that has no such methods."""

    def __init__(self, network: Pooled) -> None:
        self.network = network

    def encode(self, images: Tensor) -> Tensor:
        return self.network.encode(images)

    def decode(self, features: Tensor, tokens: Tensor) -> Tensor:
        return self.network.decode(features, tokens)


def test_encode_and_decode_may_stand_beside_the_model() -> None:
    task = task_of()
    network = cast("Pooled", task.model)
    apart = Captioning(network, transform, vocabulary, captioner=Apart(network), layer="cnn.3")
    assert torch.equal(apart.explain(PHOTO, "a dog").maps, task.explain(PHOTO, "a dog").maps)


def test_a_model_that_cannot_encode_is_refused() -> None:
    with pytest.raises(InputError, match="Linear has no methods encode"):
        Captioning(nn.Linear(2, 2), transform, vocabulary)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a dgo runs",), "the word 'dgo' is not in .* the nearest are: dog"),
        (("",), "the caption '' holds no word"),
        (("a " * 21,), "the caption has 21 tokens, and the captioner allows 20"),
        ((CAPTION, ["red dog"]), "'red dog' is not in the caption 'a brown dog runs on a brown"),
        ((CAPTION, ["dog", " "]), "' ' is not in the caption"),
        ((CAPTION, []), "the list of words is empty"),
    ],
)
def test_words_that_cannot_be_explained_are_refused(
    arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        task_of().explain(PHOTO, *arguments)


def test_a_beam_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"beam=0: give 1 \(greedy\) or more"):
        task_of().explain(PHOTO, beam=0)


def test_several_photos_are_refused() -> None:
    with pytest.raises(InputError, match="2 photos were given"):
        task_of().explain([PHOTO, PHOTO])


def test_an_image_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("no photo")
    with pytest.raises(InputError, match=r"photo\.jpg"):
        task_of().explain(tmp_path / "photo.jpg", CAPTION)


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(LayerError, match=r"no layer is called 'cnn\.9'"):
        task_of().explain(PHOTO, CAPTION, layer="cnn.9")


def test_a_target_that_is_no_number_is_refused() -> None:
    with pytest.raises(TargetError, match="cannot be differentiated"):
        task_of().explain(
            PHOTO, CAPTION, target=lambda steps, tokens: lambda out: out.argmax(dim=2)[:, 0]
        )


class PlacesFirst(Pooled):
    """Its features are (place, batch, channel)."""

    def encode(self, images: Tensor) -> Tensor:
        return super().encode(images).expand(5, len(images), -1)


def test_features_that_are_not_batch_first_are_refused() -> None:
    with pytest.raises(InputError, match=r"features of shape \(5, 1, 10\) for a batch of 1"):
        task_of(PlacesFirst).caption(PHOTO)


def test_only_known_names_are_loaded() -> None:
    with pytest.raises(InputError, match="no captioner is called 'blip'; give hf:NAME_OR_FOLDER"):
        captioning.load("blip")


def test_the_bundled_captioner_writes_english(bundled: Captioning) -> None:
    photo = (files("multicam") / "photos" / "astronaut.jpg").read_bytes()
    caption = bundled.caption(photo)
    assert 4 <= len(caption.split()) <= 20
    assert caption.split()[0] in {"a", "the", "two", "people"}
    assert {"man", "woman", "person"} & set(caption.split())


@pytest.mark.parametrize("method", [None, *COMPARABLE])
def test_the_bundled_captioner_agrees_with_captum(bundled: Captioning, method: str | None) -> None:
    photo = (files("multicam") / "photos" / "astronaut.jpg").read_bytes()
    checked = bundled.crosscheck(photo, "a man in an orange shirt smiles", method=method)
    assert checked.layer == "decoder.places"
    assert checked.ours.shape == (1, 8, 14, 14)
    assert checked.max_rel <= 1e-5


def test_the_bundled_decoders_read_a_convolution_of_the_last_feature_map() -> None:
    places = backbone.Places(hidden=5)
    features = torch.rand(2, backbone.CHANNELS, 3, 4)
    kernel = places.weight.reshape(5, backbone.CHANNELS, 1, 1)
    expected = F.conv2d(features, kernel, places.bias).relu()
    assert expected.any()
    assert torch.allclose(places(features), expected, atol=1e-6)


def test_a_captioner_has_a_method_of_its_own(bundled: Captioning) -> None:
    assert task_of().explain(PHOTO, "a dog").method == "gradcam"
    task = task_of(method="layercam")
    assert task.explain(PHOTO, "a dog").method == "layercam"
    assert task.explain(PHOTO, "a dog", method="xgradcam").method == "xgradcam"
    assert bundled.explain(PHOTO, "a dog").method == "hirescam"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="cuDNN's LSTM needs a GPU")
def test_cudnn_in_eval_mode_is_no_hindrance() -> None:
    task = task_of()
    expected = task.explain(PHOTO, CAPTION).maps
    task.model.cuda()
    found = task.explain(PHOTO, CAPTION).maps.cpu()
    assert torch.allclose(found, expected, atol=1e-3 * expected.abs().max().item())
