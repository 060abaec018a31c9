"""Write the result tables into README.md, benchmarks/README.md and docs/*.md, from the results in this folder.

It also writes ``zoo/core/measurements.json``, from which `zoo list` and `zoo train` know what a recipe has reached.

    python benchmarks/tables.py            # write the tables
    python benchmarks/tables.py --check    # report what differs from the results, with exit code 1

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import Row, last_common_length, make_parser, read_rows
from leaderboard_tables import LEADERBOARD_TABLES, measurements

from zoo.metrics.confidence import mean_with_interval
from zoo.metrics.registry import METRICS
from zoo.report.table import NONE, format_alarms, format_value_cell, markdown_table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
BENCH_METRICS = [
    METRICS[name] for name in ("fid", "kid", "precision", "recall", "coverage", "ssim_nearest", "ssim_pairwise")
]
_PRECISION_COLUMNS = [(precision, layout) for precision in ("fp32", "bf16") for layout in ("NHWC", "NCHW")]
MEASUREMENTS = ROOT / "zoo" / "core" / "measurements.json"
EARLIER_CPU = "AMD EPYC, bf16"  # of rows from before the CPU was recorded
ALL_SUBJECTS = 10**9  # in place of 0, so that it sorts last
PAPER_MODES = {  # Huang et al. 2024, arXiv:2501.05441, table 1
    "RpGAN + R1 + R2": ("1,000", "0.078"),
    "GAN + R1 + R2": ("693", "0.927"),
    "RpGAN + R1": ("fails", NONE),
    "GAN + R1": ("fails", NONE),
}
FAKES, REALS = 5000, 5472  # of the evaluation that SSIM's speed is stated for
SHOWN_BASELINES = ("unseen subjects", "train half against half", "black")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a table is out of date")
    options = parser.parse_args()
    for page in pages():
        text = page.read_text(encoding="utf-8")
        updated = BLOCK.sub(lambda block: f"{block[1]}\n{TABLES[block[2]]()}\n{block[4]}", text)
        blocks = zip(BLOCK.finditer(text), BLOCK.finditer(updated), strict=True)
        stale = [old[2] for old, new in blocks if old[3] != new[3]]
        if stale and options.check:
            names = ", ".join(stale)
            sys.exit(f"{page}: tables out of date: {names}. Run `python benchmarks/tables.py` to write them.")
        if stale:
            page.write_text(updated, encoding="utf-8")
    if MEASUREMENTS.read_text(encoding="utf-8") != (text := measurements()):
        if options.check:
            sys.exit(f"{MEASUREMENTS}: is out of date. Run `python benchmarks/tables.py` to write it.")
        MEASUREMENTS.write_text(text, encoding="utf-8")


def pages() -> list[Path]:
    """Return the files that may contain tables."""
    return [ROOT / "README.md", HERE / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def results(name: str) -> list[Row]:
    return read_rows(HERE / "results" / f"{name}.jsonl")


def latest_by_cpu(name: str, key: Callable[[Row], Any]) -> list[tuple[str, Row]]:
    """Return the latest row of each CPU with equal ``key``, with the CPU; rows of equal keys stand together."""
    latest: dict[Any, dict[str, Row]] = {}
    for row in results(name):
        # Rows of the first versions do not name the CPU; all are of one machine.
        cpu = row.get("environment", {}).get("cpu") or EARLIER_CPU
        latest.setdefault(key(row), {})[cpu.replace("(R)", "").replace(" Processor", "")] = row
    return [(cpu, row) for rows in latest.values() for cpu, row in rows.items()]


def ssim_speed() -> str:
    rows = [
        [
            str(row["size"]),
            cpu,
            f"{row['fakes']} x {row['reals']:,}",
            row["engine"],
            f"{row['ratio']:.0f}",
            f"{row['ours_us_per_pair']:.2f}",
            f"{row['ours_us_per_pair'] * FAKES * REALS / 1e6:,.0f}",
            f"{row['skimage_us_per_pair']:.0f}",
            f"{row['agreement']:.0e}",
            f"{row['peak_mb'] / 1000:.2f} GB",
        ]
        for cpu, row in latest_by_cpu("ssim_speed", lambda row: (row["size"], row["engine"].split(" (")[0]))
    ]
    headings = ["pixels>", "CPU", "fakes x reals", "engine", "times scikit-image>", "us a pair>"]
    headings += [f"{FAKES:,} x {REALS:,}, s>", "scikit-image, us>", "agreement>", "peak memory>"]
    return markdown_table(headings, rows)


def fid_speed() -> str:
    rows, forms = [], ("torch-fidelity", "zoo", "zoo, public operators", "matrix product")
    for cpu, row in latest_by_cpu("fid_speed", lambda row: (row["n"], row["size"])):
        cold, warm = row["cold_s"], row["warm_s"]
        rows.append(
            [
                f"{row['n']:,}",
                str(row["size"]),
                cpu,
                f"{cold['theirs']:.0f} / {cold['ours']:.0f}",
                f"**{row['cold_ratio']:.2f}**",
                f"{warm['theirs']:.1f} / {warm['ours']:.1f}",
                f"**{row['warm_ratio']:.2f}**",
                f"{row['fid_torch_fidelity']:.4f} / {row['fid']:.4f}",
                f"{row['difference']:.0e}",
                " / ".join(f"{row['macs_per_s'][name] / 1e9:.0f}" for name in forms) if "macs_per_s" in row else NONE,
            ]
        )
    headings = [
        "images a side>",
        "pixels>",
        "CPU",
        "cold, s: torch-fidelity / zoo>",
        "ratio>",
        "warm, s>",
        "ratio>",
        "FID>",
    ]
    headings += ["difference>", "billion multiply-adds a second of one core: torch-fidelity / zoo / public / matrix>"]
    return markdown_table(headings, rows)


def alarms() -> str:
    """One line per size: how often the memorisation alarm is triggered, and which collapsed sets trigger an alarm."""
    every_row = results("alarms")
    lines = []
    for size in sorted({row["size"] for row in every_row}):
        rows = [row for row in every_row if row["size"] == size]
        memorisation = [row for row in rows if "splits" in row]
        honest = [row for row in memorisation if "copies" not in row["case"]]
        line = [str(size), worst_rate([row for row in honest if row["case"] == "unseen"])]
        line.append(worst_rate([row for row in honest if row["case"] != "unseen"]))
        for kind in ("shifted", "brightened", "noisy"):
            line.append(worst_rate([row for row in memorisation if f"tenth {kind}" in row["case"]], lowest=True))
        for cases in ("one .* image|the mean|ten", "unseen|one slice|two"):
            variety = [row for row in rows if "ringing" in row and re.match(cases, row["case"])]
            line.append(f"{sum(bool(row['ringing']) for row in variety)} of {len(variety)}")
        lines.append(line)
    headings = ["pixels>", "held-out images>", "blurred, generated>"]
    headings += [f"a tenth {kind}>" for kind in ("shifted", "brightened", "noisy")]
    return markdown_table([*headings, "one, mean, ten images>", "varied real images>"], lines)


def privacy() -> str:
    """One line per size and kind of set: extremes of each value, and how often its alarm is triggered."""
    every_row = results("privacy")
    kinds = {
        "held-out images": "unseen$",
        "blurred": "blurred [0-9.]+$",
        "generators": "(?!unseen|blurred|shifted|brightened|noisy)[^,]+$",
        "a tenth copies, n 64": ".*a tenth",
        "a tenth copies, n 500": ".*a tenth",
        "a tenth copies, n 2,000": ".*a tenth",
        "copies alone": "(shifted|brightened|noisy) copies$",
    }
    lines = []
    for size in sorted({row["size"] for row in every_row}):
        for kind, pattern in kinds.items():
            n = kind.partition(", n ")[2].replace(",", "")
            rows = [row for row in every_row if row["size"] == size and re.match(pattern, row["case"])]
            rows = [row for row in rows if not n or row["n"] == int(n)]
            if rows:
                lines.append([str(size), kind, *_privacy_cells([row["measures"] for row in rows])])
    return markdown_table(["pixels>", "set", "authenticity>", "distance ratio>", "membership (distance)>"], lines)


def _privacy_cells(measures: Sequence[Row]) -> list[str]:
    cells = []
    for name in ("authenticity", "distance_ratio", "membership_distance"):
        low, high = min(row[name]["lowest"] for row in measures), max(row[name]["highest"] for row in measures)
        rates = sorted(row[name]["rings"] for row in measures)
        rate = f"{rates[0]:.0%}" if rates[0] == rates[-1] else f"{rates[0]:.0%} to {rates[-1]:.0%}"
        cells.append(f"{rate} ({low:.2f} to {high:.2f})")
    return cells


def worst_rate(rows: Sequence[Row], *, lowest: bool = False) -> str:
    """Return how often any measure was triggered: the highest rate of the rows, or the lowest."""
    rate = (min if lowest else max)(row["rings"] for row in rows)
    return f"{rate:.0%}"


def bench() -> str:
    """Results of ``zoo bench``, each size below the smaller ones; of the baselines only the real images and black."""
    lines = []
    for row in sorted(results("bench"), key=_size_of_group):
        baseline = row["kind"] == "baseline"
        if baseline and row["name"] not in SHOWN_BASELINES:
            continue
        # Names of runs end with a number.
        name = f"({row['name']})" if baseline else f"`{row['name'].rpartition('-')[0]}`"
        nimg = "" if baseline else f"{row['cost']['nimg']:,}"
        cells = [
            format_value_cell(row["figures"][metric.name], metric.decimals, interval=True) for metric in BENCH_METRICS
        ]
        digest, n = "" if baseline else f"`{row['recipe_digest'][:8]}`", f"{row['figures']['fid']['n']:,}"
        lines.append([str(_size_of_group(row)), name, digest, nimg, n, *cells, format_alarms(row)])
    titles = [f"{metric.title}>" for metric in BENCH_METRICS]
    return markdown_table(["px>", "", "recipe digest", "images seen>", "n>", *titles, "alarms"], lines)


def _size_of_group(row: Row) -> int:
    return int(row["group"].split(" ")[0])  # "64 x 64"


def train_speed() -> str:
    """Return the latest row of each recipe on each kind of CPU or GPU, one kind next to the other."""
    latest = {(row["name"], hardware_name(row["environment"])): row for row in results("train_speed")}
    kinds = sorted({kind for _, kind in latest})
    lines = []
    for name in sorted({name for name, _ in latest}, key=lambda name: _work_of_recipe(name, latest)):
        line = [f"`{name}`"]
        for kind in kinds:
            line += _speed_cells(latest.get((name, kind)))
        row = next(row for (recipe, _), row in latest.items() if recipe == name)
        parameters = " / ".join(f"{count / 1e6:.1f}" for count in row["parameters"])
        lines.append([*line, f"{row['macs_per_image'] / 1e9:.3g}", parameters])
    columns = ("batch, precision>", "times plain>", "images a second, ours / plain>", "of the roofline>")
    headings = [f"{kind}: {columns[0]}" if column == columns[0] else column for kind in kinds for column in columns]
    return markdown_table(["recipe", *headings, "billion multiply-adds an image>", "million parameters, G / D>"], lines)


def _work_of_recipe(name: str, rows: dict[tuple[str, str], Row]) -> float:
    return min(row["macs_per_image"] for (recipe, _), row in rows.items() if recipe == name)


def _speed_cells(row: Row | None) -> list[str]:
    if row is None:
        return [NONE] * 4
    cut = f" of {row['recipe_batch']}" if row.get("recipe_batch", row["batch"]) != row["batch"] else ""
    return [
        f"{row['batch']}{cut}, {row['environment']['precision']}",
        f"**{row['ratio']:.2f}** ({min(row['ratios']):.2f} to {max(row['ratios']):.2f})",
        f"{row['ours_img_per_s']:.3g} / {row['plain_img_per_s']:.3g}",
        f"{row['share_of_floor']:.0%}",
    ]


def hardware_name(environment: Row) -> str:
    """Return a short name of the CPU or GPU that a row was measured on."""
    if environment["device"] != "cpu":
        return environment["hardware"]
    cpu = environment.get("cpu") or EARLIER_CPU
    return cpu.replace("(R)", "").replace(" Processor", "")


def precision() -> str:
    """Return the latest row of each recipe and CPU: the step's time with each setting, and the choice of ``auto``."""
    latest = {
        (row["environment"]["cpu"], row["environment"]["threads"], row["name"]): row for row in results("precision")
    }
    rows = []
    for (cpu, threads, name), row in latest.items():
        step = row["step_s"]
        times = [f"{1000 * step[f'{precision} {layout}']:,.0f}" for precision, layout in _PRECISION_COLUMNS]
        ratios = [f"{row[key]:.2f}" for key in ("bf16_ratio", "auto_ratio", "auto_ratio_all")]
        rows.append([f"`{name}`", cpu, str(threads), str(row["batch"]), *times, ratios[0], row["auto"], *ratios[1:]])
    columns = [f"{precision}, {layout}, ms>" for precision, layout in _PRECISION_COLUMNS]
    headings = ["recipe", "CPU", "threads>", "batch>", *columns, "bf16 / fp32>", "auto", "auto / better precision>"]
    return markdown_table([*headings, "auto / best of four>"], rows)


