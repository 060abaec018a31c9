"""The self-contained HTML page of a benchmark or of one run."""
