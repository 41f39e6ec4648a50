"""What tells a target from its most similar alternatives."""

from __future__ import annotations

from typing import Any

import captioners
import networks
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from multicam import (
    CaptionLogProb,
    ClassLogit,
    ClassLogProb,
    ConceptLogit,
    Difference,
    InputError,
    Negative,
    PhraseLogit,
    PhraseLogProb,
    TargetError,
    TokenLogit,
    TokenLogProb,
    TopClass,
    explain,
)
from multicam.finer import Choice, FinerCAM, FinerScore
from multicam.targets import evaluate, settled
from multicam.tasks.captioning import Captioning
from multicam.tasks.classification import Classification

LOGITS = torch.tensor([[5.0, 4.5, 1.0, 4.0, 0.0], [0.0, 9.0, 2.0, 3.0, 2.5]], dtype=torch.float64)
TEXT = torch.stack([LOGITS, LOGITS.flip(0), LOGITS.roll(1, 1)], dim=1)
PHOTO = Image.linear_gradient("L").convert("RGB").resize((48, 36))


def network() -> networks.ConvNet:
    return networks.ConvNet(classes=5).double()


def signal() -> Tensor:
    random = torch.Generator().manual_seed(3)
    return torch.randn(2, 2, 6, 5, dtype=torch.float64, generator=random)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (ClassLogit(0), [5 - 0.6 * 4.25, 0 - 0.6 * 2.25]),
        (ClassLogit([3, 3]), [4 - 0.6 * 4.75, 3 - 0.6 * 2.25]),
        (TopClass(), [5 - 0.6 * 4.25, 9 - 0.6 * 2.75]),
        (TopClass(1), [4.5 - 0.6 * 4.5, 3 - 0.6 * 2.25]),
    ],
)
def test_the_mean_of_the_nearest_scores_is_subtracted(target: Any, expected: list[float]) -> None:
    found = FinerScore(target, alpha=0.6, alternatives=2)(LOGITS)
    assert found.tolist() == pytest.approx(expected)


def test_log_probabilities_are_compared_with_log_probabilities() -> None:
    found = FinerScore(ClassLogProb(0), alpha=0.6, alternatives=2)(LOGITS)
    logs = LOGITS.log_softmax(dim=1)
    assert found[0].item() == pytest.approx((logs[0, 0] - 0.3 * (logs[0, 1] + logs[0, 3])).item())
    rather = FinerScore(ClassLogProb(0), alpha=1)(LOGITS)
    torch.testing.assert_close(rather, FinerScore(ClassLogit(0), alpha=1)(LOGITS))


@pytest.mark.parametrize(
    ("target", "same"),
    [
        (TokenLogit(0, 3), ClassLogit(3)),
        (TokenLogProb(0, 3), ClassLogProb(3)),
        (PhraseLogit([0], [3]), ClassLogit(3)),
        (PhraseLogProb([0], [3]), ClassLogProb(3)),
        (CaptionLogProb([3]), ClassLogProb(3)),
    ],
)
def test_a_token_is_compared_with_the_others_at_its_step(target: Any, same: Any) -> None:
    torch.testing.assert_close(FinerScore(target)(TEXT), FinerScore(same)(LOGITS))


@pytest.mark.parametrize(
    ("phrase", "token"), [(PhraseLogit, TokenLogit), (PhraseLogProb, TokenLogProb)]
)
def test_a_phrase_is_compared_token_by_token(phrase: Any, token: Any) -> None:
    found = FinerScore(phrase([0, 2], [3, 1]))(TEXT)
    parts = [FinerScore(token(0, 3))(TEXT), FinerScore(token(2, 1))(TEXT)]
    torch.testing.assert_close(found, parts[0] + parts[1])


def test_a_caption_is_a_phrase_from_its_first_step_on() -> None:
    found = FinerScore(CaptionLogProb([3, 1]))(TEXT)
    torch.testing.assert_close(found, FinerScore(PhraseLogProb([0, 1], [3, 1]))(TEXT))


def test_there_are_no_more_alternatives_than_other_scores() -> None:
    found = FinerScore(ClassLogit(0), alpha=1, alternatives=9)(LOGITS)
    assert found[0].item() == pytest.approx(5 - (4.5 + 1 + 4 + 0) / 4)