def scaling() -> str:
    rows = []
    for row in results("scaling"):
        if "processes" in row:  # of --check
            continue
        sent = (row["bytes_g"] + row["bytes_d"]) / 1e6
        efficiencies = [
            f"{row[f'efficiency_{count}']:.0%} ({row[f'efficiency_overlap_{count}']:.0%})" for count in (8, 64, 512)
        ]
        norms = f"{row['norms_share_512']:.0%}"
        step = f"{1000 * row['step_s']:.3g}"
        source = row["step_from"].replace("floor", "roofline")  # the word in results of earlier versions
        rows.append([f"`{row['name']}`", str(row["batch"]), step, source, f"{sent:,.0f}", *efficiencies, norms])
    headings = ["recipe", "batch a GPU>", "step, ms>", "step from", "MB a step>", "8 GPUs>", "64>", "512>"]
    return markdown_table([*headings, "batch norms' share at 512>"], rows)


def scaling_check() -> str:
    rows = []
    for row in results("scaling"):
        if "processes" not in row:
            continue
        sending = [f"{row.get('transfer_s', row['all_reduce_s']):.3g}", f"{row['all_reduce_s']:.3g}"]
        steps = [f"{row[key]:.3g}" for key in ("step_alone_s", "predicted_s", "measured_without_norms_s", "measured_s")]
        mbit = f"{row['mbit']:,}" if row.get("mbit") else "unlimited"
        rows.append(
            [f"`{row['name']}`", str(row["processes"]), mbit, f"{row['bytes'] / 1e6:.0f}", " / ".join(sending), *steps]
        )
    headings = ["recipe", "processes>", "Mbit/s of each>", "MB>", "sending, s: model / measured>", "step alone, s>"]
    return markdown_table([*headings, "T(n), s>", "measured, no synchronised norms>", "measured>"], rows)


