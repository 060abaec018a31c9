"""The self-contained HTML page of a bench or a run."""
