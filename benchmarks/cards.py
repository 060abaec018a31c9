"""Whether `zoo bench` finds of the weights that come along what their cards say.

    python benchmarks/cards.py --data PATH [NAME ...] [--save]

PATH holds the images of the card: training ones and unseen subjects. As many fakes in the same feature space; a card
holds where the FID and KID that are found lie within its 95 % intervals; exit code 1 if one does not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import Row, arguments, each

from zoo.core.errors import ZooError, suggest
from zoo.hub.pretrained import PretrainedWeights, load_catalogue

RESULTS = Path(__file__).parent / "results" / "cards.jsonl"
METRICS = ("fid", "kid")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of `zoo weights` (default: all that lie here)")
    parser.add_argument("--data", required=True, metavar="PATH", help="what `zoo bench` takes")
    arguments(parser, RESULTS)
    options = parser.parse_args()
    entries = {
        name: one for name, one in load_catalogue().items() if one.local and one.judged and {*METRICS} <= {*one.metrics}
    }
    for name in options.names:
        if name not in entries:
            parser.exit(2, f"{name}: no weights with figures here{suggest(name, entries)}; {', '.join(entries)}\n")
    try:
        with tempfile.TemporaryDirectory() as out:  # one for all, which share the baselines of their size
            names = options.names or entries
            rows = each(names, lambda name: measured(entries[name], options.data, out), line, options, RESULTS)
    except ZooError as error:
        parser.exit(2, f"{error}\n")
    sys.exit(0 if all(row["holds"] for row in rows) else 1)


def measured(entry: PretrainedWeights, data: str, out: str) -> Row:
    """What the card says, what a bench in ``out`` finds, and whether that is the same.

    Raises:
        ZooError: the bench came to no figures; why, it has said on stderr.
    """
    judged = entry.judged
    assert judged is not None
    command = [sys.executable, "-m", "zoo", "bench", str(entry.path()), "--data", data, "--json", "--no-reals"]
    command += ["--samples", str(judged.samples), "--metrics", ",".join(METRICS)]
    command += ["--spaces", judged.space] if judged.space else []
    done = subprocess.run([*command, "--out", out], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise ZooError(f"{entry.name}: `zoo bench` ended with {done.returncode}")
    (group,) = json.loads(done.stdout)["groups"]
    (found,) = group["rows"]
    if found["error"]:
        raise ZooError(f"{entry.name}: {found['error']}")
    row: Row = {"name": entry.name, "sha256": entry.sha256, "samples": judged.samples, "holds": True}
    for metric in METRICS:
        card, value = entry.metrics[metric], found["figures"][metric]["value"]
        assert card.low is not None
        assert card.high is not None
        row |= {metric: value, f"{metric}_card": card.value, f"{metric}_interval": [card.low, card.high]}
        row["holds"] &= card.low <= value <= card.high
    return row | {"data_digest": group["data"]["digest"], "date": time.strftime("%Y-%m-%d")}


def line(row: Row) -> str:
    figures = ", ".join(f"{name.upper()} {row[name]:.4g} (card: {row[f'{name}_card']:.4g})" for name in METRICS)
    return f"{row['name']}: {figures}; {'the card holds' if row['holds'] else 'THE CARD DOES NOT HOLD'}"


if __name__ == "__main__":
    main()
