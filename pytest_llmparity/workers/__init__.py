"""Programs run by an engine's own interpreter; they import nothing of this package."""
