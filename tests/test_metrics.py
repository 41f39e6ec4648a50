from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from multicam import Explanation
from multicam.errors import InputError
from multicam.metrics import (
    bootstrap_interval,
    box_ratio,
    centre_point,
    covered_area,
    energy_inside,
    pointing_game,
    uniform_map,
)

Boxes = list[tuple[float, float, float, float]]

RAMP = np.array(
    [
        [0.0, 1.0, 2.0, -1.0],
        [1.0, 2.0, 3.0, -3.0],
        [0.0, 0.0, 1.0, 0.0],
    ]
)
"""Positive values sum up to 10; the highest is in row 1, column 2."""

SCORES: list[Callable[[np.ndarray, Boxes], float]] = [pointing_game, box_ratio, energy_inside]


@st.composite
def sizes_with_boxes(draw: st.DrawFn) -> tuple[tuple[int, int], Boxes]:
    """A photo of up to 12 x 12 pixels, and boxes that touch it."""
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    boxes: Boxes = []
    for _ in range(draw(st.integers(1, 3))):
        left, top = draw(st.floats(-3, width - 0.5)), draw(st.floats(-3, height - 0.5))
        right = draw(st.floats(max(left, 0) + 0.1, width + 3))
        boxes.append((left, top, right, draw(st.floats(max(top, 0) + 0.1, height + 3))))
    return (height, width), boxes


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, Boxes]:
    """A signed map, in part not seen, with boxes."""
    size, boxes = draw(sizes_with_boxes())
    numbers = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e3, 1e3), st.just(math.nan))
    values = draw(arrays(np.float64, size, elements=numbers))
    assume(not np.isnan(values).all())
    return values, boxes


def is_inside(row: int, column: int, boxes: Boxes, tolerance: float = 0.0) -> bool:
    y, x = row + 0.5, column + 0.5
    for left, top, right, bottom in boxes:
        nearest_x, nearest_y = min(max(x, left), right), min(max(y, top), bottom)
        if math.sqrt((x - nearest_x) ** 2 + (y - nearest_y) ** 2) <= tolerance:
            return True
    return False


def slowly(values: np.ndarray, boxes: Boxes) -> tuple[float, float, float]:
    """Pointing game, box ratio and energy, pixel by pixel from their definitions."""
    inside: list[float] = []
    outside: list[float] = []
    for row, column in product(*map(range, values.shape)):
        if not math.isnan(values[row, column]):
            into = inside if is_inside(row, column, boxes) else outside
            into.append(max(float(values[row, column]), 0.0))
    top = max(inside + outside)
    hits = sum(value >= top * (1 - 1e-6) for value in inside)
    pointing = hits / sum(value >= top * (1 - 1e-6) for value in inside + outside)
    if top == 0:
        return pointing, math.nan, math.nan
    energy = sum(inside) / sum(inside + outside)
    if not inside or not outside:
        return pointing, math.nan, energy
    within, beyond = sum(inside) / len(inside), sum(outside) / len(outside)
    return pointing, within / beyond if beyond else math.inf, energy


@settings(deadline=None, max_examples=50)
@given(cases())
def test_the_scores_equal_their_definitions_pixel_by_pixel(case: Any) -> None:
    values, boxes = case
    found = tuple(score(values, boxes) for score in SCORES)
    assert found == pytest.approx(slowly(values, boxes), nan_ok=True)


@settings(deadline=None, max_examples=50)
@given(cases(), st.floats(1e-6, 1e6))
def test_how_strong_a_map_is_does_not_change_its_scores(case: Any, factor: float) -> None:
    values, boxes = case
    for score in SCORES:
        scaled = score(values * factor, boxes)
        assert scaled == pytest.approx(score(values, boxes), nan_ok=True)


@pytest.mark.parametrize("factor", [1e-300, 5e307])
def test_values_whose_sum_overflows_score_as_well(factor: float) -> None:
    for score in SCORES:
        boxes: Boxes = [(2, 0, 4, 2)]
        assert score(RAMP * factor, boxes) == pytest.approx(score(RAMP, boxes))


@settings(deadline=None, max_examples=50)
@given(cases())
def test_a_mirrored_photo_scores_the_same(case: Any) -> None:
    values, boxes = case
    width = values.shape[1]
    mirrored = [(width - right, top, width - left, bottom) for left, top, right, bottom in boxes]
    columns = (np.arange(width) + 0.5)[:, np.newaxis]
    edges = np.array([[box[0], box[2]] for box in boxes]).ravel()
    assume((np.abs(columns - edges) > 1e-9).all())  # width - left is rounded
    for score in SCORES:
        expected = score(values, boxes)
        assert score(values[:, ::-1], mirrored) == pytest.approx(expected, nan_ok=True)


