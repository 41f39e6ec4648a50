from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForQuestionAnswering,
    BlipImageProcessor,
    CLIPImageProcessor,
    GitConfig,
    GitForCausalLM,
    GPT2Config,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SwinConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from multicam import InputError
from multicam.tasks import captioning
from multicam.tasks.captioning import Captioning
from multicam.tasks.huggingface import vocabulary_of
from multicam.tasks.huggingface_captioners import captioner_of

SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
PIECES = [*SPECIAL, "a", "two", "brown", "dog", "cat", "run", "sit", "##s", "##ting", "on"]
CAPTION = "A brown dog runs"
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.3,
}
VISION: dict[str, Any] = {**SIZES, "image_size": 32, "patch_size": 8}
TEXT: dict[str, Any] = {
    **SIZES,
    "vocab_size": len(PIECES),
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sep_token_id": 2,
    "max_position_embeddings": 40,
}


def word_pieces() -> PreTrainedTokenizerFast:
    """Lower-case words, some of them in two pieces, as BERT, BLIP and GIT have them."""
    tokens = {piece: token for token, piece in enumerate(PIECES)}
    tokenizer = Tokenizer(models.WordPiece(tokens, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
    )


def byte_pieces() -> PreTrainedTokenizerFast:
    """Pieces of bytes, as GPT-2 has them; one special token is start, end and unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([CAPTION, "two dogs", "a cat sits on a dog"] * 3, trainer)
    special = "<|endoftext|>"
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=special, eos_token=special, unk_token=special
    )


def blip_config() -> BlipConfig:
    return BlipConfig(text_config=TEXT, vision_config=VISION)


def blip() -> PreTrainedModel:
    return BlipForConditionalGeneration(blip_config())


def git() -> PreTrainedModel:
    return GitForCausalLM(GitConfig(**TEXT, vision_config=VISION))


def vit_bert() -> PreTrainedModel:
    return encoder_decoder(ViTConfig(**VISION), BertConfig(**TEXT), start=1, end=2)


def swin_gpt() -> PreTrainedModel:
    """The encoder's last grid is coarse, and narrower than the decoder."""
    swin = SwinConfig(image_size=64, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4)
    token = 0
    gpt = GPT2Config(
        n_embd=24,
        n_layer=2,
        n_head=2,
        n_positions=40,
        vocab_size=280,
        bos_token_id=token,
        eos_token_id=token,
        initializer_range=0.3,
    )
    return encoder_decoder(swin, gpt, start=token, end=token)


def encoder_decoder(encoder: Any, decoder: Any, *, start: int, end: int) -> PreTrainedModel:
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, decoder, decoder_start_token_id=start, eos_token_id=end, pad_token_id=0
    )
    return VisionEncoderDecoderModel(config)


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "blip": blip,
    "git": git,
    "vit_bert": vit_bert,
    "swin_gpt": swin_gpt,
}
LAYERS = {
    "blip": "vision_model.encoder.layers.0.layer_norm2",
    "git": "git.image_encoder.vision_model.encoder.layers.0",
    "vit_bert": "encoder.embeddings",
    "swin_gpt": "encoder.encoder.layers.0.blocks.0",
}
"""Each near the beginning of the vision encoder."""
SIDES = {"blip": 32, "git": 32, "vit_bert": 32, "swin_gpt": 64}
GRIDS = {"blip": (4, 4), "git": (4, 4), "vit_bert": (4, 4), "swin_gpt": (8, 8)}


