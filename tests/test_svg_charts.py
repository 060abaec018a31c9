"""Number formats, axes, curves and sprites, compared with values worked out by hand."""

import base64
import io
import itertools
import re

import numpy as np
import pytest
from PIL import Image

from zoo.report import number_format
from zoo.report.html import sprites, svg_charts


def ascii_(text):
    """Replace the minus sign and the dash by hyphens and remove thin spaces."""
    return text.replace(number_format.MINUS, "-").replace(number_format.DASH, "-").replace(number_format.NARROW, "")


def losses(points, negative=False):
    return [{"nimg": 1000 * i, "loss_d": 2.0 / (i + 1) - negative} for i in range(points)]


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [(137.731, 2, "137.7"), (9.294, 2, "9.29"), (0.17703, 4, "0.1770"), (2171.4, 1, "2,171"), (0, 3, "0.000"),
     (-0.00012, 4, "-0.0001"), (-0.00002, 4, "0.0000"), (0.00352, 4, "0.0035"), (12345678.9, 2, "12,345,679")],
)  # fmt: skip
def test_values_have_only_significant_digits(value, decimals, text):
    assert ascii_(number_format.format_value(value, decimals)) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(131.04, 144.4, "131-144"), (8.84, 9.77, "8.84-9.77"), (-0.0012, 0.0034, "-0.0012-0.0034"), (97, 107, "97-107")],
)
def test_intervals(low, high, text):
    assert ascii_(number_format.format_interval([low, high], 4)) == text


def test_counts_durations_and_rates():
    assert [number_format.format_count(v) for v in (7, 999, 3574656, 1.04e9, 100032)] == [
        "7",
        "999",
        "3.57 M",
        "1.04 G",
        "100 k",
    ]
    assert number_format.format_count(14309632, "B") == "14.3 MB"
    times = [number_format.format_duration(v) for v in (8.21, 42.4, 59.7, 881.7, 11100, 187200)]
    assert times == ["8.2 s", "42 s", "1 min 00 s", "14 min 42 s", "3 h 05 min", "2 d 4 h"]
    assert [number_format.format_rate(v) for v in (0.2134, 43.21, 1250.4)] == ["0.213", "43.2", "1,250"]
    assert [number_format.join_words(items) for items in ([], ["a"], ["a", "b", "c"])] == ["", "a", "a, b and c"]
    assert [number_format.finite_or_none(v) for v in (float("nan"), float("inf"), None, True, "1", 2)] == [None] * 5 + [
        2.0
    ]


def test_axes_place_values():
    linear = svg_charts.Axis(low=0, high=50)
    assert linear.place(25) == pytest.approx(0.5)
    assert linear.place(-3) == 0
    assert linear.ticks(6) == [(0.0, "0"), (0.2, "10"), (0.4, "20"), (0.6, "30"), (0.8, "40"), (1.0, "50")]
    log_axis = svg_charts.Axis(low=1, high=100, kind="log")
    assert log_axis.place(10) == pytest.approx(0.5)
    assert [label for _, label in log_axis.ticks(5)] == ["1", "3", "10", "30", "100"]
    both = svg_charts.Axis(low=-100, high=100, kind="symlog", bend=1)
    assert both.place(0) == pytest.approx(0.5)
    assert both.place(-7) == pytest.approx(1 - both.place(7))
    assert [ascii_(label) for _, label in both.ticks(7)] == ["-100", "-10", "0", "10", "100"]


@pytest.mark.parametrize("kind", ["linear", "log", "symlog"])
@pytest.mark.parametrize(
    ("low", "high"), [(0.5, 0.500001), (1e-9, 3e-9), (3, 4e7), (0.01, 1.2), (70, 130), (-5e6, 0.3)]
)
def test_ticks_are_few_distinct_and_inside(kind, low, high):
    along = svg_charts.make_axis([low, high], kind)
    ticks = along.ticks(5)
    assert 1 <= len(ticks) <= 6
    assert len({label for _, label in ticks}) == len(ticks)
    places = [place for place, _ in ticks]
    assert all(b - a >= svg_charts.MIN_TICK_DISTANCE for a, b in itertools.pairwise(places))
    assert places == sorted(places)
    assert 0 <= places[0] <= places[-1] <= 1


def test_axis_is_logarithmic_only_for_distant_values():
    assert svg_charts.make_axis([1, 100]).kind == "log"
    assert svg_charts.make_axis([50, 100]).kind == "linear"
    assert svg_charts.make_axis([-1, 100]).kind == "linear"
    assert svg_charts.make_axis([10, 100], zero=True).low == 0
    assert svg_charts.make_axis([90, 100], zero=True).low > 80
    assert svg_charts.make_axis([]) is None
    one = svg_charts.make_axis([3.0])
    assert one.low < 3 < one.high


