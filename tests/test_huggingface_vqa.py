from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForQuestionAnswering,
    BlipImageProcessor,
    CanineTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ViltConfig,
    ViltForMaskedLM,
    ViltForQuestionAnswering,
    ViltImageProcessor,
)

from multicam import InputError, Layer, token_grid
from multicam.tasks import vqa
from multicam.tasks.answers import AnswerList, Posed
from multicam.tasks.huggingface_vqa import Blip, Vilt, task_of
from multicam.tasks.vqa import VisualQuestionAnswering
from multicam.words import METHODS

PIECES = [
    *("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[DEC]"),
    *("what", "is", "the", "dog", "hold", "##ing", "color", "cat", "?"),
    *("a", "red", "ball", "fris", "##bee"),
]
ANSWERS = ["yes", "no", "frisbee", "ball", "red"]
QUESTION = "What is the dog holding?"
SHORTER = "what color"
QUESTIONS = [QUESTION, SHORTER, "is the cat a dog"]
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.3,
}
TEXT: dict[str, Any] = {
    **SIZES,
    "vocab_size": len(PIECES),
    "pad_token_id": 0,
    "max_position_embeddings": 14,
}
PHOTO: dict[str, Any] = {"image_size": 32, "patch_size": 8}


def tokenizer() -> PreTrainedTokenizerFast:
    """Lower-case words, some of them in two pieces, between two special tokens."""
    tokens = {piece: token for token, piece in enumerate(PIECES)}
    pieces = Tokenizer(models.WordPiece(tokens, unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer()
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.decoder = decoders.WordPiece()
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    special = {name: f"[{name[:3].upper()}]" for name in ("pad_token", "cls_token", "sep_token")}
    return PreTrainedTokenizerFast(tokenizer_object=pieces, unk_token="[UNK]", **special)


def vilt() -> PreTrainedModel:
    names = dict(enumerate(ANSWERS))
    model = ViltForQuestionAnswering(ViltConfig(**TEXT, **PHOTO, id2label=names))
    embeddings: Any = model.vilt.embeddings
    for zeros in (embeddings.position_embeddings, embeddings.cls_token):
        nn.init.normal_(zeros, std=0.5)
    return model


def blip_config() -> BlipConfig:
    text = {**TEXT, "bos_token_id": 4, "eos_token_id": 2, "sep_token_id": 2}
    return BlipConfig(text_config=text, vision_config={**SIZES, **PHOTO})


def blip() -> PreTrainedModel:
    return BlipForQuestionAnswering(blip_config())


MODELS: dict[str, Callable[[], PreTrainedModel]] = {"vilt": vilt, "blip": blip}
STEPS: dict[str, Any] = {"size": {"shortest_edge": 32}, "size_divisor": 8}
PROCESSORS: dict[str, Any] = {
    "vilt": ViltImageProcessor(**STEPS),
    "blip": BlipImageProcessor(size={"height": 32, "width": 32}),
}
LAYERS = {
    "vilt": "vilt.embeddings.patch_embeddings.projection",
    "blip": "vision_model.encoder.layers.0.layer_norm2",
}
"""Each near the beginning of what sees the photo."""
OWN_LAYERS = {"vilt": "vilt.encoder.layer.2.layernorm_before", "blip": "vision_model"}
GRIDS = {"vilt": (4, 6), "blip": (4, 4)}
"""Of a photo three wide and two high."""


@pytest.fixture(params=MODELS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each model in a folder, with its processor and its tokenizer."""
    return {kind: saved(kind, tmp_path_factory.mktemp(kind)) for kind in MODELS}


@pytest.fixture
def task(kind: str, folders: dict[str, Path]) -> VisualQuestionAnswering:
    return vqa.load(f"hf:{folders[kind]}")


@pytest.fixture
def vilt_task(folders: dict[str, Path]) -> VisualQuestionAnswering:
    return vqa.load(f"hf:{folders['vilt']}")


@pytest.fixture
def blip_task(folders: dict[str, Path]) -> VisualQuestionAnswering:
    return vqa.load(f"hf:{folders['blip']}")


def saved(kind: str, folder: Path) -> Path:
    torch.manual_seed(0)
    MODELS[kind]().save_pretrained(folder)
    PROCESSORS[kind].save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def tokens_of(task: VisualQuestionAnswering, *questions: str) -> Tensor:
    return task.reader.padded([task.reader.read(question) for question in questions])


def posed(task: VisualQuestionAnswering, images: Tensor, tokens: Tensor) -> Posed:
    answering: Any = task.answers
    found: Posed = answering.pose(images, tokens, ["frisbee", "ball"], 3, None)
    return found


# The scores


def test_the_logits_are_those_of_the_model_itself(vilt_task: VisualQuestionAnswering) -> None:
    model: Any = vilt_task.model
    images, tokens = torch.randn(3, 3, 32, 48), tokens_of(vilt_task, *QUESTIONS)
    known = (tokens != 0).long()
    with torch.no_grad():
        logits = Vilt(model, 0).logits(images, tokens)
        own = model(input_ids=tokens, attention_mask=known, pixel_values=images).logits
    torch.testing.assert_close(logits, own)
    assert (logits - logits[0]).abs().amax(dim=1)[1:].min() > 0.01


def test_all_patches_are_read_where_the_model_would_draw_some(
    vilt_task: VisualQuestionAnswering,
) -> None:
    model: Any = vilt_task.model
    images, tokens = torch.randn(1, 3, 32, 48), tokens_of(vilt_task, QUESTION)
    with torch.no_grad():
        whole = Vilt(model, 0).logits(images, tokens)
        model.config.max_image_length = 5
        torch.testing.assert_close(Vilt(model, 0).logits(images, tokens), whole)
        drawn = model(input_ids=tokens, pixel_values=images).logits
    assert (drawn - whole).abs().max() > 0.01


def test_an_answer_scores_as_the_model_was_trained(blip_task: VisualQuestionAnswering) -> None:
    model: Any = blip_task.model
    images, tokens = torch.randn(1, 3, 32, 32), tokens_of(blip_task, QUESTION)
    answering = Blip(model, blip_task.reader)
    texts = [answering.encode(answer) for answer in ("a red frisbee", "ball", "Dog holding a cat")]
    assert [len(text) for text in texts] == [4, 1, 5]
    with torch.no_grad():
        scores = answering.log_probs([texts], images, tokens)[0]
        for text, score in zip(texts, scores, strict=True):
            labels = torch.tensor([[4, *text, 2]])
            loss = model(input_ids=tokens, pixel_values=images, labels=labels).loss
            torch.testing.assert_close(score, -loss * (len(text) + 1))


@pytest.mark.parametrize(("top", "end"), [(1, 1.0), (5, 2.0)])
def test_answers_of_the_model_are_those_that_its_own_search_finds(
    blip_task: VisualQuestionAnswering, photos: dict[str, Path], top: int, end: float
) -> None:
    """The larger the bias of the end token, the shorter the answers."""
    model: Any = blip_task.model
    with torch.no_grad():
        model.text_decoder.cls.predictions.decoder.bias[2] += end
    images, _ = blip_task.prepare(photos["cat"])
    rows = model.generate(
        input_ids=tokens_of(blip_task, QUESTION),
        pixel_values=images,
        num_beams=max(3, top),
        num_return_sequences=top,
        length_penalty=0.0,
        min_new_tokens=1,
        max_new_tokens=10,
    )
    texts = [blip_task.reader.tokenizer.decode(row) for row in rows[:, 1:].tolist()]
    found = blip_task.explain(photos["cat"], QUESTION, top=top)
    assert [text.split(" [SEP]")[0] for text in texts] == list(found.labels[0])
    assert top == 1 or len({len(text.split()) for text in found.labels[0]}) > 1
    assert all(better >= worse for better, worse in pairwise(found.scores[0].tolist()))


def test_answers_of_the_model_score_as_when_they_are_given(
    blip_task: VisualQuestionAnswering, photos: dict[str, Path]
) -> None:
    found = blip_task.explain(photos["cat"], QUESTION, top=4)
    assert all(better > worse for better, worse in pairwise(found.scores[0].tolist()))
    scores = dict(zip(found.labels[0], found.scores[0], strict=True))
    plain = [label for label in scores if "[" not in label]
    given = blip_task.explain(photos["cat"], QUESTION, plain)
    assert plain
    torch.testing.assert_close(given.scores[0], torch.stack([scores[label] for label in plain]))


# Loaded from a folder


def test_a_folder_gives_the_model_with_its_reader(
    kind: str, task: VisualQuestionAnswering, folders: dict[str, Path]
) -> None:
    model = type(task.model).from_pretrained(folders[kind])  # type: ignore[attr-defined]
    torch.testing.assert_close(task.model.state_dict(), model.state_dict())
    assert not any(module.training for module in task.model.modules())
    assert list(task.reader.read(QUESTION).tokens) == tokenizer()(QUESTION).input_ids
    with pytest.raises(InputError, match=r"has 22 tokens, and the model reads 14"):
        task.reader.read("dog " * 20)


def test_a_loaded_model_gives_the_task_that_its_name_gives(
    kind: str, task: VisualQuestionAnswering, photos: dict[str, Path]
) -> None:
    same = task_of(task.model, PROCESSORS[kind], tokenizer())
    ours, named = (one.explain(photos["cat"], QUESTION) for one in (same, task))
    torch.testing.assert_close(ours.maps, named.maps)
    assert ours.labels == named.labels


def test_questions_are_neither_cut_nor_padded() -> None:
    words = tokenizer()
    words.backend_tokenizer.enable_truncation(4)
    words.backend_tokenizer.enable_padding(length=12)
    task = task_of(vilt(), PROCESSORS["vilt"], words)
    assert len(task.reader.read(QUESTION).tokens) == 9
    assert words.backend_tokenizer.truncation is not None


def test_answers_are_those_of_the_list_or_any(kind: str, task: VisualQuestionAnswering) -> None:
    if kind == "vilt":
        assert isinstance(task.answers, AnswerList)
        assert task.answers.names == tuple(ANSWERS)
    assert (
        repr(task)
        == {
            "vilt": "VisualQuestionAnswering(ViltForQuestionAnswering, 5 answers)",
            "blip": "VisualQuestionAnswering(BlipForQuestionAnswering, any answer)",
        }[kind]
    )


# Maps


def test_every_answer_has_the_map_of_captum(
    kind: str, task: VisualQuestionAnswering, photos: dict[str, Path]
) -> None:
    for layer in (None, LAYERS[kind]):
        for answers in (None, ["ball", "frisbee"]):
            check = task.crosscheck(
                photos["coffee"], QUESTIONS[:2], answers, 2, contrast=("red", "ball"), layer=layer
            )
            assert check.layer == (layer or OWN_LAYERS[kind])
            assert check.ours.shape == (2, 3, *GRIDS[kind])
            assert check.ours.abs().flatten(2).amax(dim=2).min() > 0
            assert check.max_rel <= 1e-5


def test_questions_of_different_length_have_the_maps_that_each_has_alone(
    kind: str, task: VisualQuestionAnswering, photos: dict[str, Path]
) -> None:
    for answers in (None, ["frisbee", "red"]):
        together = task.explain(photos["coffee"], QUESTIONS, answers)
        peak = together.maps.abs().max().item()
        assert (together.maps[0] - together.maps[1]).abs().max() > 1e-2 * peak
        for place, question in enumerate(QUESTIONS):
            alone = task.explain(photos["coffee"], question, answers)
            assert alone.labels[0] == together.labels[place]
            torch.testing.assert_close(alone.scores[0], together.scores[place])
            torch.testing.assert_close(
                alone.maps[0], together.maps[place], rtol=0, atol=1e-4 * peak
            )


def test_several_photos_have_a_question_each(
    kind: str, task: VisualQuestionAnswering, photos: dict[str, Path]
) -> None:
    image, _ = task.prepare(photos["coffee"])
    other = torch.rand(3, 400, 600)
    both = task.explain([photos["coffee"], other], QUESTIONS[:2], "ball")
    alone = task.explain(other, SHORTER, "ball")
    assert both.maps.shape == (2, 1, *GRIDS[kind])
    assert image.shape[2:] == tuple(8 * side for side in GRIDS[kind])
    peak = alone.maps.abs().max().item()
    torch.testing.assert_close(both.maps[1:], alone.maps, rtol=0, atol=1e-4 * peak)


def test_a_contrast_is_what_one_answer_has_over_the_other(
    task: VisualQuestionAnswering, photos: dict[str, Path]
) -> None:
    found = task.explain(photos["cat"], QUESTION, ["red", "frisbee"], contrast=("frisbee", "red"))
    assert found.labels[0] == ("red", "frisbee", "frisbee rather than red")
    red, frisbee, contrast = found.maps[0]
    torch.testing.assert_close(contrast, frisbee - red, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.scores[0, 2], found.scores[0, 1] - found.scores[0, 0])
    own = task.explain(photos["cat"], QUESTION, top=2, contrast=("frisbee", "red"))
    assert own.maps.shape[1] == 3
    torch.testing.assert_close(own.maps[0, 2], contrast, rtol=1e-4, atol=1e-6)


def test_given_answers_take_one_pass_of_what_sees_the_photo(
    kind: str, task: VisualQuestionAnswering, photos: dict[str, Path]
) -> None:
    batches: list[int] = []
    layer = task.model.get_submodule(LAYERS[kind])
    layer.register_forward_hook(lambda _module, _args, output: batches.append(len(output)))
    task.explain(photos["cat"], QUESTION, ["red", "ball", "frisbee"])
    assert batches == [1]


def test_notes_tell_the_probability(
    vilt_task: VisualQuestionAnswering,
    blip_task: VisualQuestionAnswering,
    photos: dict[str, Path],
) -> None:
    found = vilt_task.explain(photos["cat"], QUESTION, ["ball", "red"])
    assert found.notes[0] == tuple(f"{p:.0%}" for p in found.scores[0].sigmoid().tolist())
    found = blip_task.explain(photos["cat"], QUESTION, ["ball", "a red dog"])
    assert found.notes[0] == tuple(f"p = {p:.2g}" for p in found.scores[0].exp().tolist())


def test_another_layer_of_vilt_can_be_given_with_its_layout(
    vilt_task: VisualQuestionAnswering, photos: dict[str, Path]
) -> None:
    layer = Layer("vilt.encoder.layer.0", reshape=token_grid(4, 6, prefix=9 + 1))
    found = vilt_task.explain(photos["coffee"], QUESTION, layer=layer)
    assert found.layer == "vilt.encoder.layer.0"
    assert found.maps.shape == (1, 3, 4, 6)
    assert found.maps.abs().flatten(2).amax(dim=2).min() > 0


def test_other_layers_of_vilt_are_laid_out_by_their_names(
    vilt_task: VisualQuestionAnswering, photos: dict[str, Path]
) -> None:
    token_layers = ["vilt.encoder.layer.0", "vilt.encoder.layer.1.layernorm_after"]
    for name in (*token_layers, LAYERS["vilt"]):
        check = vilt_task.crosscheck(photos["coffee"], QUESTIONS, layer=name)
        assert check.layer == name
        assert check.ours.shape == (3, 3, 4, 6)
        assert check.max_rel <= 1e-5
    fused = vilt_task.explain(photos["coffee"], QUESTIONS, layer=token_layers)
    assert fused.maps.shape == (3, 3, 4, 6)


# Words


@pytest.mark.parametrize("method", METHODS)
def test_each_word_of_the_question_has_a_share(
    task: VisualQuestionAnswering, photos: dict[str, Path], method: str
) -> None:
    found = task.words(photos["cat"], QUESTION, ["ball", "red"], method=method)
    assert found.words == ("What", "is", "the", "dog", "holding")
    assert found.labels == ("ball", "red")
    assert found.scores.shape == (2, 5)
    assert found.scores.abs().min() > 0


def test_shares_are_gradients_times_embeddings(
    task: VisualQuestionAnswering, photos: dict[str, Path]
) -> None:
    """Each token occurs once, so that its row of the table has the gradient of its place."""
    question = "what is the dog holding"
    found = task.words(photos["cat"], question, ["frisbee", "ball"])
    images, _ = task.prepare(photos["cat"])
    setting = posed(task, images, tokens_of(task, question))
    assert setting.forward is not None
    output = setting.forward(*setting.inputs)
    table: Any = task.model.get_submodule(str(task.embedding)).weight
    tokens = [[PIECES.index(piece)] for piece in ("what", "is", "the", "dog")]
    tokens.append([PIECES.index("hold"), PIECES.index("##ing")])
    for row, target in zip(found.scores, setting.targets, strict=True):
        (gradient,) = torch.autograd.grad(target(output).sum(), table, retain_graph=True)
        shares = (gradient * table).sum(dim=1).detach()
        expected = torch.stack([shares[word].sum() for word in tokens])
        torch.testing.assert_close(row, expected, rtol=1e-3, atol=1e-6)


# The model stays as it is


def test_the_model_comes_back_as_it_was(
    task: VisualQuestionAnswering, photos: dict[str, Path]
) -> None:
    model = task.model.requires_grad_(False).train()
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    frozen = task.explain(photos["cat"], QUESTION)
    task.words(photos["cat"], QUESTION)
    assert [module.training for module in model.modules()] == modes
    assert not any(parameter.requires_grad for parameter in model.parameters())
    torch.testing.assert_close(model.state_dict(), state)
    model.requires_grad_(True).eval()
    free = task.explain(photos["cat"], QUESTION)
    torch.testing.assert_close(frozen.maps, free.maps)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_inference_mode_changes_nothing(
    task: VisualQuestionAnswering, photos: dict[str, Path]
) -> None:
    plain = task.explain(photos["cat"], QUESTION)
    with torch.inference_mode():
        inside = task.explain(photos["cat"], QUESTION)
    assert inside.labels == plain.labels
    torch.testing.assert_close(inside.maps.clone(), plain.maps)


# What cannot be used


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("", "the answer '' holds no word; give what could be said"),
        ("  ", "the answer '  ' holds no word; give what could be said"),
        (
            "a red \N{SNOWMAN}",
            "the answer 'a red \N{SNOWMAN}' holds '\N{SNOWMAN}', which the model cannot say; "
            "spell it in letters that it knows",
        ),
        (
            "dog " * 14,
            f"the answer {'dog ' * 14!r} has 14 tokens, and the model has places for 13; give a "
            "shorter one",
        ),
    ],
)
def test_an_answer_that_cannot_be_said_is_refused(
    blip_task: VisualQuestionAnswering, photos: dict[str, Path], answer: str, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        blip_task.explain(photos["cat"], QUESTION, ["ball", answer])
    assert str(caught.value) == message
    with pytest.raises(InputError, match="the answer "):
        blip_task.explain(photos["cat"], QUESTION, contrast=("ball", answer))


def test_the_longest_answer_that_fits_is_scored(
    blip_task: VisualQuestionAnswering, photos: dict[str, Path]
) -> None:
    found = blip_task.explain(photos["cat"], QUESTION, ["dog " * 13, "dog"])
    assert found.maps.isfinite().all()


def test_an_answer_outside_the_list_names_the_nearest(
    vilt_task: VisualQuestionAnswering, photos: dict[str, Path]
) -> None:
    with pytest.raises(InputError, match=r"'bal' is not among the 5 answers .* are: ball"):
        vilt_task.explain(photos["cat"], QUESTION, "bal")


def test_a_word_that_cannot_be_read_is_named(
    task: VisualQuestionAnswering, photos: dict[str, Path]
) -> None:
    with pytest.warns(UserWarning, match="the model has never seen '\N{SNOWMAN}'"):
        found = task.explain(photos["cat"], "what is the \N{SNOWMAN} holding")
    assert found.maps.isfinite().all()


def test_other_models_are_refused_with_those_that_are_known() -> None:
    with pytest.raises(InputError) as caught:
        task_of(nn.Linear(2, 3), PROCESSORS["vilt"], tokenizer())
    assert str(caught.value) == (
        "Linear is not known here, but ViltForQuestionAnswering, BlipForQuestionAnswering are; "
        "give any other model to VisualQuestionAnswering, with its answers"
    )


@pytest.mark.parametrize(
    "model",
    [
        lambda: BlipForConditionalGeneration(blip_config()),
        lambda: ViltForMaskedLM(ViltConfig(**TEXT, **PHOTO)),
    ],
)
def test_a_model_that_was_not_trained_for_questions_is_refused(
    model: Callable[[], PreTrainedModel], tmp_path: Path
) -> None:
    """Its head for answers would be random."""
    other = model()
    other.save_pretrained(tmp_path)
    with pytest.raises(InputError) as caught:
        vqa.load(f"hf:{tmp_path}")
    assert str(caught.value) == (
        f"model 'hf:{tmp_path}' is a {type(other).__name__}; known here are "
        "ViltForQuestionAnswering, BlipForQuestionAnswering"
    )


def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError) as caught:
        vqa.load("hf:no/such/folder")
    assert str(caught.value).startswith("model 'hf:no/such/folder' cannot be loaded: ")
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    vilt().save_pretrained(tmp_path)
    PROCESSORS["vilt"].save_pretrained(tmp_path)
    with pytest.raises(InputError, match="knows no words; save the model's own"):
        vqa.load(f"hf:{tmp_path}")


def test_a_tokenizer_written_in_python_is_refused() -> None:
    with pytest.raises(InputError, match="CanineTokenizer does not run on the library tokenizers"):
        task_of(vilt(), PROCESSORS["vilt"], CanineTokenizer())


def test_a_tokenizer_that_cannot_pad_says_what_to_set() -> None:
    words = tokenizer()
    words.pad_token = None
    with pytest.raises(InputError, match="has no token for padding; set its pad_token to"):
        task_of(vilt(), PROCESSORS["vilt"], words)
