"""Image sets: sources are decoded once into a uint8 cache, from which training and evaluation read."""
