"""Trained generators: loading, sampling, sharing."""
