"""Comparisons of two arms: pure functions of captures."""
