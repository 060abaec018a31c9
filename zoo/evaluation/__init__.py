"""Evaluate, compare and publish trained generators."""
