"""The request of `sweep convert`, and which of its options belong to which variants."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.errors import InputError


@dataclass(frozen=True)
class ConvertRequest:
    """The user's options. `variants` are the names in --to, `mmproj` the types of projector files, `tensor_types` rules
    for types of tensors, REGEX=TYPE. `imatrix` is a
    file's path or "auto"; `calibration` is the text for "auto" and for variants that are calibrated, and
    `parse_special` reads special tokens in it as such. `replace` allows to replace files that exist.

    `split_max_bytes` limits the bytes of tensors in each part of a file, `memory_budget` the resident bytes of the
    export. `samples` samples of `length` tokens calibrate the variants that torch quantizes, on `device`; with
    `dequantized` their values are written as floats.
    """

    model: str
    variants: tuple[str, ...]
    out: Path
    mtp: bool = True
    pre_tokenizer: str | None = None
    requantize: bool = False
    repair: bool = False
    imatrix: str | None = None
    calibration: Path | None = None
    parse_special: bool = False
    split_max_bytes: int | None = None
    memory_budget: int | None = None
    dry_run: bool = False
    replace: bool = False
    samples: int | None = None
    length: int | None = None
    device: str | None = None
    workspace: Path | None = None
    dequantized: bool = False
    mmproj: tuple[str, ...] = ()
    tensor_types: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `open_source` in addition to the path and the name."""
        return {
            "mtp": self.mtp,
            "pre_tokenizer": self.pre_tokenizer,
            "requantize": self.requantize,
            "repair": self.repair,
        }

    def require_used(self, *, files: bool, checkpoints: bool) -> None:
        """Raises InputError for an option that nothing uses. `files`, `checkpoints`: whether --to names quants, which
        are GGUF files of the text model, and variants that torch quantizes."""
        for_files = {
            "--no-mtp": not self.mtp,
            "--pre-tokenizer": self.pre_tokenizer,
            "--requantize": self.requantize,
            "--repair": self.repair,
            "--imatrix": self.imatrix,
            "--tensor-type": self.tensor_types,
            "--split-max-size": self.split_max_bytes,
            "--memory-budget": self.memory_budget and not self.mmproj,
        }
        for_checkpoints = {
            "--samples": self.samples,
            "--length": self.length,
            "--device": self.device,
            "--dequantized": self.dequantized,
        }
        for option, given in for_files.items() if not files else ():
            if given:
                raise InputError(f"{option}: only GGUF quants use it, and --to names none; leave it out")
        for option, given in for_checkpoints.items() if not checkpoints else ():
            if given:
                raise InputError(
                    f"{option}: only variants that torch quantizes, such as gptq:w4g128, use it, and --to names none;"
                    " leave it out"
                )
