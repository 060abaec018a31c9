"""The tables of both READMEs, from the results beside this file.

    python benchmarks/tables.py            # write them
    python benchmarks/tables.py --check    # say which are not those of the results

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import standings

from zoo.metrics.registry import METRICS, short_extractor_name
from zoo.report import table

HERE = Path(__file__).parent
READMES = [HERE / "README.md", HERE.parent / "docs" / "results.md"]
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a table is out of date")
    options = parser.parse_args()
    for readme in READMES:
        text = readme.read_text(encoding="utf-8")
        made = BLOCK.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[4]}", text)
        pairs = zip(BLOCK.finditer(text), BLOCK.finditer(made), strict=True)
        stale = [old[2] for old, new in pairs if old[3] != new[3]]
        if stale and options.check:
            sys.exit(f"{readme}: out of date: {', '.join(stale)}; `python benchmarks/tables.py` writes them")
        if stale:
            readme.write_text(made, encoding="utf-8")


def results(name: str) -> list[Row]:
    lines = (HERE / "results" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def ssim_speed() -> str:
    rows = [
        [
            str(row["size"]),
            f"{row['fakes']} x {row['reals']:,}",
            row["engine"],
            f"{row['ratio']:.0f}",
            f"{row['ours_us_per_pair']:.2f}",
            f"{row['skimage_us_per_pair']:.0f}",
            f"{row['agreement']:.0e}",
            f"{row['peak_mb'] / 1000:.2f} GB",
        ]
        for row in results("ssim_speed")
    ]
    headings = ["pixels>", "fakes x reals", "engine", "times scikit-image>", "us a pair>", "scikit-image, us>"]
    return table.markdown_table([*headings, "agreement>", "peak memory>"], rows)


def fid_speed() -> str:
    rows = []
    for row in results("fid_speed"):
        cold, warm = row["cold_s"], row["warm_s"]
        rows.append(
            [
                f"{row['n']:,}",
                str(row["size"]),
                f"{cold['theirs']:.0f} / {cold['ours']:.0f}",
                f"**{row['cold_ratio']:.2f}**",
                f"{warm['theirs']:.1f} / {warm['ours']:.1f}",
                f"**{row['warm_ratio']:.2f}**",
                f"{row['fid_torch_fidelity']:.4f} / {row['fid']:.4f}",
                f"{row['difference']:.0e}",
            ]
        )
    headings = ["images a side>", "pixels>", "cold, s: torch-fidelity / zoo>", "ratio>", "warm, s>", "ratio>", "FID>"]
    return table.markdown_table([*headings, "difference>"], rows)


def alarms() -> str:
    """A line a size: how often the memorisation alarm rings, of splits of the unseen subjects; which collapses ring."""
    every = results("alarms")
    lines = []
    for size in sorted({row["size"] for row in every}):
        mine = [row for row in every if row["size"] == size]
        split = [row for row in mine if "splits" in row]
        honest = [row for row in split if "copies" not in row["case"]]
        line = [str(size), rate([row for row in honest if row["case"] == "unseen"])]
        line.append(rate([row for row in honest if row["case"] != "unseen"]))
        for kind in ("shifted", "brightened", "noisy"):
            line.append(rate([row for row in split if f"tenth {kind}" in row["case"]], lowest=True))
        collapsed = [row for row in mine if "ringing" in row]
        few = [row for row in collapsed if re.match("one .* image|the mean|ten", row["case"])]
        varied = [row for row in collapsed if re.match("unseen|one slice|two", row["case"])]
        line.append(f"{sum(bool(row['ringing']) for row in few)} of {len(few)}")
        line.append(f"{sum(bool(row['ringing']) for row in varied)} of {len(varied)}")
        lines.append(line)
    headings = ["pixels>", "unseen reals>", "blurred reals, generators>"]
    headings += [f"a tenth {kind}>" for kind in ("shifted", "brightened", "noisy")]
    return table.markdown_table([*headings, "one, mean, ten images>", "reals, also of few people>"], lines)


SHOWN = [METRICS[name] for name in ("fid", "kid", "precision", "recall", "coverage", "ssim_nearest", "ssim_pairwise")]


def bench() -> str:
    """What ``zoo bench`` found, every size under the last; of the baselines, the real images."""
    lines = []
    for row in sorted(results("bench"), key=lambda row: int(row["group"].split(" ")[0])):
        baseline = row["kind"] == "baseline"
        if baseline and row["name"] not in ("unseen subjects", "train half against half", "black"):
            continue
        name = f"({row['name']})" if baseline else f"`{row['name'].rpartition('-')[0]}`"
        seen = "" if baseline else f"{row['cost']['nimg']:,}"
        cells = [table.cell(row["figures"][metric.name], metric.decimals, interval=True) for metric in SHOWN]
        lines.append([row["group"].split(" ")[0], name, seen, *cells, table.alarms(row)])
    titles = [f"{metric.title}>" for metric in SHOWN]
    return table.markdown_table(["px>", "", "images seen>", *titles, "alarms"], lines)


def train_speed() -> str:
    rows = []
    for row in results("train_speed"):
        rows.append(
            [
                f"`{row['name']}`",
                f"{row['environment']['device']}, {row['environment']['hardware']}",
                str(row["batch"]),
                f"**{row['ratio']:.2f}**",
                f"{min(row['ratios']):.2f} to {max(row['ratios']):.2f}",
                f"{row['ours_img_per_s']:.3g} / {row['plain_img_per_s']:.3g}",
                f"{row['share_of_floor']:.0%}",
                f"{row['macs_per_image'] / 1e9:.3g}",
                " / ".join(f"{count / 1e6:.1f}" for count in row["parameters"]),
            ]
        )
    headings = [
        "recipe",
        "device",
        "batch>",
        "times plain>",
        "of pairs>",
        "images a second, ours / plain>",
        "of the floor>",
    ]
    return table.markdown_table([*headings, "billion multiply-adds an image>", "million parameters, G / D>"], rows)


def scaling() -> str:
    rows = []
    for row in results("scaling"):
        if "processes" in row:
            continue
        sent = (row["bytes_g"] + row["bytes_d"]) / 1e6
        efficiencies = [f"{row[f'efficiency_{count}']:.0%}" for count in (8, 64, 512)]
        norms = f"{row['norms_share_512']:.0%}"
        step = f"{1000 * row['step_s']:.3g}"
        rows.append(
            [f"`{row['name']}`", str(row["batch"]), step, row["step_from"], f"{sent:,.0f}", *efficiencies, norms]
        )
    headings = ["recipe", "batch a GPU>", "step, ms>", "step from", "MB a step>", "8 GPUs>", "64>", "512>"]
    return table.markdown_table([*headings, "norms' part at 512>"], rows)


def memory() -> str:
    rows = []
    for row in results("memory"):
        mb = [f"{row[key] / 1e6:,.0f}" for key in ("set_bytes", "own_bytes", "peak_bytes")]
        rows.append([f"`{row['recipe']}`", f"{row['images']:,}", f"{row['nimg']:,}", *mb])
    headings = ["recipe", "images>", "shown>", "set, MB>", "the process's own, MB>", "peak resident, MB>"]
    return table.markdown_table(headings, rows)


def startup() -> str:
    rows = []
    for row in results("startup"):
        seconds = [f"{row[key]:.2g}" for key in ("imports_s", "to_first_step_s", "first_step_s", "step_s")]
        rows.append([f"`{row['recipe']}`", *seconds])
    headings = ["recipe", "imports, s>", "from there to the first step, s>", "first step, s>", "a later one, s>"]
    return table.markdown_table(headings, rows)


def cards() -> str:
    last = {row["name"]: row for row in results("cards")}
    lines = []
    for row in last.values():
        fid, kid = (f"{row[name]:.{n}f} / {row[f'{name}_card']:.{n}f}" for name, n in (("fid", 2), ("kid", 5)))
        lines.append([f"`{row['name']}`", f"{row['samples']:,}", fid, kid, "yes" if row["holds"] else "**no**"])
    return table.markdown_table(["", "fakes>", "FID, found / card>", "KID, found / card>", "in its interval"], lines)


RANKED = [METRICS[name] for name in ("fid", "kid", "precision", "recall", "ssim_nearest", "ssim_pairwise")]


def leaderboard(*groups: str) -> str:
    """Best first within each size and under the floors of it; what the budget was spent on stands in core-minutes."""
    rows = results("leaderboard")
    mine = [row for row in rows if row["group"] in groups]
    others = dict.fromkeys(space for row in mine for space in row["spaces"][1:])
    metrics = [
        *RANKED[:2],
        *(RANKED[1].of_space(space, f"kid_{short_extractor_name(space)}") for space in others),
        *RANKED[2:],
    ]
    lines = []
    for px in sorted({row["px"] for row in mine}):
        for row in standings.ranking([row for row in mine if row["px"] == px]):
            spent = "" if row["core_seconds"] is None else f"{row['core_seconds'] / 60:.1f}"
            counts = (
                " / ".join(f"{row[key]:,}" for key in ("params_g", "params_d")) if "params_g" in row else table.NONE
            )
            cells = [table.cell(row["figures"].get(one.name), one.decimals, interval=True) for one in metrics]
            name = f"`{row['name']}`{', longer' if row['group'] == 'long' else ''}"
            lines.append(
                [str(px), name, f"{row['kimg']:.0f}", spent, f"{row['wall'] / 60:.0f}", counts, *cells, said(row)]
            )
        for row in rows:
            if (row["group"], row["px"], row["name"]) == (standings.FLOORS, px, "unseen subjects"):
                cells = [table.cell(row["figures"].get(one.name), one.decimals, interval=True) for one in metrics]
                lines.append([str(px), f"({row['name']})", "", "", "", "", *cells, ""])
    headings = ["px>", "", "kimg>", "core-minutes>", "minutes>", "G / D parameters>"]
    return table.markdown_table([*headings, *(f"{one.title}>" for one in metrics), "alarms, and what to know"], lines)


def said(row: Row) -> str:
    """Alarms, what was wrong, what its D knew before, and whether one run is all there is."""
    sees = f"its D has seen {row['sees']}" if row["sees"] else ""
    parts = [table.alarms(row), row["error"] or "", row["stopped"] or "", sees, row["note"]]
    return "; ".join(part for part in parts if part)


def rate(rows: Sequence[Row], *, lowest: bool = False) -> str:
    """How often any measure rang: the worst case of several sizes and bases."""
    worst = (min if lowest else max)(row["rings"] for row in rows)
    return f"{worst:.0%}"


TABLES: dict[str, Callable[[], str]] = {
    "ssim_speed": ssim_speed,
    "fid_speed": fid_speed,
    "alarms": alarms,
    "bench": bench,
    "cards": cards,
    "train_speed": train_speed,
    "scaling": scaling,
    "memory": memory,
    "startup": startup,
    "leaderboard": lambda: leaderboard("64", "long"),
    "leaderboard_128": lambda: leaderboard("128"),
    "leaderboard_ablation": lambda: leaderboard("ablation"),
    "leaderboard_same": lambda: leaderboard("same"),
    "leaderboard_seeds": lambda: leaderboard("seeds"),
    "leaderboard_peer": lambda: leaderboard("peer"),
}

if __name__ == "__main__":
    main()
