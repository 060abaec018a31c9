"""Where images come from: one class per kind of source, registered by suffix or prefix."""
