"""search/policies."""
