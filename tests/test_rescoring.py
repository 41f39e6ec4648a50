"""Scores of variants: several rows in one pass where that is proven, and right where not."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, cast

import networks
import plain
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import images
from torch import Tensor, nn

from multicam import (
    ClassLogit,
    ClassLogProb,
    InputError,
    Layer,
    LayerError,
    PerSample,
    TargetError,
    TopClass,
    explain,
)
from multicam import scene as scene_module
from multicam.forward import Forward
from multicam.perturbation import RISE, AblationCAM, Occlusion, ReciproCAM
from multicam.rescoring import ALIVE
from multicam.rows import by_variant, close, copied, keeps, magnitude, one_by_one, rows_of
from multicam.targets import Target

TARGETS: list[Target] = [ClassLogit(1), ClassLogProb(2)]


class Counted(networks.Inplace):
    """Counts its passes and the rows that they had."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def forward(self, images: Tensor) -> Any:
        self.rows.append(len(images))
        return super().forward(images)


def compare(model: nn.Module, targets: list[Target], batch: int = 2, **options: Any) -> None:
    """Ablated scores are those of the plain way."""
    forward = Forward(model, images(batch))
    scene = plain.scene_of(forward, targets, "conv")
    found = plain.ablated_scores(scene, range(8), **options)
    changes = [plain.without(channel) for channel in range(8)]
    expected = plain.changed_scores(forward, targets, "conv", changes)
    assert (expected - scene.scores).abs().max() > 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


# What cannot be batched


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_batch_norm_in_training_mode_sees_the_batch_that_it_saw(batch: int) -> None:
    model = Counted().train()
    compare(model, TARGETS, batch)
    assert model.rows[-8:] == [batch] * 8


def test_a_list_with_an_entry_for_each_sample() -> None:
    class Detector(Counted):
        def forward(self, images: Tensor) -> Any:
            return [{"score": logits.max()} for logits in super().forward(images)]

    model = Detector().eval()
    compare(model, [lambda output: torch.stack([each["score"] for each in output])])
    assert model.rows[-8:] == [2] * 8


def test_a_fixed_batch_size() -> None:
    class Fixed(Counted):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = super().forward(images)
            return logits.reshape(2, 5)

    model = Fixed().eval()
    compare(model, TARGETS)
    assert model.rows[-8:] == [2] * 8


def test_an_output_that_torch_does_not_know() -> None:
    class Output:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    class Network(Counted):
        def forward(self, images: Tensor) -> Any:
            return Output(super().forward(images))

    model = Network().eval()
    compare(model, [ClassLogit(1, key="logits")])
    assert model.rows[-8:] == [2] * 8


def test_a_score_that_is_taken_from_what_torch_does_not_know() -> None:
    """The logits do not tell that the rows of the other output are mixed."""

    class Output:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    class Network(Counted):
        def forward(self, images: Tensor) -> Any:
            logits = super().forward(images)
            return {"logits": logits, "same": Output(logits)}

    model = Network().eval()
    compare(model, [lambda output: output["same"].logits.mean().reshape(1)], batch=1)
    assert 8 not in model.rows
    compare(model, [ClassLogit(1)], batch=1)
    assert 8 in model.rows


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_samples_that_stand_in_the_second_dimension(batch: int) -> None:
    class StepsFirst(Counted):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = super().forward(images)
            return torch.stack([logits, -logits, logits.square()][:batch])

    model = StepsFirst().eval()
    compare(model, [lambda output: output[0, :, 1]], batch)
    assert model.rows[-8:] == [batch] * 8


def test_features_that_a_model_keeps_from_one_call_to_the_next() -> None:
    """The second sample would meet features of the right number of rows, but not its own."""

    class Keeping(Counted):
        kept: Tensor | None = None

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = super().forward(images)
            if self.kept is None:
                self.kept = logits.detach()
            return logits * self.kept

    model = Keeping().eval()
    compare(model, TARGETS)
    assert model.rows[-8:] == [2] * 8


def test_the_batch_is_run_from_the_layer_on_where_that_holds() -> None:
    model = networks.Inplace().train()
    calls: list[int] = []
    model.stem.register_forward_hook(lambda *_: calls.append(1))
    explain(model, images(), TARGETS, layer="conv", method="ablationcam")
    ways_of_rows_that_run_the_whole_model = 1
    assert len(calls) == 1 + 2 * ways_of_rows_that_run_the_whole_model


def test_a_model_that_is_not_repeatable_is_refused() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Dropout(), nn.Flatten(), nn.Linear(8 * 14 * 14, 5)
    ).train()
    for method in ("ablationcam", "scorecam", "occlusion"):
        with pytest.raises(InputError, match=r"other scores when it runs again .* model.eval\(\)"):
            explain(model, images(), TARGETS, layer="0", method=method)