@settings(deadline=None, max_examples=50)
@given(cases())
def test_scores_keep_to_their_ranges(case: Any) -> None:
    values, boxes = case
    assert 0 <= pointing_game(values, boxes) <= 1
    assert not box_ratio(values, boxes) < 0
    assert math.isnan(energy := energy_inside(values, boxes)) or 0 <= energy <= 1 + 1e-12


@settings(deadline=None, max_examples=50)
@given(sizes_with_boxes())
def test_a_uniform_map_scores_the_covered_area_and_a_ratio_of_one(case: Any) -> None:
    size, boxes = case
    covered = covered_area(size, boxes)
    slow = [is_inside(y, x, boxes) for y, x in product(*map(range, size))]
    assert covered == pytest.approx(sum(slow) / len(slow))
    assert pointing_game(uniform_map(size), boxes) == pytest.approx(covered)
    assert energy_inside(uniform_map(size), boxes) == pytest.approx(covered)
    ratio = box_ratio(uniform_map(size), boxes)
    assert math.isnan(ratio) if covered in (0, 1) else ratio == pytest.approx(1)


@settings(deadline=None, max_examples=50)
@given(cases(), st.floats(0, 5), st.floats(0, 5))
def test_more_tolerance_never_scores_less(case: Any, tolerance: float, more: float) -> None:
    values, boxes = case
    near = pointing_game(values, boxes, tolerance=tolerance)
    assert pointing_game(values, boxes, tolerance=tolerance + more) >= near >= 0


@pytest.mark.parametrize(
    ("boxes", "pointing", "ratio", "energy"),
    [
        ([(2, 0, 4, 2)], 1, (5 / 4) / (5 / 8), 0.5),
        ([(0, 0, 2, 3)], 0, (4 / 6) / (6 / 6), 0.4),
        ([(0, 0, 1, 1), (2, 1, 3, 2)], 1, (3 / 2) / (7 / 10), 0.3),  # a union of two
        ([(1, 0, 3, 3), (2, 0, 3, 3)], 1, (9 / 6) / (1 / 6), 0.9),  # they overlap
        ([(1.6, 0.6, 2.4, 1.4)], 0, math.nan, 0),  # no pixel has its centre there
        ([(-9, -9, 99, 99)], 1, math.nan, 1),
    ],
)
def test_scores_of_a_map_worked_out_by_hand(
    boxes: Boxes, pointing: float, ratio: float, energy: float
) -> None:
    assert pointing_game(RAMP, boxes) == pointing
    assert box_ratio(RAMP, boxes) == pytest.approx(ratio, nan_ok=True)
    assert energy_inside(RAMP, boxes) == pytest.approx(energy)


def test_a_map_that_is_zero_outside_has_an_infinite_ratio() -> None:
    assert box_ratio(np.array([[0.0, -1.0, 2.0]]), [(2, 0, 3, 1)]) == math.inf
    assert box_ratio(np.array([[2.0, -1.0, 0.0]]), [(2, 0, 3, 1)]) == 0


@pytest.mark.parametrize("values", [np.zeros((2, 4)), np.full((2, 4), -1.0), -np.eye(2, 4)])
def test_a_map_without_positive_values_points_nowhere(values: np.ndarray) -> None:
    boxes: Boxes = [(0, 0, 1, 2)]
    assert pointing_game(values, boxes) == 0.25
    assert math.isnan(box_ratio(values, boxes))
    assert math.isnan(energy_inside(values, boxes))


def test_maxima_that_tie_score_the_share_that_hits() -> None:
    values = np.array([[3.0, 1.0, 3.0, 3.0, 3.0]])
    assert pointing_game(values, [(0, 0, 2, 1)]) == 0.25
    values[0, 4] = 3.1
    assert pointing_game(values, [(0, 0, 2, 1)]) == 0


def test_what_the_model_did_not_see_is_left_out() -> None:
    values = np.array([[4.0, 1.0, np.nan, np.nan], [2.0, 1.0, np.nan, np.nan]])
    boxes: Boxes = [(0, 0, 1, 1), (2, 0, 4, 2)]
    assert pointing_game(values, boxes) == 1
    assert box_ratio(values, boxes) == pytest.approx(4 / (4 / 3))
    assert energy_inside(values, boxes) == 0.5
    assert math.isnan(box_ratio(values, [(2, 0, 4, 2)]))
    assert math.isnan(box_ratio(values, [(0, 0, 2, 2)]))


