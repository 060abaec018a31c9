"""Rows of results: JSON, seeds, ranking and tables."""

import pytest

from zoo.evaluation.results import ResultRow, merge_seeds, rank_rows, row_from_json
from zoo.metrics import registry
from zoo.metrics.value import MetricValue, missing_value
from zoo.report.table import (
    bench_markdown,
    describe_no_alarm,
    describe_notes,
    describe_signs,
    format_value_cell,
    quality_table,
    quality_tables,
)


def row(name, seed=0, error=None, **numbers):
    values = {name: MetricValue(value=value, low=value - 1, high=value + 1, n=10) for name, value in numbers.items()}
    return ResultRow(name=name, kind="variant", error=error, values={} if error else values, facts={"seeds": [seed]})


METRICS = registry.metric_columns(registry.choose_metrics(None), ["inception"])


def test_row_survives_json():
    before = row("a", fid=3.0)
    before.alarms = [{"name": "collapse", "metric": "recall", "value": 0.0, "threshold": 0.1, "text": "x"}]
    before.values["kid"] = missing_value("too few")
    assert row_from_json(before.to_json()) == before


def test_rank_lower_fid_first_and_failed_rows_last():
    rows = [row("bad", error="no weights"), row("b", fid=5.0, kid=1.0), row("a", fid=4.0, kid=2.0)]
    order, by = rank_rows(rows, METRICS, {})
    assert [ranked.name for ranked in order] == ["a", "b", "bad"]
    assert by == "fid"


def test_metric_missing_in_one_row_does_not_rank():
    rows = [row("a", fid=1.0, kid=2.0), row("b", kid=1.0)]
    assert rank_rows(rows, METRICS, {})[1] == "kid"
    assert [ranked.name for ranked in rank_rows(rows, METRICS, {})[0]] == ["b", "a"]


def test_match_ranks_by_distance_to_heldout_images():
    rows = [row("copier", ssim_nearest=0.99), row("good", ssim_nearest=0.84), row("blur", ssim_nearest=0.6)]
    order, by = rank_rows(rows, METRICS, {"ssim_nearest": MetricValue(value=0.85)})
    assert ([ranked.name for ranked in order], by) == (["good", "copier", "blur"], "ssim_nearest")
    assert rank_rows(rows, METRICS, {})[1] is None


def test_seeds_are_merged_into_mean_and_spread():
    merged = merge_seeds([row("a", 0, fid=4.0), row("a", 1, fid=6.0), row("a", 2, error="diverged")])
    assert merged.values["fid"].value == 5.0
    assert (merged.values["fid"].low, merged.values["fid"].high) == (3.0, 7.0)
    assert merged.spread["fid"] == {"mean": 5.0, "sd": 2**0.5, "seeds": 2}
    assert merged.facts["seeds"] == [0, 1]
    assert merged.facts["failed"] == ["diverged"]
    _, lines = quality_table({"rows": [merged.to_json()], "baselines": []}, [METRICS[0].to_json()], intervals=True)
    assert lines[0][1] == "5.0 ±1.4 sd"
    half = merge_seeds([row("a", 0, fid=4.0, kid=1.0), row("a", 1, fid=6.0)])
    assert half.values["kid"].value is None
    assert merge_seeds([row("a", error="x")]).error == "x"
    two = [row("a", 0), row("a", 1)]
    for one, count in zip(two, (16, 17), strict=True):
        one.cost = {"nimg": count, "wall_s": float(count)}
    assert merge_seeds(two).cost == {"nimg": 16, "wall_s": 16.5}


def test_asymmetric_intervals_show_their_ends():
    assert format_value_cell({"value": 0.016, "low": 0.0, "high": 0.078}, 3, interval=True) == "0.016 (0 to 0.078)"
    assert format_value_cell({"value": 0.0, "low": 0.0, "high": 0.5}, 3, interval=True) == "0.000 (0 to 0.5)"
    assert format_value_cell({"value": 120.0, "low": 100.0, "high": 200.0}, 0, interval=True) == "120 (100 to 200)"
    assert format_value_cell({"value": 0.5, "low": 0.4, "high": 0.61}, 3, interval=True) == "0.500 ±0.105"
    assert format_value_cell({"value": 1.0, "low": 1.0, "high": 1.0}, 2, interval=True) == "1.00"


