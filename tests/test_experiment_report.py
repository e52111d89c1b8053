"""What a run shows: names of people, factors of speed, and figures that explain their lines."""

import doctest
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.report import plots, results
from experiments.runner import progress


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    found: list[Figure] = []
    monkeypatch.setattr(plots.Figure, "savefig", lambda figure, *_, **__: found.append(figure))
    return found


def words(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_costs_have_names_of_people_and_speed_is_a_factor(capsys) -> None:
    pairs = {name: {"dense": 200, "pruned": 50} for name in (*results.COSTS, *results.MEASURED)}
    pairs["images_per_s"] = {"dense": 100.0, "pruned": 1075.0}
    found = {"accuracy": {"dense": 0.995}, "wall_time_s": 3.0, **pairs}
    results.report(Path("run"), found)
    out = capsys.readouterr().out
    assert "activation bytes" in out
    assert "_" not in out
    (speed,) = (line for line in out.splitlines() if "images/s" in line)
    assert "x 10.8" in speed
    assert "%" not in speed
    assert out.count("25.0 %") == len(pairs) - 1


def test_the_threshold_is_marked(figures) -> None:
    scales = {"before": np.linspace(0, 1, 9)}
    plots.scale_histogram(Path("a"), scales, threshold=0.25)
    plots.scale_histogram(Path("b"), scales)
    assert "threshold 0.25" in words(figures[0].axes[0])
    assert words(figures[1].axes[0]) == ["before: 9 scales"]


def test_the_chosen_ratio_is_marked_and_accuracies_have_error_bars(figures) -> None:
    plots.curve(Path("a"), [0.0, 0.5], [1.0, 0.5], images=400, chosen=0.75)
    (axes,) = figures[0].axes
    assert "chosen: 75 % pruned" in words(axes)
    assert "accuracy on 400 images, ± standard error" in words(axes)
    (bars,) = axes.collections
    heights = [np.ptp(path.vertices[:, 1]) for path in bars.get_paths()]
    np.testing.assert_allclose(heights, [2 / 400, 2 * 0.025])


def test_cuts_are_explained_and_prunings_are_whole_numbers(figures) -> None:
    kinds = ("dense", "commit", "commit")
    records = [
        {"accuracy": 0.9, "macs": 0.5, "kind": kind, "rounds": i} for i, kind in enumerate(kinds)
    ]
    plots.rounds(Path("a"), records, images=400)
    plots.rounds(Path("b"), records, images=None)
    (axes,) = figures[0].axes
    assert words(axes).count("pruned channels are cut out") == 1
    assert isinstance(axes.xaxis.get_major_locator(), MaxNLocator)
    assert all(place == round(place) for place in axes.get_xticks())
    assert not figures[1].axes[0].collections


def test_bars_show_both_widths(figures) -> None:
    plots.widths(Path("a"), before={"a": 32, "b": 3}, after={"a": 4, "b": 3})
    (axes,) = figures[0].axes
    assert [text.get_text() for text in axes.texts] == ["4 of 32", "3 of 3"]
    assert all(place == round(place) for place in axes.get_xticks())


def test_a_spectrum_has_error_bars_where_there_are_errors(figures) -> None:
    points = [(100.0, 0.9, 0.01), (50.0, 0.8, 0.02)]
    plots.spectrum(Path("a"), {"with": points, "without": [(m, y, 0.0) for m, y, _ in points]})
    assert len(figures[0].axes[0].collections) == 1


@pytest.mark.parametrize("module", [plots, progress], ids=lambda module: module.__name__)
def test_examples_are_right(module) -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0