@pytest.mark.parametrize(
    ("tolerance", "score"), [(0, 0), (0.5, 0), (1.5, 1), (np.sqrt(0.5), 0), (40, 1)]
)
def test_a_near_miss_is_a_hit_within_the_tolerance(tolerance: float, score: float) -> None:
    """The maximum at (2.5, 1.5) is 1.5 to the right of the box."""
    assert pointing_game(RAMP, [(0, 0, 1, 3)], tolerance=float(tolerance)) == score


def test_the_tolerance_is_round_at_corners() -> None:
    boxes: Boxes = [(0, 2, 2, 3)]  # 0.5 to the left, 0.5 below: 0.7071 away
    assert pointing_game(RAMP, boxes, tolerance=0.7) == 0
    assert pointing_game(RAMP, boxes, tolerance=0.71) == 1


@pytest.mark.parametrize(
    ("size", "places"),
    [
        ((1, 1), [(0, 0)]),
        ((3, 3), [(1, 1)]),
        ((2, 3), [(0, 1), (1, 1)]),
        ((4, 4), [(1, 1), (1, 2), (2, 1), (2, 2)]),
    ],
)
def test_the_centre_point_is_in_the_middle(
    size: tuple[int, int], places: list[tuple[int, int]]
) -> None:
    assert [tuple(place) for place in np.argwhere(centre_point(size))] == places


def test_a_map_laid_on_a_photo_is_scored_as_it_is(tmp_path: Any) -> None:
    import torch
    from PIL import Image

    cells = torch.zeros(1, 1, 7, 7)
    cells[0, 0, 1, 5] = 1
    explanation = Explanation(cells, torch.ones(1, 1), (("dog",),), "layer", "method", {})
    placed = explanation.placed(Image.new("RGB", (140, 70)))
    cell = [(100.0, 10.0, 120.0, 20.0)]
    assert pointing_game(placed, cell) == 1
    assert pointing_game(placed, [(0, 0, 100, 70), (120, 0, 140, 70)]) == 0
    assert box_ratio(placed, cell) > 20
    level = Explanation(cells * 0 + 0.3, torch.ones(1, 1), (("dog",),), "layer", "method", {})
    uniform = level.placed(Image.new("RGB", (141, 83)))
    assert pointing_game(uniform, cell) == pytest.approx(covered_area((83, 141), cell))


# Intervals


def test_the_interval_of_groups_of_one_is_that_of_independent_values() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400)
    low, high = bootstrap_interval(values, range(400))
    error = values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)


def test_words_of_one_photo_do_not_count_as_many_photos() -> None:
    photos = np.random.default_rng(2).normal(0, 1, 50)
    words, groups = np.repeat(photos, 20), np.repeat(np.arange(50), 20).tolist()
    assert bootstrap_interval(words, groups) == bootstrap_interval(photos, range(50))


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.floats(-10, 10), st.integers(0, 4)), min_size=2, max_size=20),
    st.integers(0, 5),
)
def test_an_interval_lies_among_the_values_and_repeats(pairs: Any, seed: int) -> None:
    values, groups = zip(*pairs, strict=True)
    assume(len(set(groups)) > 1)
    low, high = bootstrap_interval(values, groups, seed=seed, draws=30)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert (low, high) == bootstrap_interval(values, groups, seed=seed, draws=30)


def test_the_median_bears_infinite_ratios() -> None:
    values = [1.0, 2.0, 3.0, math.inf]
    low, high = bootstrap_interval(values, range(4), statistic=np.median)
    assert low >= 1
    assert high == math.inf


