"""Words of messages that depend on a number."""

from __future__ import annotations

import pytest

from zoo.core.wording import count_of


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (12_000, "12,000 images")]
)
def test_a_noun_agrees_with_its_number(number: int, text: str) -> None:
    assert count_of(number, "image") == text
