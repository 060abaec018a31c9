"""Add folders that `zoo publish` wrote to the catalogue of pretrained weights.

python benchmarks/add_to_catalogue.py FOLDER [FOLDER ...] [--to wheel|repository|nowhere] [--url URL] [--alias NAME]
"""

from __future__ import annotations

import sys
from pathlib import Path

from common import make_parser

from zoo.core.errors import ZooError
from zoo.hub import pretrained


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="written by `zoo publish`")
    parser.add_argument("--to", choices=("wheel", "repository", "nowhere"), default="wheel", help="where weights go")
    parser.add_argument("--url", help="where the weights can also be downloaded: https://... or hf:owner/name/file")
    parser.add_argument("--alias", help="second name, for the best generator of a size: brain-64")
    options = parser.parse_args()
    for flag in ("url", "alias"):
        if getattr(options, flag) and len(options.folders) > 1:
            parser.error(f"--{flag}: names one file; pass one FOLDER at a time")
    target = {"wheel": pretrained.IN_PACKAGE, "repository": pretrained.IN_REPOSITORY, "nowhere": None}[options.to]
    try:
        for folder in options.folders:
            entry = pretrained.add_to_catalogue(folder, to=target, url=options.url, alias=options.alias)
            print(f"{entry.name}: {entry.size / 1e6:.1f} MB, {entry.where}")
    except ZooError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
