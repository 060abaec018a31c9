"""One file an architecture; a file placed here registers itself (see ``zoo.models.registry``)."""
