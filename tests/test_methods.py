"""The list of methods: what it says of each, and that each runs."""

from __future__ import annotations

import re
from pathlib import Path

import networks
import pytest
import torch
from torch import nn

from multicam import METHODS, ClassLogit, InputError, explain
from multicam.methods import LISTED, Listed, method_named, takes_many_passes, with_progress
from multicam.perturbation import AblationCAM

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"


def pooled_network() -> nn.Sequential:
    """Every method applies to it, since it ends in pooling and one linear layer."""
    features = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU())
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_explains_by_its_name(name: str) -> None:
    targets = [ClassLogit(0), ClassLogit(2)]
    found = explain(pooled_network(), networks.images(2, 16), targets, layer="0", method=name)
    assert found.maps.shape[:2] == (2, 2)
    assert found.maps.isfinite().all()
    assert found.maps.flatten(2).std(dim=2).gt(0).all()
    assert found.method == name


@pytest.mark.parametrize(("name", "listed"), LISTED.items())
def test_every_method_says_what_it_is_what_it_costs_and_where_it_is_from(
    name: str, listed: Listed
) -> None:
    assert re.fullmatch(r"[\w+-]+( [\w+-]+)*: .+\.", listed.summary)
    assert re.match(r"\d+ forwards?, ", listed.cost)
    assert re.search(r"arXiv \d{4}\.\d{4,5}|, [A-Z ]+( \d+,)? 20\d\d|no paper", listed.paper)


def test_the_methods_are_those_listed() -> None:
    assert {name: listed.method for name, listed in LISTED.items()} == dict(METHODS)


def test_the_docs_have_a_section_on_every_method_and_its_cost() -> None:
    page = PAGE.read_text(encoding="utf-8")
    sections = re.findall(r"^### .*`(.+)`$", page, re.MULTILINE)
    assert set(METHODS) <= set(sections)
    assert len(sections) == len(set(sections))
    for name, listed in LISTED.items():
        assert f"| `{name}` | {listed.cost} |\n" in page


def test_methods_of_many_passes_can_show_how_far_they_are() -> None:
    assert {name for name in METHODS if takes_many_passes(name)} >= {"ablationcam", "rise"}
    assert not takes_many_passes("gradcam")
    assert with_progress("ablationcam", "cat.jpg") == AblationCAM(progress="cat.jpg")


def test_progress_changes_no_map() -> None:
    model, images = pooled_network(), networks.images(1, 16)
    silent, shown = (
        explain(model, images, ClassLogit(0), layer="0", method=method).maps
        for method in ("reciprocam", with_progress("reciprocam", "places"))
    )
    assert torch.equal(silent, shown)


def test_a_method_is_found_by_name_or_given_as_it_is() -> None:
    name, found = method_named("ablationcam")
    assert (name, found) == ("ablationcam", AblationCAM())
    assert method_named(found) == ("AblationCAM", found)
    with pytest.raises(InputError, match=r"no method is called 'scoercam'; try scorecam"):
        method_named("scoercam")
