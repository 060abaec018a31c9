"""Benchmarks, comparisons and publishing of trained generators."""