def run_time() -> str:
    rows = []
    for cpu, row in latest_by_cpu("run_time", lambda row: row["name"]):
        shares = row["shares"]
        parts = ("validation", "grids", "checkpoints", "curves", "animation")
        counts = [f"{row[key]:,.0f}" for key in ("snapshots", "checkpoints")]
        times = [f"{1000 * row['seconds'][part]:,.0f}" for part in ("steps", *parts)]
        percentages = [f"{shares[part]:.2%}" for part in parts]
        rows.append([f"`{row['name']}`", cpu, *counts, " / ".join(times), *percentages, f"**{row['share']:.1%}**"])
    headings = [
        "recipe",
        "CPU",
        "grids an hour>",
        "checkpoints>",
        "ms: step / validation / grid / checkpoint / curves / frame>",
    ]
    return markdown_table([*headings, "validation>", "grids>", "checkpoints>", "curves>", "animation>", "all>"], rows)


def memory() -> str:
    rows = []
    for cpu, row in latest_by_cpu("memory", lambda row: (row["recipe"], row["images"])):
        mb = [f"{row[key] / 1e6:,.0f}" for key in ("set_bytes", "own_bytes", "peak_bytes")]
        rows.append([f"`{row['recipe']}`", cpu, f"{row['images']:,}", f"{row['nimg']:,}", *mb])
    headings = ["recipe", "CPU", "images>", "images seen>", "image set, MB>", "own memory, MB>", "peak resident, MB>"]
    return markdown_table(headings, rows)