def test_a_layer_that_runs_now_and_then_is_refused() -> None:
    class Skipping(networks.Inplace):
        runs = 0

        def forward(self, images: Tensor) -> Tensor:
            type(self).runs += 1
            maps = self.stem(images)
            maps = self.conv(maps) if type(self).runs == 1 else maps
            logits: Tensor = self.head(maps.mean(dim=(2, 3)))
            return logits

    with pytest.raises(LayerError, match="the layer did not run again on the same input"):
        explain(Skipping().eval(), images(), TARGETS, layer="conv", method="ablationcam")


def test_a_reshape_that_computes_is_refused() -> None:
    layer = Layer("conv", reshape=lambda maps: maps[:, ::2] + maps[:, 1::2])
    with pytest.raises(LayerError, match="the layer's reshape computes new values"):
        explain(networks.Inplace().eval(), images(), TARGETS, layer=layer, method="ablationcam")


# Targets


def item(output: Tensor) -> Tensor:
    """Reads values, which `torch.vmap` cannot."""
    return torch.stack(
        [output[i, 0] if row[0].item() > 9 else row[1] for i, row in enumerate(output)]
    )


class OfGradCAM:
    def __call__(self, output: Tensor) -> Tensor:
        return output[3]


@pytest.mark.parametrize(
    "target",
    [
        ClassLogit([3, 4]),
        ClassLogProb([0, 2]),
        TopClass(),
        TopClass(rank=1),
        PerSample(OfGradCAM()),
        item,
        lambda output: output.max(dim=1).values,
        lambda output: output[:, 0] * output[:, 1] / 3,
        lambda output: output.double().softmax(dim=1)[:, 2],
        lambda output: torch.stack([output[0, 1], output[1, 2]]),
    ],
)
@pytest.mark.parametrize("chunk", [None, 1, 2, 3])
def test_any_target_is_scored_as_in_its_batch(target: Target, chunk: int | None) -> None:
    model = Counted().eval()
    forward = Forward(model, images())
    scene = plain.scene_of(forward, [target, ClassLogit(0)], "conv")
    found = plain.ablated_scores(scene, range(8), chunk)
    assert len(model.rows) == 1 + 2 * (1 + -(-8 // (chunk or 8)))
    changes = [plain.without(channel) for channel in range(8)]
    expected = plain.changed_scores(forward, list(scene.targets), "conv", changes)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_rank_means_the_class_that_had_it_before_anything_changed() -> None:
    model = networks.Inplace().eval()
    classes = TopClass().classes(model(images()))
    found = explain(model, images(), [TopClass(), ClassLogit(classes)], layer="conv", method="rise")
    torch.testing.assert_close(found.maps[:, 0], found.maps[:, 1])


class Watched(nn.Module):
    """Keeps how its images lay in memory, and takes its features as rows in a way that is given."""

    def __init__(
        self, convolution: nn.Module, linear: nn.Module, rows: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.convolution, self.linear, self.rows = convolution, linear, rows
        self.strides: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.strides.append(images.stride())
        return cast("Tensor", self.linear(self.rows(self.convolution(images))))


@pytest.mark.parametrize(
    ("convolution", "size"), [(nn.Conv2d, (6, 5)), (nn.Conv3d, (3, 4, 5))], ids=["2-D", "3-D"]
)
def test_images_lie_with_channels_innermost_where_the_model_takes_them_so(
    convolution: Callable[..., nn.Module], size: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    parts = convolution(2, 4, 3, padding=1), nn.Linear(4 * prod(size), 3)
    taking = Watched(*parts, lambda features: features.flatten(1)).eval()
    refusing = Watched(*parts, lambda features: features.view(len(features), -1)).eval()
    images = torch.rand(2, 2, *size)
    method = RISE(masks=20)
    found, expected = (explain(m, images, method=method).maps for m in (taking, refusing))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert taking.strides[-1][1] == 1
    assert refusing.strides[-1] == images.stride()


def test_targets_are_taken_over_all_rows_at_once() -> None:
    """Once for the batch; for three rows of each sample; to choose; and once for each chunk."""
    calls: list[int] = []

    def target(output: Tensor) -> Tensor:
        calls.append(len(output))
        return output[:, 0]

    scene = plain.scene_of(Forward(networks.Inplace().eval(), images()), [target], "conv")
    evaluated, rows_alone, vmap = len(calls), 3, 1
    plain.ablated_scores(scene, range(8), chunk=4)
    assert len(calls) - evaluated == rows_alone + vmap + 2
    assert set(calls) == {2}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            AblationCAM(),
            r"the score 'root' is nan for change \d of 8 of sample 0; .* such as a logit",
        ),
        (Occlusion(window=4), r"the score 'root' is nan for change \d+ of"),
    ],
)
def test_scores_that_are_not_finite_are_refused(method: Any, message: str) -> None:
    model = networks.Inplace().eval()
    least = model(images())[:, 0].detach()

    def root(output: Tensor) -> Tensor:
        above: Tensor = output[:, 0] - least + 1e-7
        return above.sqrt()

    with pytest.raises(TargetError, match=message):
        explain(model, images(), root, layer="conv", method=method)


# How many rows a pass has


@settings(deadline=None, max_examples=8)
@given(chunk=st.integers(1, 20), batch=st.integers(1, 3), training=st.booleans())
def test_maps_do_not_depend_on_the_chunk(chunk: int, batch: int, training: bool) -> None:
    torch.manual_seed(0)
    model = networks.Inplace().train(training)
    for method in (AblationCAM, Occlusion):
        whole, parts = (
            explain(model, images(batch, 8), TARGETS, layer="conv", method=method(chunk=size)).maps
            for size in (None, chunk)
        )
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "bound"), [("ablationcam", "MEMORY"), (Occlusion(window=4), "MEMORY_OF_CPU")]
)
def test_the_chunk_follows_from_the_largest_tensor(
    method: str | Occlusion, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8 channels of 16 x 16 for each sample are the largest, and 5 logits are kept."""
    row = (ALIVE * 8 * 16 * 16 + 2 * 5) * 4
    monkeypatch.setattr(scene_module, bound, 3 * row)
    model = Counted().eval()
    explain(model, images(), TARGETS, layer="conv", method=method)
    rows = [count for count in model.rows if count != 2]
    assert set(rows) <= {3, 1, 8 % 3}
    assert rows.count(3) > 2


def test_memory_is_for_one_chunk_only() -> None:
    """The largest tensor that any operation makes has no more rows than the chunk."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
        entries = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            made = func(*args, **(kwargs or {}))
            if isinstance(made, Tensor):
                self.entries = max(self.entries, made.numel())
            return made

    model = networks.Inplace().eval()
    with Largest() as found:  # type: ignore[no-untyped-call]
        explain(model, images(), TARGETS, layer="conv", method=ReciproCAM(chunk=4))
    assert found.entries == 4 * 8 * 16 * 16


# Rows


def test_rows_of_a_sample_share_its_memory() -> None:
    batch, other = torch.randn(2, 3), torch.randn(5, 3)
    rows = rows_of(
        {"batch": batch, "other": other, "name": "x", "number": torch.tensor(2.0)}, 2, 1, 4
    )
    assert rows["batch"].shape == (4, 3)
    assert rows["batch"].data_ptr() == batch[1].data_ptr()
    assert torch.equal(rows["batch"], batch[1:].expand(4, 3))
    assert torch.equal(rows["other"], other)
    assert rows["other"].data_ptr() != other.data_ptr()
    assert (rows["name"], rows["number"].item()) == ("x", 2.0)


def test_copies_share_what_the_originals_share() -> None:
    tensor = torch.randn(2)
    one, two, three = copied((tensor, tensor, torch.randn(2)))
    assert one is two is not tensor
    assert three is not one
    assert torch.equal(one, tensor)


def test_the_function_of_a_batch_for_each_variant() -> None:
    original = {"rows": torch.zeros(2, 3), "scale": torch.tensor(10.0), "name": "x"}
    outputs = [
        {
            "rows": 10 * sample + torch.arange(12.0).reshape(4, 3),
            "scale": torch.tensor(2.0),
            "name": "x",
        }
        for sample in range(2)
    ]

    def function(output: dict[str, Any]) -> Tensor:
        assert output["rows"].shape == (2, 3)
        total: Tensor = output["scale"] * output["rows"].sum(dim=1)
        return total

    expected = torch.tensor([[6.0, 66.0], [24.0, 84.0], [42.0, 102.0], [60.0, 120.0]])
    for mapped in (one_by_one, torch.vmap):
        assert torch.equal(by_variant(function, outputs, original, mapped), expected)


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        (torch.tensor([[1.0, 2.0], [9.0, 9.0], [3.0, 4.0]]), True),
        (torch.tensor([[1.0, 2.0], [9.0, 9.0], [3.0, 4.2]]), False),
        (torch.tensor([[1.0, 2.0], [9.0, 9.0], [3.0, float("nan")]]), False),
        (torch.tensor([[1.0], [9.0], [3.0]]), False),
        (torch.tensor([[[1.0, 2.0], [9.0, 9.0], [3.0, 4.0]]]), False),
    ],
)
def test_whether_a_row_is_what_the_sample_has_in_its_batch(rows: Tensor, kept: bool) -> None:
    original = torch.tensor([[5.0, 6.0], [3.0, 4.0]])
    assert keeps(rows, original, batch=2, sample=1, row=-1) is kept
    constant = torch.ones(3)
    assert keeps((rows, constant), (original, constant), batch=2, sample=1, row=-1) is kept
    assert not keeps((rows, constant), (original, 2 * constant), batch=2, sample=1, row=-1)


def test_closeness_is_relative_to_the_largest_value() -> None:
    values = torch.tensor([1e-9, 1e3])
    assert close(values + torch.tensor([1e-2, 1e-1]), values)
    assert not close(values + torch.tensor([10.0, 0.0]), values)
    assert not close(values.expand(2, 2), values)
    assert close(torch.tensor([float("-inf"), 1.0]), torch.tensor([float("-inf"), 1.0]))
    assert magnitude([values, -5 * values, torch.tensor(9), torch.tensor(float("inf"))]) == 5e3