def test_of_equal_scores_the_first_are_taken() -> None:
    target = FinerScore(ClassLogit(1), alternatives=2)
    assert target.settled(torch.ones(1, 4)).nearest is not None
    assert target.labels(torch.ones(1, 4)) == ["class 1 rather than class 0 or class 2"]


def test_settled_alternatives_stay_those_of_their_output() -> None:
    target = settled(FinerScore(TopClass(), alpha=1, alternatives=1), LOGITS)
    changed = LOGITS.flip(0)
    expected = changed[[0, 1], [0, 1]] - changed[[0, 1], [1, 3]]
    torch.testing.assert_close(target(changed), expected)


def test_labels_name_the_alternatives() -> None:
    names = ["cat", "lynx", "cup", "fox", "tree"]
    labels = FinerScore(ClassLogit(0, names), alternatives=2).labels(LOGITS)
    assert labels == ["cat rather than lynx or fox", "cat rather than cup or tree"]
    assert (
        FinerScore(ClassLogit(0), alternatives=1).labels(LOGITS)[0] == "class 0 rather than class 1"
    )
    assert FinerScore(TokenLogit(0, 3)).labels(TEXT)[0] == "token 3 at step 0 rather than others"


def test_a_target_of_your_own_says_what_it_picks_from() -> None:
    class Margin:
        """Twice the logit of class 2."""

        def __call__(self, output: Tensor) -> Tensor:
            return 2 * output[:, 2]

        def choice(self, output: Tensor) -> Choice:
            return Choice(2 * output.unsqueeze(1), torch.full((len(output), 1), 2))

    found = FinerScore(Margin())(LOGITS)
    torch.testing.assert_close(found, 2 * FinerScore(ClassLogit(2))(LOGITS))


def test_the_map_is_the_map_less_a_share_of_those_of_the_alternatives() -> None:
    model, image = network(), signal()
    classes = model(image).argsort(dim=1, descending=True)
    ranked = [ClassLogit(column.tolist()) for column in classes.T]
    own, *others = explain(model, image, ranked, layer="second").maps.unbind(dim=1)
    found = explain(model, image, layer="second", method="finercam")
    expected = own - 0.6 * torch.stack(others[:3]).mean(dim=0)
    torch.testing.assert_close(found.maps[:, 0], expected)
    assert found.method == "finercam"
    assert found.labels[0][0].startswith(f"class {classes[0, 0]} rather than class {classes[0, 1]}")
    scores = model(image).sort(dim=1, descending=True).values
    torch.testing.assert_close(found.scores[:, 0], scores[:, 0] - 0.6 * scores[:, 1:4].mean(dim=1))


@pytest.mark.parametrize("method", ["layercam", "shapleycam", "ablationcam", "occlusion"])
def test_any_method_explains_the_finer_score(method: str) -> None:
    model, image, targets = network(), signal(), [ClassLogit(0), ClassLogit(3)]
    options: dict[str, Any] = {"layer": "second", "vectorize": True}
    finer = explain(model, image, targets, method=FinerCAM(method, alpha=0.8), **options)
    scores = [settled(FinerScore(one, alpha=0.8), model(image)) for one in targets]
    expected = explain(model, image, scores, method=method, **options)
    torch.testing.assert_close(finer.maps, expected.maps)
    assert finer.method == f"finer {method}"


def test_without_comparison_it_is_the_method_itself() -> None:
    model, image = network(), signal()
    found = explain(model, image, layer="second", method=FinerCAM("hirescam", alpha=0))
    torch.testing.assert_close(found.maps, explain(model, image, method="hirescam").maps)


