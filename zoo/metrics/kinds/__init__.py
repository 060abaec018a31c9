"""The metrics of the package: a file per family, which registers each with its computation."""
