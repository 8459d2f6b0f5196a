"""Goldens: what one arm answered, blessed and committed as text, so that a later run is held against it."""