def test_tables_show_intervals_alarms_and_errors():
    good, bad = row("a", fid=4.0), row("b", error="wrong | hash")
    good.alarms = [{"name": "collapse", "metric": "recall", "value": 0.0, "threshold": 0.1, "text": "All the same."}]
    good.cost = {"parameters_g": 3_574_656, "nimg": 1000, "checkpoint_bytes": 14_300_000, "wall_s": 900}
    baseline = ResultRow(name="black", kind="baseline", values={"fid": missing_value("why")})
    group = {
        "name": "64 x 64 grey",
        "rows": [good.to_json(), bad.to_json()],
        "baselines": [baseline.to_json()],
        "data": {"train": 10, "unseen": 4, "description": "d"},
    }
    metrics = [registry.METRICS["fid"].to_json()]
    _, lines = quality_table(group, metrics, intervals=True)
    assert lines[0] == ["a", "4.0 ±1.0", "10", "collapse (recall)"]
    assert lines[1] == ["b", "-", "-", "broken: wrong | hash"]
    assert lines[2] == ["(black)", "-", "-", ""]
    text = bench_markdown({"groups": [group], "metrics": metrics, "notes": ["one note"]})
    assert "| b | - | - | broken: wrong / hash |" in text
    assert "- **a**: All the same." in text
    assert "| a | 3.57 M / – | 14.3 MB | 1,000 | 15 min 00 s |" in text  # noqa: RUF001
    assert "- one note" in text


def test_wide_tables_are_split_to_fit_the_terminal():
    figures = {metric.name: 0.5 for metric in METRICS}
    group = {"rows": [row("a", **figures).to_json()], "baselines": []}
    metrics = [metric.to_json() for metric in METRICS]
    whole = quality_tables(group, metrics, 10_000)
    assert len(whole) == 1
    cut = quality_tables(group, metrics, 80)
    assert len(cut) > 2
    titles = [heading for headings, _ in cut for heading in headings[1:] if heading not in ("n>", "alarms")]
    assert titles == whole[0][0][1:-2]
    for headings, lines in cut:
        assert lines[0][0] == "a"
        assert sum(max(map(len, column)) + 2 for column in zip(headings, lines[0], strict=True)) - 2 <= 80
        assert ("alarms" in headings) == (headings is cut[-1][0])


def test_alarms_are_whole_in_the_terminal(capsys):
    from zoo.cli.evaluate import _print_group

    alarmed, bad = row("a", **{metric.name: 0.5 for metric in METRICS}), row("b", error="no such file")
    names = (
        ("collapse", "ssim_pairwise"),
        ("collapse", "ssim_twins"),
        ("memorisation", "copies_ncc"),
        ("untrained", "fid"),
    )
    alarmed.alarms = [{"name": name, "metric": metric, "text": f"Because of {metric}."} for name, metric in names]
    group = {"name": "64 x 64 grey", "rows": [alarmed.to_json(), bad.to_json()], "baselines": []}
    _print_group(group, [metric.to_json() for metric in METRICS])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.endswith("collapse, memorisation, untrained") for line in lines)
    assert "b: broken: no such file" in lines
    assert "a: untrained: Because of fid." in lines


@pytest.mark.parametrize(
    ("checked", "sentence"),
    [
        (["collapse", "memorisation", "untrained"], "No alarm was triggered."),
        (["collapse", "untrained"], "No alarm was triggered; not evaluated: memorisation."),
        (["untrained"], "No alarm was triggered; not evaluated: collapse and memorisation."),
        ([], "Alarms were not evaluated: no metric that triggers one was measured, or too few images were there."),
        (None, "No generator could be evaluated."),
    ],
)
def test_what_was_not_evaluated_is_not_free_of_alarms(checked, sentence):
    line = row("a", error="gone" if checked is None else None)
    line.facts["checked_alarms"] = checked
    assert describe_no_alarm([line.to_json(), row("b", error="gone").to_json()]) == sentence


def test_columns_without_any_value_are_left_out_and_named():
    measured = row("a", ssim_nearest=0.5)
    for name in ("fid", "kid"):
        measured.values[name] = missing_value("no weights")
    group = {"name": "g", "rows": [measured.to_json()], "baselines": [row("b", fid=3.0).to_json()]}
    metrics = [registry.METRICS[name].to_json() for name in ("fid", "kid", "ssim_nearest")]
    headings, _ = quality_table(group, metrics, intervals=True)
    assert headings == ["", "FID>", "SSIM nearest>", "n>", "alarms"]  # a baseline has a FID
    assert quality_tables(group, metrics, 100)[0][0] == headings
    assert describe_notes(group, metrics) == ["FID, KID: not available: no weights"]
    nothing = {"name": "g", "rows": [row("a", error="gone").to_json()], "baselines": []}
    assert quality_tables(nothing, metrics, 100) == [(["", "n>", "alarms"], [["a", "-", "broken"]])]


def test_both_meanings_of_the_sign_are_explained_where_both_are_there():
    seeds = merge_seeds([row("a", 0, fid=4.0), row("a", 1, fid=6.0)])
    assert "sd" not in describe_signs({"rows": [row("a", fid=1.0).to_json()]})
    assert "sd: standard deviation over training seeds" in describe_signs({"rows": [seeds.to_json()]})
