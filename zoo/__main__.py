"""Run the command line as ``python -m zoo``."""

from zoo.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