@pytest.fixture(params=MODELS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(kind: str) -> PreTrainedModel:
    model = MODELS[kind]()
    model.eval()
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each model in a folder, with its processor and its tokenizer."""
    return {kind: saved(kind, tmp_path_factory.mktemp(kind)) for kind in MODELS}


@pytest.fixture
def task(kind: str, folders: dict[str, Path]) -> Captioning:
    return replace(captioning.load(f"hf:{folders[kind]}"), longest=6)


def saved(kind: str, folder: Path) -> Path:
    torch.manual_seed(0)
    MODELS[kind]().save_pretrained(folder)
    size = {"height": SIDES[kind], "width": SIDES[kind]}
    processors = {
        "blip": BlipImageProcessor(size=size),
        "git": CLIPImageProcessor(size={"shortest_edge": SIDES[kind]}, crop_size=size),
    }
    processors.get(kind, ViTImageProcessor(size=size)).save_pretrained(folder)
    (byte_pieces() if kind == "swin_gpt" else word_pieces()).save_pretrained(folder)
    return folder


def random_photos(kind: str, count: int = 1) -> Tensor:
    return torch.rand(count, 3, SIDES[kind], SIDES[kind])


def teacher_forced(model: Any, images: Tensor, tokens: Tensor) -> Tensor:
    """The logits of the model's own forward pass, at the tokens."""
    key = "decoder_input_ids" if isinstance(model, VisionEncoderDecoderModel) else "input_ids"
    logits: Tensor = model(pixel_values=images, **{key: tokens}).logits
    return logits[:, -tokens.shape[1] :]


def greedy(captioner: Any, images: Tensor, longest: int) -> list[int]:
    """The most probable token again and again, by decode."""
    features = captioner.encode(images)
    tokens = [captioner.start]
    while len(tokens) <= longest:
        best = int(captioner.decode(features, torch.tensor([tokens]))[0, -1].argmax())
        if best == captioner.end:
            break
        tokens.append(best)
    return tokens[1:]


def least_probable(captioner: Any, images: Tensor) -> int:
    """What a caption does not begin with."""
    logits = captioner.decode(captioner.encode(images), torch.tensor([[captioner.start]]))
    return int(logits[0, -1].argmin())


def end_with(model: Any, token: int) -> None:
    if isinstance(model, BlipForConditionalGeneration):
        text: Any = model.config.text_config
        text.sep_token_id = token
    else:
        model.generation_config.eos_token_id = token


# The two halves


def test_decode_gives_the_logits_of_the_model_itself(kind: str, model: PreTrainedModel) -> None:
    captioner = captioner_of(model)
    images = random_photos(kind, 2)
    tokens = torch.tensor([[captioner.start, 5, 8, 6, 9], [captioner.start, 4, 7, 9, 5]])
    with torch.no_grad():
        logits = captioner.decode(captioner.encode(images), tokens)
        torch.testing.assert_close(logits, teacher_forced(model, images, tokens))
    assert logits.std() > 0.1


def test_every_row_of_tokens_has_features_of_its_own(kind: str, model: PreTrainedModel) -> None:
    captioner = captioner_of(model)
    images = random_photos(kind, 2)
    tokens = torch.tensor([[captioner.start, 5, 8]] * 2)
    with torch.no_grad():
        both = captioner.decode(captioner.encode(images), tokens)
        second = captioner.decode(captioner.encode(images[1:]), tokens[1:])
    torch.testing.assert_close(both[1:], second)
    assert not torch.allclose(both[0], both[1], atol=1e-3)


def test_generate_takes_the_most_probable_token_again_and_again(kind: str, model: Any) -> None:
    captioner, images = captioner_of(model), random_photos(kind)
    end_with(model, least_probable(captioner, images))
    with torch.no_grad():
        said = captioner.generate(images, 1, 9)
        assert said
        assert said == greedy(captioner, images, 9)


def test_generate_stops_before_the_end_token(kind: str, model: Any) -> None:
    captioner, images = captioner_of(model), random_photos(kind)
    end_with(model, least_probable(captioner, images))
    longer = captioner.generate(images, 1, 9)
    end = longer[-1]
    end_with(model, end)
    assert captioner.end == end
    assert captioner.generate(images, 1, 9) == longer[: longer.index(end)]


def test_a_beam_gives_the_models_own_caption(kind: str, model: Any) -> None:
    captioner, images = captioner_of(model), random_photos(kind)
    own = model.generate(pixel_values=images, num_beams=3, max_new_tokens=5)[0].tolist()
    said = captioner.generate(images, 3, 5)
    assert own[: 1 + len(said)] == [captioner.start, *said]
    assert own[1 + len(said) :] in ([], [captioner.end])


# Loaded from a folder


def test_a_folder_gives_the_model_with_its_vocabulary(
    kind: str, task: Captioning, folders: dict[str, Path], photos: dict[str, Path]
) -> None:
    model = type(task.model).from_pretrained(folders[kind])  # type: ignore[attr-defined]
    torch.testing.assert_close(task.model.state_dict(), model.state_dict())
    assert not any(module.training for module in task.model.modules())
    explanation = task.explain(photos["coffee"], CAPTION)
    assert [label.lower() for label in explanation.labels[0]] == [
        *("a", "brown", "dog", "runs"),
        CAPTION.lower(),
    ]


def test_the_model_captions_in_words_of_its_vocabulary(
    task: Captioning, photos: dict[str, Path]
) -> None:
    inputs, _ = task.prepare(photos["cat"])
    said = captioner_of(task.model).generate(inputs, 2, 6)
    assert task.caption(photos["cat"], beam=2) == task.vocabulary.spell(said).strip()


def test_the_processor_says_where_the_model_looks(
    kind: str, task: Captioning, photos: dict[str, Path]
) -> None:
    _, (photo,) = task.prepare(photos["coffee"])
    cropped = (100, 0, 500, 400) if kind == "git" else (0, 0, 600, 400)
    assert photo.geometry.box == pytest.approx(cropped, abs=8)


# Maps


def test_every_word_has_the_map_of_captum(
    kind: str, task: Captioning, photos: dict[str, Path]
) -> None:
    for layer in (None, LAYERS[kind]):
        check = task.crosscheck(photos["cat"], CAPTION, layer=layer)
        assert check.layer == (layer or captioner_of(task.model).layer)
        assert check.ours.abs().flatten(2).amax(dim=2).min() > 0
        assert check.max_rel <= 1e-5


def test_all_words_take_one_pass_of_the_encoder(
    kind: str, task: Captioning, photos: dict[str, Path]
) -> None:
    batches: list[int] = []
    encoder = task.model.get_submodule(LAYERS[kind])
    encoder.register_forward_hook(lambda _module, _args, output: batches.append(_rows(output)))
    task.explain(photos["cat"], CAPTION)
    assert batches == [1]


def _rows(output: Any) -> int:
    return len(output[0] if isinstance(output, tuple) else output)


@pytest.mark.parametrize("count", [3, 16])
def test_without_a_layer_the_maps_are_of_what_the_decoder_sees(
    kind: str, task: Captioning, photos: dict[str, Path], count: int
) -> None:
    words = (["a", "dog"] * 8)[:count]  # sixteen tokens could be mistaken for a grid
    explanation = replace(task, longest=40).explain(photos["cat"], " ".join(words))
    assert explanation.layer == captioner_of(task.model).layer
    assert explanation.maps.shape == (1, count + 1, *GRIDS[kind])
    assert explanation.maps.abs().flatten(2).amax(dim=2).min() > 0


def test_the_model_comes_back_as_it_was(task: Captioning, photos: dict[str, Path]) -> None:
    model = task.model.requires_grad_(False).train()
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    task.caption(photos["cat"], beam=2)
    frozen = task.explain(photos["cat"], CAPTION)
    assert [module.training for module in model.modules()] == modes
    assert not any(parameter.requires_grad for parameter in model.parameters())
    torch.testing.assert_close(model.state_dict(), state)
    model.requires_grad_(True).eval()
    free = task.explain(photos["cat"], CAPTION)
    torch.testing.assert_close(frozen.maps, free.maps)
    assert all(parameter.grad is None for parameter in model.parameters())


# What cannot be used


def test_other_models_are_refused_with_those_that_are_known() -> None:
    with pytest.raises(InputError) as caught:
        captioner_of(nn.Linear(2, 3))
    assert str(caught.value) == (
        "Linear is no captioner known here, but VisionEncoderDecoderModel, "
        "BlipForConditionalGeneration, GitForCausalLM are; wrap it in an object with "
        "encode(images) and decode(features, tokens), and pass that as captioner=..."
    )


def test_a_git_for_videos_is_refused() -> None:
    model = GitForCausalLM(GitConfig(**TEXT, vision_config=VISION, num_image_with_embedding=6))
    with pytest.raises(InputError, match="this GIT captions videos of 6 frames; give one for"):
        captioner_of(model)


def test_a_model_without_special_tokens_says_which_to_set() -> None:
    model: Any = vit_bert()
    model.generation_config.decoder_start_token_id = None
    model.generation_config.bos_token_id = None
    model.generation_config.eos_token_id = [5, 2]
    assert captioner_of(model).end == 5
    with pytest.raises(InputError, match="names no decoder_start_token_id; set it in model\\."):
        _ = captioner_of(model).start


@pytest.mark.parametrize(
    "model",
    [
        lambda: ViTForImageClassification(ViTConfig(**VISION)),
        lambda: BlipForQuestionAnswering(blip_config()),
    ],
)
def test_a_folder_with_another_model_says_what_is_known(
    model: Callable[[], PreTrainedModel], tmp_path: Path
) -> None:
    """A BLIP for questions has the configuration of a captioner, and half of its weights."""
    other = model()
    other.save_pretrained(tmp_path)
    with pytest.raises(InputError) as caught:
        captioning.load(f"hf:{tmp_path}")
    assert str(caught.value) == (
        f"model 'hf:{tmp_path}' is a {type(other).__name__}; known here are "
        "VisionEncoderDecoderModel, BlipForConditionalGeneration, GitForCausalLM"
    )


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    blip().save_pretrained(tmp_path)
    BlipImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="knows no words; save the model's own"):
        captioning.load(f"hf:{tmp_path}")


def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError) as caught:
        captioning.load("hf:no/such/folder")
    assert str(caught.value).startswith("model 'hf:no/such/folder' cannot be loaded: ")
    assert "\n" not in str(caught.value)


def test_a_tokenizer_written_in_python_is_refused() -> None:
    with pytest.raises(InputError, match="dict does not run on the library tokenizers; save"):
        vocabulary_of({}, 0, 1)


def test_captions_are_neither_cut_nor_padded() -> None:
    words = word_pieces()
    words.backend_tokenizer.enable_truncation(3)
    words.backend_tokenizer.enable_padding(length=9)
    vocabulary = vocabulary_of(words, 1, 2)
    assert vocabulary.spell(vocabulary.encode("two dogs on a cat")) == "two dogs on a cat"
    assert words.backend_tokenizer.truncation is not None
