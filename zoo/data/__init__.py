"""Pictures in, uint8 tensors out: sources (folder, zip, OASIS, arrays, phantoms) -> one cache -> :class:`Dataset`.

Importing this package needs numpy and Pillow only; torch is imported when the first tensor is asked for.
"""

from zoo.core.progress import Reporter
from zoo.data.check import CheckReport, check, print_report
from zoo.data.dataset import Dataset, load
from zoo.data.sources import Problem, address

__all__ = ["CheckReport", "Dataset", "Problem", "Reporter", "address", "check", "load", "print_report"]
