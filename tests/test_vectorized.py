"""One backward pass for all targets: `explain(..., vectorize=True)`."""

from __future__ import annotations

from typing import Any

import networks
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from multicam import ClassLogit, ClassLogProb, UnreachedError, explain

SIGNAL = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@settings(deadline=None, max_examples=25)
@given(
    classes=st.lists(st.integers(0, 4), min_size=1, max_size=6),
    cell=st.sampled_from([nn.LSTM, nn.GRU]),
    layer=st.sampled_from(["deep", "conv", ["conv", "deep"]]),
    batch=st.integers(1, 2),
)
def test_it_gives_what_a_pass_for_each_target_gives(
    classes: list[int], cell: type[nn.LSTM | nn.GRU], layer: Any, batch: int
) -> None:
    model, signal = networks.ConvRecurrent(cell).eval(), SIGNAL[:batch]
    targets = [ClassLogit(index) for index in classes]
    each = explain(model, signal, targets, layer=layer)
    at_once = explain(model, signal, targets, layer=layer, vectorize=True)
    peak = each.maps.abs().max().item()
    torch.testing.assert_close(at_once.maps, each.maps, rtol=0, atol=1e-5 * peak)
    torch.testing.assert_close(at_once.scores, each.scores)
    assert not at_once.scores.requires_grad
    assert (at_once.labels, at_once.notes) == (each.labels, each.notes)


class Watched(networks.ConvRecurrent):
    """Counts its backward passes; a hook that reads values cannot be batched."""

    passes = 0
    reads_values = False

    def forward(self, images: Tensor) -> Tensor:
        watched = self.deep(self.conv(images))
        watched.register_hook(self._passed)
        states, _ = self.recurrent(watched.flatten(2).transpose(1, 2))
        logits: Tensor = self.head(states[:, -1])
        return logits

    def _passed(self, gradient: Tensor) -> None:
        self.passes += 1
        if self.reads_values:
            assert gradient.isfinite().all()


@pytest.mark.parametrize(("reads_values", "passes"), [(False, 1), (True, 1 + 5)])
def test_it_is_one_pass_unless_an_operation_cannot_be_batched(
    reads_values: bool, passes: int
) -> None:
    model, targets = Watched().eval(), [ClassLogProb(index) for index in range(5)]
    expected = explain(model, SIGNAL, targets, layer="conv").maps
    assert model.passes == 5
    model.passes, model.reads_values = 0, reads_values
    found = explain(model, SIGNAL, targets, layer="conv", vectorize=True).maps
    assert model.passes == passes
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_scores_of_several_outputs_are_taken_together() -> None:
    model, inputs = networks.Asked(), (SIGNAL, torch.tensor([[1, 2], [3, 4]]))

    def first(output: dict[str, Tensor]) -> Tensor:
        return output["logits"][:, 0]

    def all_of_them(output: dict[str, Tensor]) -> Tensor:
        tensors = [one for one in output.values() if one.is_floating_point()]
        return torch.stack([one.flatten(1).sum(dim=1) for one in tensors]).sum(dim=0)

    each = explain(model, inputs, [first, all_of_them], layer="image.2")
    at_once = explain(model, inputs, [first, all_of_them], layer="image.2", vectorize=True)
    torch.testing.assert_close(at_once.maps, each.maps, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_low_precision_loses_nothing(dtype: torch.dtype) -> None:
    model, signal = networks.ConvNet().to(dtype), torch.randn(2, 2, 9, 9).to(dtype)
    targets = [ClassLogit(0), ClassLogit(2)]
    each = explain(model, signal, targets, layer="first").maps
    at_once = explain(model, signal, targets, layer="first", vectorize=True).maps
    torch.testing.assert_close(at_once, each, rtol=0.02, atol=1e-4)


def test_the_graph_can_still_be_kept() -> None:
    model, signal = networks.ConvNet(), torch.randn(2, 2, 9, 9)
    found = explain(
        model, signal, [ClassLogit(0)] * 2, layer="first", vectorize=True, create_graph=True
    )
    torch.autograd.backward(found.maps.square().sum())
    assert all(one.grad is not None for one in model.first.parameters())


def test_a_layer_that_the_scores_do_not_depend_on_is_refused() -> None:
    model = networks.ConvNet()

    def constant(output: Tensor) -> Tensor:
        return output.detach()[:, 0]

    with pytest.raises(UnreachedError, match="'constant' does not depend on layer 'first'"):
        explain(
            model,
            torch.randn(2, 2, 9, 9),
            [constant, ClassLogit(0)],
            layer="first",
            vectorize=True,
        )