# Bad input


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([], "the list of boxes is empty; give at least one"),
        ([(0, 0, 1)], r"the box \(0, 0, 1\) is not \(left, top, right, bottom\) in pixels"),
        ([(0, 0, 1, math.nan)], r"the box .*nan.* is not \(left, top, right, bottom\)"),
        ([(1, 0, 1, 2)], r"the box \(1, 0, 1, 2\) has no area; needed is left < right"),
        ([(0, 2, 1, 1)], r"the box \(0, 2, 1, 1\) has no area"),
        ([(0, 0, 1, 1), (4, 0, 5, 1)], r"\(4, 0, 5, 1\) lies beyond the map of 3 x 4 pixels"),
        ([(0, -2, 1, 0)], r"lies beyond the map of 3 x 4 pixels \(height x width\)"),
    ],
)
def test_a_box_that_is_none_is_refused(
    score: Callable[..., float], boxes: Boxes, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        score(RAMP, boxes)
    with pytest.raises(InputError, match=message):
        covered_area((3, 4), boxes)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((1, 3, 4)), r"a map of shape \(1, 3, 4\) with 12 finite values was given"),
        (np.full((3, 4), np.nan), r"shape \(3, 4\) with 0 finite values .* Explanation.placed"),
        (np.full((3, 4), math.inf), r"needed is \(height, width\), with NaN alone for places"),
        (np.zeros((0, 4)), r"a map of shape \(0, 4\) with 0 finite values"),
    ],
)
def test_a_map_that_is_none_is_refused(
    score: Callable[..., float], values: np.ndarray, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        score(values, [(0, 0, 1, 1)])


@pytest.mark.parametrize("tolerance", [-1.0, math.nan])
def test_a_tolerance_below_zero_is_refused(tolerance: float) -> None:
    with pytest.raises(InputError, match=r"tolerance=.*: give a distance in pixels, 0 or more"):
        pointing_game(RAMP, [(0, 0, 1, 1)], tolerance=tolerance)


@pytest.mark.parametrize("make", [uniform_map, centre_point])
def test_a_map_without_pixels_is_refused(make: Callable[[tuple[int, int]], np.ndarray]) -> None:
    with pytest.raises(InputError, match=r"a map of \(0, 3\) has no pixels"):
        make((0, 3))


@pytest.mark.parametrize(
    ("values", "groups", "options", "message"),
    [
        ([1.0, math.nan], [1, 2], {}, "1 of the 2 values are NaN; leave those words out"),
        ([1.0, 2.0], [1], {}, r"values of shape \(2,\) and 1 groups were given"),
        ([1.0, 2.0], [1, 1], {}, "2 values of 1 photos say nothing about other photos"),
        ([], [], {}, "0 values of 0 photos"),
        ([1.0, 2.0], [1, 2], {"draws": 0}, "draws=0: give 1 or more"),
    ],
)
def test_an_interval_of_nothing_is_refused(
    values: Sequence[float], groups: Sequence[int], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        bootstrap_interval(values, groups, **options)


# The benchmark that uses them


@pytest.fixture
def grounding(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return import_module("grounding")


def test_the_table_names_every_category_of_coco_by_words(grounding: ModuleType) -> None:
    table = json.loads(grounding.WORDS.read_text())
    assert len(table) == 80
    for category, words in table.items():
        assert words
        assert len(set(words)) == len(words)
        assert all(word == word.lower() and len(word.split()) <= 2 for word in words)
        assert category in words or category in {"orange", "sports ball", "dining table"}


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a dog and a dog", [("dog", "dog"), ("dog", "dog (2)")]),
        ("A hot dog beside a dog", [("hot dog", "hot dog"), ("dog", "dog (2)")]),
        ("a red light", []),
        ("dog", [("dog", "dog")]),
    ],
)
def test_words_are_matched_longest_first_and_told_apart(
    grounding: ModuleType, caption: str, expected: list[tuple[str, str]]
) -> None:
    table = {"dog": ["dog", "puppy"], "hot dog": ["hot dog"]}
    assert list(grounding.named(caption, table)) == expected


def test_the_benchmark_scores_a_folder_of_photos(
    grounding: ModuleType,
    photos: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "coco128"
    (folder / "images").mkdir(parents=True)
    faces = {"astronaut": [0.35, 0.05, 0.55, 0.4], "hopper": [0.3, 0.1, 0.7, 0.6]}
    boxes = {}
    for name, box in faces.items():
        (folder / "images" / f"{name}.jpg").write_bytes(photos[name].read_bytes())
        boxes[f"{name}.jpg"] = [{"category": "person", "box": box}]
    (folder / "boxes.json").write_text(json.dumps(boxes))
    options = ["grounding.py", "--data", str(tmp_path), "--markdown"]
    monkeypatch.setattr("sys.argv", options)
    grounding.main()
    printed = capsys.readouterr().out
    assert "2 photos, 2 of them with a word to score" in printed
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[2:5]] == ["| uniform map", "| centre point", "| the word's map"]
    assert rows[2][4] == "1.00 (1.00 to 1.00)"
