"""Structural similarity over large sets of images."""