def startup() -> str:
    rows = []
    for cpu, row in latest_by_cpu("startup", lambda row: row["recipe"]):
        seconds = [f"{row[key]:.2g}" for key in ("imports_s", "to_first_step_s", "first_step_s", "step_s")]
        rows.append([f"`{row['recipe']}`", cpu, *seconds])
    headings = ["recipe", "CPU", "imports, s>", "imports to first step, s>", "first step, s>", "later step, s>"]
    return markdown_table(headings, rows)


def kill() -> str:
    lines = []
    every_row = results("kill")
    for kind in dict.fromkeys(row["kind"] for row in every_row):
        rows = [row for row in every_row if row["kind"] == kind]
        counts = [sum(row[key] for row in rows) for key in ("kills", "in_writes", "trials", "same")]
        left = sum(len(row["leftovers"]) for row in rows)
        lines.append([f"`{kind}`", *map(str, [*counts, left])])
    return markdown_table(["", "kills>", "inside writes>", "trials>", "same end>", "files left>"], lines)


def cards() -> str:
    latest = {row["name"]: row for row in results("cards")}
    lines = []
    for row in latest.values():
        fid, kid = (f"{row[name]:.{n}f} / {row[f'{name}_card']:.{n}f}" for name, n in (("fid", 2), ("kid", 5)))
        lines.append([f"`{row['name']}`", f"{row['samples']:,}", fid, kid, "yes" if row["holds"] else "**no**"])
    headings = ["", "images>", "FID, measured / card>", "KID, measured / card>", "within the interval"]
    return markdown_table(headings, lines)