def test_whiskers_are_at_their_values():
    along = svg_charts.Axis(low=0, high=10)
    drawn = svg_charts.draw_whisker(along, {"value": 5, "low": 4, "high": 7}, {"value": 1, "low": None, "high": None})
    assert re.search(r'class="reach" d="M400 500H700"', drawn)
    assert re.search(r'class="dot" d="M500 500h0"', drawn)
    assert re.search(r'class="ceiling" d="M100 0V1000"', drawn)
    assert "dot" not in svg_charts.draw_whisker(along, {"value": 12}, None)


def test_curves_are_thinned_to_medians():
    x = np.arange(5000.0)
    thin_x, thin_y = svg_charts.thin_out(x, 3 * x)
    assert len(thin_x) == svg_charts.CURVE_MAX_POINTS
    inner = slice(20, -20)  # at the ends a running median has half its points
    assert np.allclose(thin_y[inner], 3 * thin_x[inner])
    spiked = np.ones(100)
    spiked[50] = 1e6
    assert svg_charts.thin_out(np.arange(100.0), spiked)[1].max() == 1
    few = svg_charts.thin_out(x[:5], x[:5])
    assert (few[1] == x[:5]).all()


@pytest.mark.parametrize("negative", [False, True])
def test_curves_stay_inside_the_drawing(negative):
    curve = svg_charts.read_curve(losses(2000, negative), "loss_d", "run", 3)
    chart = svg_charts.draw_curves("D loss", [curve], log=True)
    assert chart.scale == "logarithmic"
    assert (
        300 < len(re.search(r'class="line dash3" d="([^"]+)"', chart.svg)[1].split("L")) <= svg_charts.CURVE_MAX_POINTS
    )
    places = [int(v) for v in re.findall(r"-?\d+", re.search(r'class="line dash3" d="([^"]+)"', chart.svg)[1])]
    assert min(places) >= 0
    assert max(places) <= svg_charts.DRAWING_UNITS
    assert "run ends at" in chart.words


def test_log_is_read_in_order_and_without_gaps():
    rows = [{"nimg": 2, "x": 5.0}, {"nimg": 1, "x": 4.0}, {"nimg": 3, "x": None}, {"x": 1.0}, {"nimg": 4, "x": np.inf}]
    curve = svg_charts.read_curve(rows, "x", "run", 0)
    assert curve.x.tolist() == [1, 2]
    assert curve.y.tolist() == [4, 5]
    assert svg_charts.read_curve(rows, "y", "run", 0) is None


def test_twenty_curves_differ():
    assert len({(slot % svg_charts.CURVE_COLOURS, slot % svg_charts.CURVE_DASHES) for slot in range(20)}) == 20


def test_sprites_average_down():
    image = np.arange(64, dtype=np.uint8).reshape(1, 1, 8, 8) * 4
    sprite = sprites.make_sprite(image, 1, side=4, gap=0)
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(sprite.uri.split(",")[1]))))
    means = image[0, 0].reshape(4, 2, 4, 2).mean(axis=(1, 3))
    assert np.abs(sheet - means).max() <= 0.5
    assert (sprite.width, sprite.height, sprite.side) == (4, 4, 4)


@pytest.mark.parametrize(
    ("low", "high", "text", "bars"),
    [(0.0, 0.0, "", 0), (0.0, 0.0004, "", 0), (0.0, 0.078, "0.000-0.078", 1), (0.3, 0.5, "0.300-0.500", 1)],
)
def test_an_empty_interval_has_no_bar_and_no_ends(low, high, text, bars):
    figure = {"value": low, "low": low, "high": high}
    axis = svg_charts.Axis(low=0.0, high=1.0)
    assert ascii_(number_format.format_interval((low, high), 3)) == text
    assert svg_charts.draw_whisker(axis, figure, None).count('class="reach"') == bars
    assert svg_charts.draw_whisker(axis, {"value": 0.2}, figure).count('class="band"') == bars


def test_the_dot_at_the_end_of_a_curve_is_inside():
    curve = svg_charts.Curve(name="a", slot=0, x=np.array([100.0, 200.0]), y=np.array([0.0, 1.0]))
    chart = svg_charts.draw_curves("t", [curve])
    places = [int(x) for x in re.findall(r"M(\d+) \d+h0", chart.svg)]
    assert places
    assert max(places) < 990  # of 1000
    assert "up to 200:" in chart.words