def test_it_explains_classes_and_captions() -> None:
    classifier = Classification(networks.Inplace(), captioners.transform, list("abcde"))
    found = classifier.explain(PHOTO, ["a", "c"], layer="conv", method="finercam")
    assert [label.split(" rather than ")[0] for label in found.labels[0]] == ["a", "c"]
    captioner = Captioning(captioners.Attentive(), captioners.transform, captioners.vocabulary)
    found = captioner.explain(
        PHOTO, "a brown dog", layer="cnn.3", method="finercam", target=PhraseLogProb
    )
    assert found.labels[0] == ("a", "brown", "dog", "a brown dog")
    assert found.maps.flatten(2).any(dim=2).all()
    torch.testing.assert_close(found.scores[0, :3].sum(), found.scores[0, 3])


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (Negative(ClassLogit(0)), "Negative"),
        (Difference(ClassLogit(0), ClassLogit(1)), "Difference"),
        (ConceptLogit(0, [1, 2]), "ConceptLogit"),
        (lambda output: output[:, 0], "<lambda>"),
    ],
)
def test_a_target_that_picks_from_no_list_is_refused(target: Any, name: str) -> None:
    message = rf"{name} does not pick .* ClassLogit, .* Difference\(a, b\) compares any two scores"
    with pytest.raises(TargetError, match=message):
        explain(network(), signal(), target, layer="second", method="finercam")


def test_a_single_score_has_no_alternatives() -> None:
    model = networks.ConvNet(classes=1).double()
    with pytest.raises(TargetError, match="ClassLogit picks from a single score"):
        explain(model, signal(), ClassLogit(0), layer="second", method="finercam")


@pytest.mark.parametrize(
    ("target", "output", "message"),
    [
        (ClassLogit(5), LOGITS, "class 5 is not in a model of 5 classes"),
        (ClassLogit([1, 2, 3]), LOGITS, "3 classes were given for a batch of 2"),
        (TokenLogit(3, 0), TEXT, "step 3 is not among the 3 steps"),
        (PhraseLogit([0], [9]), TEXT, "token 9 is not among the 5 tokens"),
    ],
)
def test_targets_that_do_not_fit_say_so_themselves(
    target: Any, output: Tensor, message: str
) -> None:
    with pytest.raises(TargetError, match=message):
        evaluate(FinerScore(target), output, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": -0.5}, r"alpha=-0.5: give 0 \(no comparison\) or more, such as 0.6"),
        ({"alpha": float("nan")}, "alpha=nan"),
        ({"alternatives": 0}, "alternatives=0: give 1 to compare with, or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FinerCAM("gradcam", **settings)


def peer_network() -> nn.Sequential:
    torch.manual_seed(7)
    convolutions = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    head = nn.Linear(8 * 4, 5)
    return nn.Sequential(convolutions, nn.AdaptiveAvgPool2d(2), nn.Flatten(), head).eval()


def scaled(maps: Tensor) -> Tensor:
    """What speaks for the score, each map from 0 to 1."""
    positive = maps.relu()
    lowest = positive.amin(dim=(1, 2), keepdim=True)
    return (positive - lowest) / (positive.amax(dim=(1, 2), keepdim=True) - lowest)


@pytest.mark.parametrize(("method", "name"), [("gradcam", "GradCAM"), ("layercam", "LayerCAM")])
def test_equal_to_torchcam(method: str, name: str) -> None:
    peer = pytest.importorskip("torchcam.methods", reason="torchcam is not installed")
    model, image = peer_network(), networks.images()
    with peer.FinerCAM(model, "0", base_method=getattr(peer, name)) as extractor:
        theirs = extractor(1, model(image), normalized=False)[0].detach()
    ours = explain(model, image, ClassLogit(1), layer="0", method=FinerCAM(method)).maps[:, 0]
    assert scaled(theirs).std() > 0.05
    torch.testing.assert_close(scaled(ours), scaled(theirs), rtol=0, atol=1e-4)


def test_equal_to_pytorch_grad_cam_for_one_alternative() -> None:
    """Of several it takes a mean by their probabilities."""
    peer = pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam is not installed")
    model, image = peer_network(), networks.images()
    with peer.FinerCAM(model, [model[0]]) as extractor:
        theirs = torch.from_numpy(extractor(image, alpha=0.6, comparison_categories=[1]))
    finer = FinerCAM(alpha=0.6, alternatives=1)
    ours = explain(model, image, layer="0", method=finer).maps[:, 0]
    assert theirs.std() > 0.05
    torch.testing.assert_close(scaled(ours), theirs, rtol=0, atol=1e-4)
