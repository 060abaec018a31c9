"""The built-in phantoms."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property, lru_cache

import numpy as np
from numpy import ndarray

from zoo.core.errors import ZooError
from zoo.core.wording import count_of
from zoo.data import phantoms
from zoo.data.digest import hash_bytes
from zoo.data.folder_layout import Listing
from zoo.data.sources.registry import register_source
from zoo.data.sources.source import Source, SourceOptions

DEFAULT_PHANTOM_SUBJECTS = 64


class PhantomSource(Source):
    """The built-in phantoms, drawn at the requested resolution."""

    def __init__(self, count: str, options: SourceOptions) -> None:
        if count and not (count.isdecimal() and int(count) > 0):
            raise ZooError(f"phantoms:{count}: expected a number of subjects after 'phantoms:', as in phantoms:64")
        self.options = options
        subjects, resolution = int(count or DEFAULT_PHANTOM_SUBJECTS), options.resolution

        self.label = f"phantoms of {count_of(subjects, 'subject')}"
        self.chunk = phantoms.SLICES_PER_SUBJECT
        self._count = subjects * self.chunk
        # Images are drawn by subject, and workers take one subject at a time.
        self._draw = lru_cache(maxsize=32)(lambda subject: phantoms.phantom_subject(subject, resolution))
        self._signature = hash_bytes("phantoms", str(subjects), str(resolution), str(phantoms.PHANTOM_VERSION))

    @cached_property
    def layout(self) -> Listing:
        return Listing([f"phantom_{i // self.chunk:04d}_slice_{i % self.chunk}" for i in range(self._count)])

    def signature(self) -> str:
        return self._signature

    def combine_digests(self, digests: Iterable[bytes]) -> str:
        return self._signature  # digests are computed when they are iterated: here nothing is drawn for them

    def raw(self, index: int) -> ndarray:
        return np.asarray(self._draw(index // self.chunk)[index % self.chunk])


register_source("phantoms", PhantomSource, prefix="phantoms")
