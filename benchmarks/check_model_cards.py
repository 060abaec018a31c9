"""Check that `zoo bench` reproduces the metrics in the model cards of the pretrained weights.

    python benchmarks/check_model_cards.py --data PATH [NAME ...] [--save]

PATH holds the images of the card: training images and held-out subjects. The script generates as many images as the
card states and uses the same feature extractor. A card holds if FID and KID lie within the card's 95 % intervals;
the exit code is 1 if a card does not hold.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import Row, add_output_arguments, make_parser, measure_each

from zoo.core.errors import ZooError, suggest
from zoo.hub.pretrained import PretrainedWeights, load_catalogue

RESULTS = Path(__file__).parent / "results" / "cards.jsonl"
CHECKED_METRICS = ("fid", "kid")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="names in `zoo weights` (default: all local weights)")
    parser.add_argument("--data", required=True, metavar="PATH", help="images, as `zoo bench` takes them")
    add_output_arguments(parser, RESULTS)
    options = parser.parse_args()
    cards = {name: entry for name, entry in load_catalogue().items() if _is_checkable(entry)}
    for name in options.names:
        if name not in cards:
            hint = suggest(name, cards)
            parser.exit(2, f"{name}: no local weights with metrics{hint}. Choose from {', '.join(cards)}.\n")
    try:
        # One output folder for all weights, because they share the baselines of their image size.
        with tempfile.TemporaryDirectory() as out:
            names = options.names or cards
            rows = measure_each(
                names, lambda name: check_card(cards[name], options.data, out), describe_row, options, RESULTS
            )
    except ZooError as error:
        parser.exit(2, f"{error}\n")
    sys.exit(0 if all(row["holds"] for row in rows) else 1)


def _is_checkable(entry: PretrainedWeights) -> bool:
    return bool(entry.local and entry.judged and set(CHECKED_METRICS) <= set(entry.metrics))


def check_card(entry: PretrainedWeights, data: str, out: str) -> Row:
    """Return the card's metrics, those of a bench in ``out``, and whether the card holds.

    Raises:
        ZooError: the bench failed; it has printed the reason on stderr.
    """
    group = _run_bench(entry, data, out)
    (result,) = group["rows"]
    if result["error"]:
        raise ZooError(f"{entry.name}: {result['error']}")
    assert entry.judged is not None
    row: Row = {"name": entry.name, "sha256": entry.sha256, "samples": entry.judged.samples, "holds": True}
    for metric in CHECKED_METRICS:
        card, value = entry.metrics[metric], result["figures"][metric]["value"]
        assert card.low is not None
        assert card.high is not None
        row |= {metric: value, f"{metric}_card": card.value, f"{metric}_interval": [card.low, card.high]}
        row["holds"] &= card.low <= value <= card.high
    return row | {"data_digest": group["data"]["digest"], "date": time.strftime("%Y-%m-%d")}


def _run_bench(entry: PretrainedWeights, data: str, out: str) -> Row:
    """Return the only group of ``zoo bench --json`` on the weights."""
    evaluation = entry.judged
    assert evaluation is not None
    command = [sys.executable, "-m", "zoo", "bench", str(entry.path()), "--data", data, "--json", "--no-reals"]
    command += ["--samples", str(evaluation.samples), "--metrics", ",".join(CHECKED_METRICS)]
    if evaluation.space:
        command += ["--spaces", evaluation.space]
    process = subprocess.run([*command, "--out", out], stdout=subprocess.PIPE, text=True, check=False)
    if process.returncode:
        raise ZooError(f"{entry.name}: `zoo bench` failed with exit code {process.returncode}.")
    (group,) = json.loads(process.stdout)["groups"]
    return group


def describe_row(row: Row) -> str:
    values = ", ".join(f"{name.upper()} {row[name]:.4g} (card: {row[f'{name}_card']:.4g})" for name in CHECKED_METRICS)
    return f"{row['name']}: {values}; {'the card holds' if row['holds'] else 'THE CARD DOES NOT HOLD'}"


if __name__ == "__main__":
    main()
