"""The projects of `tests/integration`, run by other interpreters and next to other plugins."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "integration"))
