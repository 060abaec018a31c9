"""Building blocks without torch: errors, recipe dataclasses, files, progress."""
