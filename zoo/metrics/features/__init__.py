"""Feature extractors for FID, KID and their relatives."""
