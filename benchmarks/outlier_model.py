"""Writes the built-in model with added outlier channels, as a checkpoint that computes the same function.

    python benchmarks/outlier_model.py OUT

Eight channels of every producer of a fold are scaled by 100, and the Q and K rows of one head by 64; the layers that
read them undo the scaling (tests/int8/outliers.py). Large trained models have such channels, small ones do not. On this
checkpoint recipes differ as they do on large models:

    sweep ablate OUT --calibration micro --perplexity presets/micro/text/test.txt
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from transformers import AutoTokenizer

import presets
from int8.model import open_model

sys.path.append(str(Path(__file__).parents[1] / "tests" / "int8"))
from outliers import add_outliers, scale_query_key_head


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)

    options = parser.parse_args()
    directory = presets.builtin_models()["micro"].directory
    model = open_model(directory, "float32")
    add_outliers(model)
    scale_query_key_head(model, 64.0)
    model.save_pretrained(options.out)
    AutoTokenizer.from_pretrained(directory).save_pretrained(options.out)


if __name__ == "__main__":
    main()
