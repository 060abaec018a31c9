"""Adversarial losses, penalties, and the objective that sums them."""
