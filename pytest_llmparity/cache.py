"""Where this user's environments, models, captures and locks are."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Return where environments, models and captures are kept; `LLMPARITY_CACHE` moves it."""
    return Path(os.environ.get("LLMPARITY_CACHE") or platformdirs.user_cache_dir("llmparity")).expanduser().absolute()
