"""The hub on localhost is the converters' own."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "converters"))
