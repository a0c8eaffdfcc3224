"""Whether XL mixes are better than plain quants: log KL divergence by size, compared with interpolated plain quants.

    python benchmarks/xl_mixes.py [MODEL ...]          built-in models, or checkpoint directories

All files are made with the same importance matrix. The gap of a mix is the log of its mean KL divergence minus the
value at its size on the line between the next smaller and the next larger plain quant; a negative gap is better. The 95
% interval is bootstrapped over the windows of the text, with the same windows for the three files. The mixes follow
rules (converters/mixes.toml) and are not tuned to the built-in models, which serve as a check.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import presets
from converters.export import export, open_source
from converters.imatrix import ImportanceMatrix
from converters.llamacpp.imatrix_collection import collect
from converters.recipes import QUANTS
from sweep.backends.llama import LlamaBackend
from sweep.measure.perplexity import cut_windows
from sweep.measure.reference import Reference
from sweep.measure.text_measurement import measure_text

PLAIN = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0")
MIXES = tuple(name for name, recipe in QUANTS.items() if recipe.mix is not None)
RESAMPLES = 4000


@dataclass(frozen=True)
class MeasuredFile:
    """The size of a file, and its mean KL divergence in each window."""

    file_bytes: int
    kld: NDArray[np.float64]


@dataclass(frozen=True)
class Gap:
    """The gap of a mix from the line between its plain neighbours, with a 95 % interval from `low` to `high`."""

    mix: str
    smaller: str
    larger: str
    gap: float
    low: float
    high: float


def measure(directory: Path, text: str, calibration: str, quants: tuple[str, ...]) -> dict[str, MeasuredFile]:
    """Export a checkpoint to `quants` and measure each against its BF16 file."""
    source = open_source(directory, "model")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        export(source, {"BF16": work / "BF16.gguf"})
        matrix = ImportanceMatrix.from_collected(collect(work / "BF16.gguf", calibration), "calibration")
        files = {quant: work / f"{quant}.gguf" for quant in quants}
        export(source, files, importance=matrix.importance("imatrix.gguf"))
        divergence(work / "BF16.gguf", text, write=work / "reference")
        return {
            quant: MeasuredFile(file.stat().st_size, divergence(file, text, reference=work / "reference"))
            for quant, file in files.items()
        }


def divergence(
    file: Path, text: str, *, reference: Path | None = None, write: Path | None = None
) -> NDArray[np.float64]:
    """The mean KL divergence of each window; empty for the reference itself."""
    backend = LlamaBackend(file)
    try:
        windows = cut_windows(backend, text, n_ctx=512)
        known = None if reference is None else Reference(reference)
        result = measure_text(backend, windows, reference=known, write_reference=write).divergence
        return np.array([] if result is None else result.window_kld)
    finally:
        backend.close()


def gaps(measured: Mapping[str, MeasuredFile]) -> list[Gap]:
    """The gaps of all mixes that have a smaller and a larger plain neighbour."""
    plain = sorted((measured[name].file_bytes, name) for name in PLAIN if name in measured)
    windows = len(next(iter(measured.values())).kld)
    drawn = np.random.default_rng(0).integers(0, windows, (RESAMPLES, windows))
    found = []
    for mix in (name for name in MIXES if name in measured):
        size = measured[mix].file_bytes
        between = [pair for pair in itertools.pairwise(plain) if pair[0][0] <= size < pair[1][0]]
        if not between:
            continue
        (below, smaller), (above, larger) = between[0]
        share = (size - below) / (above - below)
        weights = {mix: 1.0, smaller: share - 1, larger: -share}
        gap = sum(weight * np.log(measured[name].kld.mean()) for name, weight in weights.items())
        resampled = sum(weight * np.log(measured[name].kld[drawn].mean(axis=1)) for name, weight in weights.items())
        low, high = np.quantile(np.asarray(resampled), [0.025, 0.975])
        found.append(Gap(mix, smaller, larger, float(gap), float(low), float(high)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(presets.builtin_models()))
    for model in parser.parse_args().models:
        builtin = presets.builtin_models().get(model, presets.builtin_models()["micro"])
        directory = builtin.directory if model == builtin.name else Path(model)
        measured = measure(directory, builtin.text.read_text(), builtin.calibration.read_text(), (*PLAIN, *MIXES))
        print(f"\n{model}\n\n| file | bytes | KLD | ln KLD | gap | between |\n|---|---:|---:|---:|---|---|")
        found = {gap.mix: gap for gap in gaps(measured)}
        for name, one in sorted(measured.items(), key=lambda item: item[1].file_bytes):
            gap = found.get(name)
            where = (
                f"{gap.gap:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}) | {gap.smaller}, {gap.larger}" if gap else " | "
            )
            print(f"| {name} | {one.file_bytes:,} | {one.kld.mean():.6f} | {np.log(one.kld.mean()):.3f} | {where} |")


if __name__ == "__main__":
    main()
