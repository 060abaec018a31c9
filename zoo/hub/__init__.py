"""Load, sample and share trained generators."""
