from __future__ import annotations

import answerers
import pytest
import torch
from torch import Tensor, nn

from multicam import ClassLogit, InputError, TopClass
from multicam.words import METHODS, WordContributions, embedding_of, word_contributions

TOKENS = torch.tensor([[2, 3, 5]])
WORDS = [("what", [0]), ("is dog", [1, 2])]


class Linear(nn.Module):
    """The score is a weighted sum of the embedded words: what each contributes is plain."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.weight = nn.Parameter(torch.randn(3, 4))

    def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
        summed = (self.embedding(tokens) * self.weight).sum(dim=(1, 2))
        return torch.stack([summed, -2 * summed], dim=1) + image.sum()


@pytest.mark.parametrize("method", METHODS)
def test_contributions_of_a_linear_model_are_its_summands(method: str) -> None:
    model, image = Linear(), torch.rand(1, 3, 8, 8)
    targets = [ClassLogit(0, ["one", "two"]), ClassLogit(1, ["one", "two"])]
    found = word_contributions(
        model, (image, TOKENS), targets, WORDS, embedding=model.embedding, method=method
    )
    each = (model.embedding(TOKENS)[0] * model.weight).sum(dim=1).detach()
    expected = torch.stack([each[0], each[1] + each[2]])
    torch.testing.assert_close(found.scores, torch.stack([expected, -2 * expected]))
    assert found.words == ("what", "is dog")
    assert found.labels == ("one", "two")
    assert found.method == method


def test_integrated_gradients_add_up_to_the_score_without_the_words() -> None:
    model, image = answerers.Fused().eval(), torch.rand(1, 3, 24, 32)
    words = [(str(place), [place]) for place in range(3)]
    found = word_contributions(
        model,
        (image, TOKENS),
        ClassLogit(0),
        words,
        embedding=model.embedding,
        method="integrated gradients",
    )
    with torch.no_grad():
        score = model(image, TOKENS)[0, 0]
        handle = model.embedding.register_forward_hook(lambda *given: torch.zeros_like(given[2]))
        without = model(image, TOKENS)[0, 0]
        handle.remove()
    torch.testing.assert_close(found.scores.sum(), score - without, rtol=1e-3, atol=1e-4)


class Undecided(Linear):
    """Ranks the first class best without words, the second with them."""

    def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
        logits = 9 * super().forward(image, tokens)[:, :1].abs()
        return torch.cat([torch.ones_like(logits), logits], dim=1)


def test_a_rank_means_the_class_of_the_whole_text_on_all_of_the_path() -> None:
    model, inputs = Undecided(), (torch.zeros(1, 3, 8, 8), TOKENS)
    ranked, named = (
        word_contributions(
            model, inputs, one, WORDS, embedding=model.embedding, method="integrated gradients"
        )
        for one in (TopClass(), ClassLogit(1))
    )
    torch.testing.assert_close(ranked.scores, named.scores)
    assert ranked.labels == ("class 1",)


class InPlace(Linear):
    """Adds to its embeddings where they are, as BLIP does with positions."""

    def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
        embedded = self.embedding(tokens)
        embedded += 1
        summed: Tensor = (embedded * self.weight).sum(dim=(1, 2))[:, None] + image.sum()
        return summed


@pytest.mark.parametrize("method", METHODS)
def test_embeddings_that_are_changed_in_place_count_as_they_were(method: str) -> None:
    model, image = InPlace(), torch.rand(1, 3, 8, 8)
    found = word_contributions(
        model, (image, TOKENS), ClassLogit(0), WORDS, embedding=model.embedding, method=method
    )
    each = (model.embedding(TOKENS)[0] * model.weight).sum(dim=1).detach()
    torch.testing.assert_close(found.scores, torch.stack([each[0], each[1] + each[2]])[None])


def test_the_model_is_left_as_it_was() -> None:
    model, image = answerers.Fused().train(), torch.rand(1, 3, 24, 32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    word_contributions(model, (image, TOKENS), ClassLogit(0), WORDS, embedding=model.embedding)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(one.grad is None for one in model.parameters())
    assert not model.embedding._forward_hooks
    assert model.training


def test_the_layer_that_embeds_the_text_is_found() -> None:
    model, inputs = answerers.Fused(), (torch.rand(1, 3, 24, 32), TOKENS)
    assert embedding_of(model, inputs, TOKENS) is model.embedding
    with pytest.raises(InputError, match=r"no nn\.Embedding of Fused is given the question's"):
        embedding_of(model, inputs, torch.tensor([[4]]))


def test_a_layer_that_does_not_embed_one_text_is_refused() -> None:
    model, inputs = answerers.Fused(), (torch.rand(1, 3, 24, 32), TOKENS)
    with pytest.raises(InputError, match=r"gives \(1, 5\); needed is one text"):
        word_contributions(model, inputs, ClassLogit(0), WORDS, embedding=model.out)
    with pytest.raises(InputError, match="gives nothing: it does not run"):
        word_contributions(model, inputs, ClassLogit(0), WORDS, embedding=nn.Embedding(2, 2))


def test_an_unknown_method_is_refused() -> None:
    model, inputs = answerers.Fused(), (torch.rand(1, 3, 24, 32), TOKENS)
    with pytest.raises(InputError, match="'lime'; there are gradient x input, integrated"):
        word_contributions(
            model, inputs, ClassLogit(0), WORDS, embedding=model.embedding, method="lime"
        )


def test_rows_are_normalised_each_on_its_own() -> None:
    scores = torch.tensor([[1.0, -4.0], [0.5, 0.25], [0.0, 0.0]])
    found = WordContributions(("a", "dog"), scores, ("x", "y", "z"), METHODS[0])
    assert found.normalized().tolist() == [[0.25, -1.0], [1.0, 0.5], [0.0, 0.0]]
    assert repr(found).startswith("WordContributions(x: a +1.00, dog -4.00; y: a +0.50")
