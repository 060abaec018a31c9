"""Enter what `zoo publish` made in the catalogue of weights that load by name: python benchmarks/package.py FOLDER"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from zoo.core.errors import ZooError
from zoo.hub import pretrained


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="made by `zoo publish`")
    parser.add_argument("--to", choices=("wheel", "repository", "nowhere"), default="wheel", help="where weights go")
    parser.add_argument("--url", help="where else they are to be had: https://... or hf:owner/name/file")
    options = parser.parse_args()
    if options.url and len(options.folders) > 1:
        parser.error("--url is of one file")
    to = {"wheel": pretrained.IN_PACKAGE, "repository": pretrained.IN_REPOSITORY, "nowhere": None}[options.to]
    try:
        for folder in options.folders:
            entry = pretrained.add_to_catalogue(folder, to=to, url=options.url)
            print(f"{entry.name}: {entry.size / 1e6:.1f} MB, {entry.where}")
    except ZooError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
