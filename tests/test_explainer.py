from __future__ import annotations

import networks
import pytest
import torch
from torch import nn

from multicam import ClassLogit, InputError, explain, explain_layers


@pytest.mark.parametrize(("dims", "grid"), [(1, (6,)), (2, (6, 5)), (3, (6, 5, 4))])
def test_maps_have_the_grid_of_the_layer_in_any_dimension(dims: int, grid: tuple[int, ...]) -> None:
    model = networks.ConvNet(dims)
    found = explain(model, torch.randn(2, 2, *grid), [ClassLogit(0), ClassLogit(1)])
    assert found.layer == "second"
    assert found.maps.shape == (2, 2, *grid)
    assert found.scores.shape == (2, 2)
    assert found.labels == (("class 0", "class 1"),) * 2


def test_maps_are_signed_single_precision_and_not_normalised() -> None:
    model = networks.ConvNet().double()
    found = explain(model, torch.randn(2, 2, 9, 9, dtype=torch.float64), ClassLogit(0))
    assert found.maps.dtype == torch.float32
    assert found.scores.dtype == torch.float64
    assert found.maps.min() < 0 < found.maps.max()


def test_scaling_the_score_scales_the_map() -> None:
    model, signal = networks.ConvNet(), torch.randn(2, 2, 9, 9)
    maps = explain(model, signal, [ClassLogit(0), lambda output: 3 * output[:, 0]]).maps
    torch.testing.assert_close(maps[:, 1], 3 * maps[:, 0])


@pytest.mark.parametrize("layer", ["second", None])
def test_an_empty_batch_is_refused(layer: str | None) -> None:
    with pytest.raises(InputError, match="the batch is empty: there is nothing to explain"):
        explain(networks.ConvNet(), torch.zeros(0, 2, 9, 9), ClassLogit(0), layer=layer)


def test_one_forward_pass_serves_all_layers_and_targets() -> None:
    model, passes = networks.ConvNet(), []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    targets = [ClassLogit(index) for index in range(3)]
    explain_layers(model, torch.randn(2, 2, 9, 9), targets, layers=["first", "second"])
    assert len(passes) == 1


def test_no_layer_takes_one_more_forward_pass() -> None:
    model, passes = networks.ConvNet(), []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    found = explain_layers(model, torch.randn(2, 2, 9, 9), layers=None)
    assert [each.layer for each in found] == ["second"]
    assert len(passes) == 2


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_recurrent_layers_in_eval_mode(cell: type[nn.LSTM | nn.GRU]) -> None:
    model = networks.ConvRecurrent(cell).eval()
    found = explain(model, networks.images(), [ClassLogit(0), ClassLogit(1)])
    assert found.layer == "deep"
    assert found.maps.flatten(2).any(dim=2).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: cuDNN refuses there")
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_recurrent_layers_on_a_gpu(
    cell: type[nn.LSTM | nn.GRU], training: bool, create_graph: bool
) -> None:
    model, images = networks.ConvRecurrent(cell).eval(), networks.images()
    expected = explain(model, images, ClassLogit(0), layer="deep").maps
    model = model.cuda()
    model.recurrent.train(training)
    found = explain(model, images.cuda(), ClassLogit(0), layer="deep", create_graph=create_graph)
    assert found.maps.is_cuda
    torch.testing.assert_close(found.maps.detach().cpu(), expected, rtol=1e-3, atol=1e-6)
    if create_graph:
        torch.autograd.backward(found.maps.square().sum())


def test_a_target_says_how_high_its_score_is() -> None:
    class Noted(ClassLogit):
        def notes(self, output: torch.Tensor) -> list[str]:
            return [f"{value:.0f} of 10" for value in output[:, 0] * 0 + 7]

    found = explain(networks.ConvNet(), torch.randn(2, 2, 9, 9), [ClassLogit(1), Noted(0)])
    score = found.scores[0, 0].item()
    assert found.notes[0] == (f"score {score:.3g}", "7 of 10")
