"""What can be wrong with goldens."""

from __future__ import annotations


class GoldenUnreadable(ValueError):
    """A golden that is cut off, edited, of a newer format, or holds a conflict."""


class GoldenNotWritten(OSError):
    """A golden that could not be written."""


class NoGoldenKey(ValueError):
    """An arm of which too little is known to say which golden is its own."""


class NotHealthy(ValueError):
    """An arm whose answers cannot be blessed."""