def stacked_mnist() -> str:
    """One line per loss and seed, at the greatest length that all of them have."""
    rows = results("stacked_mnist")
    last = last_common_length(rows)
    lines = []
    for row in rows:
        if row["kimg"] in (0, last):
            counted = [f"{row['modes']:,}", f"{row['kl']:.3f}"] if "modes" in row else ["diverged", NONE]
            paper = PAPER_MODES.get(row["loss"], (NONE, NONE))
            lines.append([row["loss"], f"{row['kimg']:g}" if row["kimg"] else NONE, *counted, *paper])
    headings = ["loss", "kimg>", "modes of 1,000>", "KL>", "modes in the paper>", "KL in the paper>"]
    return markdown_table(headings, lines)


def downstream() -> str:
    """One line per number of real subjects and kind of training, over all seeds."""
    groups: dict[tuple[int, str], list[Row]] = {}
    for row in results("downstream"):
        groups.setdefault((row["subjects"] or ALL_SUBJECTS, row["arm"]), []).append(row)
    lines = []
    for (subjects, arm), rows in sorted(groups.items(), key=lambda item: item[0][0]):  # stable: arms as measured
        accuracies = [row["accuracy"] for row in rows]
        compared = [_gain(rows, groups.get((subjects, base), [])) for base in ("real", "real, augmented")]
        count = "all" if subjects == ALL_SUBJECTS else str(subjects)
        spread = f"{min(accuracies):.1%} to {max(accuracies):.1%}"
        mean = f"{sum(accuracies) / len(accuracies):.1%}"
        lines.append([count, f"{rows[0]['slices']:,}", arm, mean, spread, *compared])
    headings = ["real subjects>", "real slices>", "trained on", "accuracy>", "lowest to highest seed>"]
    return markdown_table([*headings, "more than real alone, points>", "than real, augmented>"], lines)


def _gain(rows: Sequence[Row], base: Sequence[Row]) -> str:
    """Return by how many points rows are more accurate, with the interval over test subjects of the seeds' mean."""
    by_seed = {row["seed"]: row["subject_accuracies"] for row in base}
    pairs = [(row["subject_accuracies"], by_seed[row["seed"]]) for row in rows if row["seed"] in by_seed]
    if not pairs or rows[0]["arm"] == base[0]["arm"]:
        return ""
    gains = np.mean([100 * (np.array(ours) - np.array(theirs)) for ours, theirs in pairs], axis=0)
    gain = mean_with_interval(gains)
    return f"{gain.value:+.1f} ({gain.low:+.1f} to {gain.high:+.1f})"


TABLES: dict[str, Callable[[], str]] = {
    "ssim_speed": ssim_speed,
    "fid_speed": fid_speed,
    "alarms": alarms,
    "privacy": privacy,
    "bench": bench,
    "cards": cards,
    "train_speed": train_speed,
    "precision": precision,
    "scaling": scaling,
    "scaling_check": scaling_check,
    "run_time": run_time,
    "memory": memory,
    "startup": startup,
    "kill": kill,
    "stacked_mnist": stacked_mnist,
    "downstream": downstream,
    **LEADERBOARD_TABLES,
}

if __name__ == "__main__":
    main()
