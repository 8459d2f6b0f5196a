"""The ready-made tests."""
