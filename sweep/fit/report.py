"""What `sweep fit` answers: for each variant its memory, part by part, where it goes, and whether that fits."""

from collections.abc import Mapping
from dataclasses import dataclass

from sweep.fit.device import Device

# The parts of a variant's memory, in the order in which they are told.
DEFAULT_CONTEXT = 8192
PARTS = ("weights", "kv", "recurrent", "compute", "output", "projector", "reserve")


@dataclass(frozen=True)
class FitOptions:
    """How the model is to be run: what llama-server's options of the same names say."""

    context: int = 0  # tokens a sequence; 0: DEFAULT_CONTEXT, or all that the model was made for where that is less
    kv_type_k: str = "f16"
    kv_type_v: str = "f16"
    parallel: int = 1  # sequences at once
    ubatch: int = 512
    batch: int = 2048
    flash_attention: bool | None = None  # None: llama.cpp decides
    projector: bool = False  # count the vision projector too
    offload: str = "auto"  # "auto": partial offload where all does not fit; "none": all on the devices or not at all


@dataclass(frozen=True)
class Figure:
    """A number of bytes, who says so, and by what formula it can be checked."""

    bytes: int
    source: str  # "llama.cpp dry run" | "llama.cpp no_alloc load" | "formula" | "estimate"
    formula: str


@dataclass(frozen=True)
class DeviceShare:
    """What one device, or the host, holds of a variant. Bytes."""

    device: str
    weights_bytes: int
    kv_bytes: int
    recurrent_bytes: int
    compute_bytes: int
    output_bytes: int
    reserve_bytes: int
    usable_bytes: int

    @property
    def total_bytes(self) -> int:
        """All that the model takes there; the reserve is apart."""
        return self.weights_bytes + self.kv_bytes + self.recurrent_bytes + self.compute_bytes + self.output_bytes

    @property
    def free_bytes(self) -> int:
        """What is left beside the reserve; below 0 by how much it does not fit."""
        return self.usable_bytes - self.total_bytes - self.reserve_bytes


@dataclass(frozen=True)
class Row:
    """One variant on the devices asked for."""

    variant: str
    kind: str  # "gguf" | "int8"
    file_bytes: int
    bits_per_weight: float
    figures: Mapping[str, Figure]  # by PARTS
    shares: tuple[DeviceShare, ...]  # the devices in order, then the host
    total_bytes: int  # on all devices and the host, without the reserve
    fits: bool  # all of it on the devices; on the host where no device is a GPU
    headroom_bytes: int  # of the tightest device; below 0 by how much it does not fit wholly
    max_context: int | None  # the largest context of a sequence with which it fits wholly; None: none does
    gpu_layers: int  # layers on devices, the output counted as one
    n_layers: int  # layers there are, the output counted as one
    cpu_moe_layers: int  # layers whose experts are kept in RAM
    tensor_split: tuple[int, ...]  # layers on each device
    arguments: str  # of llama-server and llama-cli, that place it so
    decode_bound: float | None  # tokens a second that bandwidth allows at most, its context full
    placed_by: str  # "rpc": llama.cpp's figures for such devices; "cpu": for RAM; "estimate" | "formula": not its own
    partial: bool = False  # it does not fit wholly, but runs as `arguments` say, with a part in RAM
    file_exact: bool = True  # False: the header's share of `file_bytes` is estimated, no tokenizer being at hand


@dataclass(frozen=True)
class FitReport:
    """All rows of one question."""

    model: str
    context: int
    kv_type: str
    parallel: int
    devices: tuple[Device, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    bytes_read: int | None  # read over the network; None: nothing was
