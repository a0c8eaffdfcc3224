"""The arguments of llama-server and llama-cli that load and place a model as a row says."""

from __future__ import annotations

from collections.abc import Sequence

from sweep.fit.contexts import padded
from sweep.fit.placement import Placement
from sweep.fit.report import FitOptions

_BACKENDS = {"cuda": "CUDA", "rocm": "ROCm", "metal": "Metal", "sycl": "SYCL", "vulkan": "Vulkan"}
"""What llama.cpp calls devices of each kind, before their number."""


def arguments(file: str, placement: Placement, kinds: Sequence[str], options: FitOptions) -> str:
    """Ready to paste behind the program's name, quoted for a shell. `kinds` are those of the devices."""
    words = ["-m", _quoted(file), "-c", str(padded(options.context) * options.parallel), "-np", str(options.parallel)]
    if placement.layers:
        words += ["-ngl", str(placement.on_devices)]
    if len(placement.layers) > 1 and placement.on_devices:
        words += ["-ts", ",".join(map(str, placement.layers))]
    overrides = _overrides(placement, kinds)
    if overrides:
        words += ["-ot", f"'{overrides}'"]
    for flag, kind in (("-ctk", options.kv_type_k), ("-ctv", options.kv_type_v)):
        if kind != "f16":
            words += [flag, kind]
    for flag, size, default in (("-b", options.batch, 2048), ("-ub", options.ubatch, 512)):
        if size != default:
            words += [flag, str(size)]
    if options.flash_attention is not None:
        words += ["-fa", "on" if options.flash_attention else "off"]
    return " ".join(words)


def _overrides(placement: Placement, kinds: Sequence[str]) -> str:
    places = {None: "CPU"} | {
        index: f"{_BACKENDS.get(kind, kind)}{kinds[:index].count(kind)}" for index, kind in enumerate(kinds)
    }
    return ",".join(f"{pattern}={places[place]}" for pattern, place in placement.elsewhere())


def _quoted(file: str) -> str:
    return (
        file
        if all(letter.isalnum() or letter in "-_./+" for letter in file)
        else "'" + file.replace("'", "'\\''") + "'"
    )
