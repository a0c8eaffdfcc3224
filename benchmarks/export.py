"""Exports compared with llama.cpp's converter and quantizer: whole processes in turn, on one checkpoint. Linux only.

    make peers && python benchmarks/export.py [--repetitions 3] [--layers 28] [--dir DIR] [--tokenizer DIR]

The checkpoint has Qwen3-0.6B's shape and random weights. Both sides make the plain quants of the q2-q8 sweep. The peers
run convert_hf_to_gguf.py, which makes the BF16 file, and one llama-quantize per quant, with one thread per core. Before
each turn the checkpoint is dropped from the page cache, and everything written before is synced; within a turn, a
process finds the files of the process before it in the cache. Memory and bytes read are measured in a separate pass,
because sampling takes time. In that pass the inputs of each process are dropped from the cache, so that everything it
reads comes from storage and is counted.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import reduce
from importlib.metadata import version
from itertools import accumulate, pairwise
from operator import add
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil

from converters.recipes import PLAIN
from sweep.planning import preset

ROOT = Path(__file__).parents[1]
LLAMA_CPP = ROOT / "build/peers/source/vendor/llama.cpp"
CONVERTER = LLAMA_CPP / "convert_hf_to_gguf.py"
QUANTIZE = ROOT / "build/peers/bin/llama-quantize"
PEERS = "converter + llama-quantize"
TOKENIZER = ROOT.parent / "shared/reference/tokenizers/qwen2"

HIDDEN, INNER, HEAD, QUERY_HEADS, KEY_HEADS, VOCABULARY = 1024, 3072, 128, 16, 8, 151936  # Qwen3-0.6B's
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "torch_dtype": "bfloat16",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "head_dim": HEAD,
    "num_attention_heads": QUERY_HEADS,
    "num_key_value_heads": KEY_HEADS,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": True,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000,
    "eos_token_id": 151645,
}
SEED = 0
SAMPLE_SECONDS = 0.02
MEMORY_FIELDS = ("VmRSS", "VmHWM", "RssAnon")

SWEEP = """
import os, sys, time
from pathlib import Path
fsync, spent, report = os.fsync, 0.0, Path(sys.argv.pop(1))
def timed(descriptor):
    global spent
    start = time.perf_counter()
    fsync(descriptor)
    spent += time.perf_counter() - start
os.fsync = timed
from sweep.cli import main
try:
    main()
finally:
    report.write_text(str(spent))
"""
"""Runs the command `sweep`, and writes the seconds it spends in fsync to the file named by the first argument."""


@dataclass(frozen=True)
class PeerProcess:
    """A process: its command, the files it reads and writes. The process writes its own sync time to `sync_seconds`."""

    command: tuple[str | Path, ...]
    reads: tuple[Path, ...]
    writes: tuple[Path, ...]
    sync_seconds: Path | None = None


@dataclass(frozen=True)
class Timing:
    """Seconds until a process ended, until its files were synced, and of CPU time, including its children."""

    seconds: float
    synced_seconds: float
    cpu_seconds: float

    def __add__(self, other: Timing) -> Timing:
        return Timing(
            self.seconds + other.seconds,
            self.synced_seconds + other.synced_seconds,
            self.cpu_seconds + other.cpu_seconds,
        )


@dataclass(frozen=True)
class Usage:
    """Peak resident and anonymous bytes of a process and its children, and bytes read from storage."""

    resident: int
    anonymous: int
    read: int

    def __add__(self, other: Usage) -> Usage:
        return Usage(max(self.resident, other.resident), max(self.anonymous, other.anonymous), self.read + other.read)


@dataclass(frozen=True)
class Costs:
    """The costs of one process, or of several processes in sequence."""

    timings: tuple[Timing, ...]
    usage: Usage

    def __add__(self, other: Costs) -> Costs:
        timings = tuple(one + two for one, two in zip(self.timings, other.timings, strict=True))
        return Costs(timings, self.usage + other.usage)


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape for all tensors of a Qwen3 with CONFIG."""
    layer = {
        "input_layernorm": (HIDDEN,),
        "self_attn.q_proj": (QUERY_HEADS * HEAD, HIDDEN),
        "self_attn.k_proj": (KEY_HEADS * HEAD, HIDDEN),
        "self_attn.v_proj": (KEY_HEADS * HEAD, HIDDEN),
        "self_attn.o_proj": (HIDDEN, QUERY_HEADS * HEAD),
        "self_attn.q_norm": (HEAD,),
        "self_attn.k_norm": (HEAD,),
        "post_attention_layernorm": (HIDDEN,),
        "mlp.gate_proj": (INNER, HIDDEN),
        "mlp.up_proj": (INNER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INNER),
    }
    return {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        **{f"model.layers.{i}.{name}.weight": shape for i in range(layers) for name, shape in layer.items()},
        "model.norm.weight": (HIDDEN,),
    }


def weights(shape: tuple[int, ...], generator: np.random.Generator) -> npt.NDArray[np.uint16]:
    """Normally distributed bfloat16 values as uint16: norms around 1, matrices around 0."""
    values = generator.standard_normal(shape, np.float32) * np.float32(0.02) + np.float32(len(shape) == 1)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def write_shard(file: Path, tensors: dict[str, tuple[int, ...]], generator: np.random.Generator) -> None:
    """Write a safetensors file by hand (header length, header, data), because numpy has no bfloat16."""
    ends = list(accumulate(2 * math.prod(shape) for shape in tensors.values()))
    header = {
        name: {"dtype": "BF16", "shape": shape, "data_offsets": places}
        for (name, shape), places in zip(tensors.items(), pairwise([0, *ends]), strict=True)
    }
    encoded = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    with file.open("wb") as sink:
        sink.write(len(encoded).to_bytes(8, "little") + encoded)
        for shape in tensors.values():
            sink.write(weights(shape, generator).data)


def make_checkpoint(directory: Path, tokenizer: Path, layers: int) -> tuple[Path, ...]:
    """Write config, tokenizer and two shards, unless they exist with this number of layers. Returns the shards."""
    config = json.dumps({**CONFIG, "num_hidden_layers": layers}, indent=1)
    files = tuple(directory / f"model-{number:05d}-of-00002.safetensors" for number in (1, 2))
    done = directory / "config.json"  # written last
    if done.is_file() and done.read_text() == config:
        return files
    directory.mkdir(parents=True, exist_ok=True)
    for file in tokenizer.iterdir():
        shutil.copyfile(file, directory / file.name)
    generator = np.random.default_rng(SEED)
    every = list(shapes(layers).items())
    half = len(every) // 3  # of the tensors, but half of the bytes, because the embeddings are in the first shard
    weight_map: dict[str, str] = {}
    for file, group in zip(files, (dict(every[:half]), dict(every[half:])), strict=True):
        write_shard(file, group, generator)
        weight_map.update(dict.fromkeys(group, file.name))
    index = {"metadata": {}, "weight_map": weight_map}  # transformers requires both keys
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    done.write_text(config)
    return files


def jobs(directory: Path, shards: tuple[Path, ...]) -> dict[str, dict[str, PeerProcess]]:
    """Turn -> its processes by name, in their order."""
    model = shards[0].parent
    variants = [name for name in preset.load("q2-q8").variants if name in PLAIN]  # llama-quantize cannot make mixes
    quants = [name for name in variants if name != "BF16"]
    copies, theirs, one, all_ = (directory / name for name in ("cp", "theirs", "ours-bf16", "ours-q2-q8"))
    bf16 = theirs / "BF16.gguf"

    def ours(out: Path, names: Sequence[str]) -> PeerProcess:
        spent = directory / f"{out.name}.seconds"
        command = (sys.executable, "-c", SWEEP, spent, "convert", model, "--to", ",".join(names), "--out", out)
        files = tuple(out / f"{model.name}-{name}.gguf" for name in names)
        return PeerProcess(command, shards, files, spent)

    def quantized(name: str) -> PeerProcess:
        file = theirs / f"{name}.gguf"
        return PeerProcess((QUANTIZE, bf16, file, name, str(os.cpu_count())), (bf16,), (file,))

    converter = PeerProcess((sys.executable, CONVERTER, model, "--outtype", "bf16", "--outfile", bf16), shards, (bf16,))
    return {
        "cp": {"cp": PeerProcess(("cp", *shards, copies), shards, tuple(copies / shard.name for shard in shards))},
        "peers": {
            "convert_hf_to_gguf.py": converter,
            **{f"llama-quantize {name}": quantized(name) for name in quants},
        },
        "ours BF16": {"sweep convert BF16": ours(one, ["BF16"])},
        "ours": {"sweep convert q2-q8": ours(all_, variants)},
    }


def leave_cache(files: Iterable[Path]) -> None:
    """Drop these files from the page cache."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)  # dirty pages would stay in the cache
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def prepare(turn: dict[str, PeerProcess]) -> None:
    """Start a turn clean: remove files of earlier turns, sync, and drop the checkpoint from the cache."""
    for job in turn.values():
        for file in job.writes:
            file.parent.mkdir(exist_ok=True)
            file.unlink(missing_ok=True)
    os.sync()
    leave_cache(next(iter(turn.values())).reads)


def started(job: PeerProcess, log: Path) -> subprocess.Popen[bytes]:
    """Start the process. Python's bytecode is cached from the first, untimed pass on."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(log.parent / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with log.open("wb") as sink:
        return subprocess.Popen(job.command, stdout=sink, stderr=sink, env=environment)


def check(status: int, job: PeerProcess, log: Path) -> None:
    if status != 0 or not all(file.is_file() for file in job.writes):
        raise SystemExit(f"{' '.join(map(str, job.command[:3]))}: failed\n{log.read_text(errors='replace')[-2000:]}")


def ended(process: subprocess.Popen[bytes], job: PeerProcess, log: Path) -> resource.struct_rusage:
    """Wait for a process to end, and return the resources that it and its children used."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0 or not all(file.is_file() for file in job.writes):
        tail = log.read_text(errors="replace")[-2000:]
        raise SystemExit(f"{' '.join(map(str, job.command[:3]))}: failed with {process.returncode}\n{tail}")
    return usage


def time_job(job: PeerProcess, log: Path) -> Timing:
    """Run a process and sync the files it wrote, unless it syncs them itself."""
    start = time.perf_counter()
    usage = ended(started(job, log), job, log)
    seconds, cpu = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    if job.sync_seconds is not None:
        return Timing(seconds - float(job.sync_seconds.read_text()), seconds, cpu)
    for file in job.writes:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return Timing(seconds, time.perf_counter() - start, cpu)


def watch_job(job: PeerProcess, log: Path) -> Usage:
    """Run a process with inputs that are not cached, and sample the memory of it and its children."""
    leave_cache(job.reads)
    process = started(job, log)
    resident = anonymous = 0
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        now, highest, unmapped = zip(*map(memory, family(process.pid)), strict=True)
        resident, anonymous = max(resident, sum(now), *highest), max(anonymous, sum(unmapped))
        time.sleep(SAMPLE_SECONDS)
    usage = ended(process, job, log)  # not its ru_maxrss, which starts at the value of this process
    return Usage(resident, anonymous, usage.ru_inblock * 512)


def family(pid: int) -> list[int]:
    """The ids of a process and all its descendants."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return [pid]


def memory(pid: int) -> tuple[int, int, int]:
    """Bytes resident now, highest so far, and anonymous now; zeros after the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0, 0
    fields = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    now, highest, unmapped = (int(fields[name][0]) * 1024 if name in fields else 0 for name in MEMORY_FIELDS)
    return now, highest, unmapped


def measured(turns: dict[str, dict[str, PeerProcess]], repetitions: int, log: Path) -> dict[str, Costs]:
    """The costs of each process. Every other repetition takes the turns in reverse order."""
    usages: dict[str, Usage] = {}
    timings: dict[str, list[Timing]] = {name: [] for turn in turns.values() for name in turn}
    for turn in turns.values():
        prepare(turn)
        for name, job in turn.items():
            say(f"memory and bytes: {name}")
            usages[name] = watch_job(job, log)
    for number in range(repetitions):
        for turn in list(turns.values())[:: -1 if number % 2 else 1]:
            prepare(turn)
            for name, job in turn.items():
                timings[name].append(time_job(job, log))
                say(f"time {number + 1} of {repetitions}: {name} {timings[name][-1].synced_seconds:.2f} s")
    return {name: Costs(tuple(timings[name]), usages[name]) for name in timings}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Claim:
    """A target: a bound, lower or upper, on the ratio of a cost of `above` to the same cost of `below`."""

    text: str
    above: str
    below: str
    cost: str
    bound: float
    at_least: bool = False


CLAIMS = (
    Claim("BF16: throughput over the converter's", CONVERTER.name, "sweep convert BF16", "time", 2.0, True),
    Claim("BF16: throughput over that of cp", "cp", "sweep convert BF16", "time", 0.7, True),
    Claim("BF16: peak memory over the converter's", "sweep convert BF16", CONVERTER.name, "resident", 0.5),
    Claim("q2-q8: wall time over the peers'", "sweep convert q2-q8", PEERS, "time", 0.8),
    Claim("q2-q8: bytes read over the peers'", "sweep convert q2-q8", PEERS, "read", 0.25),
)


def costs_table(rows: dict[str, Costs], checkpoint_bytes: int) -> str:
    """A Markdown table with one line per process. Times are wall seconds until all files are synced, unless stated."""
    lines = [
        "| process | minimum s | median s | without sync | CPU s | MB/s of checkpoint"
        " | peak MB | anonymous MB | MB read |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in rows.items():
        median = {kind: middle(row, kind) for kind in ("synced_seconds", "seconds", "cpu_seconds")}
        times = [min(timing.synced_seconds for timing in row.timings), *median.values()]
        speed = checkpoint_bytes / median["synced_seconds"]
        sizes = [speed, row.usage.resident, row.usage.anonymous, row.usage.read]
        cells = [*(f"{seconds:.1f}" for seconds in times), *(f"{size / 1e6:.0f}" for size in sizes)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def middle(row: Costs, kind: str) -> float:
    """The median over repetitions of one field of Timing."""
    return statistics.median(getattr(timing, kind) for timing in row.timings)


def ratios(claim: Claim, above: Costs, below: Costs) -> tuple[float, ...]:
    """The ratio of the medians; for times also that of the minima, and that of the medians without sync."""
    if claim.cost != "time":
        return (getattr(above.usage, claim.cost) / getattr(below.usage, claim.cost),)
    least = [min(timing.synced_seconds for timing in row.timings) for row in (above, below)]
    pairs = [[middle(row, kind) for row in (above, below)] for kind in ("synced_seconds", "seconds")]
    return tuple(one / other for one, other in (pairs[0], least, pairs[1]))


def claims_table(rows: dict[str, Costs]) -> str:
    """A Markdown table of the claims with their measured ratios. A claim is met if all its ratios are."""
    lines = ["| claim | bound | median | minimum | without sync | |", "|---|--:|--:|--:|--:|---|"]
    for claim in CLAIMS:
        found = ratios(claim, rows[claim.above], rows[claim.below])
        met = all(ratio >= claim.bound if claim.at_least else ratio <= claim.bound for ratio in found)
        cells = [f"{ratio:.2f}" for ratio in found] + [""] * (3 - len(found))
        bound = f"{'≥' if claim.at_least else '≤'} {claim.bound}"
        lines.append(f"| {claim.text} | {bound} | {' | '.join(cells)} | {'met' if met else 'missed'} |")
    return "\n".join(lines)


def machine() -> str:
    """One line about the machine and the versions that the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "a CPU")
    size = psutil.virtual_memory().total / 2**30
    return (
        f"{os.cpu_count()} cores ({cpu}), {size:.0f} GiB of memory, Python {platform.python_version()},"
        f" llama-cpp-python {version('llama-cpp-python')}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--layers", type=int, default=28, help="number of layers; fewer give a smaller checkpoint")
    parser.add_argument("--dir", type=Path, help="directory that keeps checkpoint and files; default: a temporary one")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        default=TOKENIZER,
        help="directory with the tokenizer of a Qwen model; the converter accepts no other",
    )
    arguments = parser.parse_args()
    for needed, remedy in (
        (CONVERTER, "run `make peers`"),
        (QUANTIZE, "run `make peers`"),
        (arguments.tokenizer / "tokenizer.json", "give --tokenizer, a directory with the tokenizer of a Qwen model"),
    ):
        if not needed.exists():
            raise SystemExit(f"{needed}: is missing; {remedy}")
    with tempfile.TemporaryDirectory() if arguments.dir is None else nullcontext(arguments.dir) as name:
        directory = Path(name).resolve()
        say("writing the checkpoint")
        shards = make_checkpoint(directory / "model", arguments.tokenizer, arguments.layers)
        size = sum(shard.stat().st_size for shard in shards)
        turns = jobs(directory, shards)
        rows = measured(turns, arguments.repetitions, directory / "log")
        rows[PEERS] = reduce(add, (rows[name] for name in turns["peers"]))
    print(f"{machine()}; a checkpoint of {size / 1e9:.2f} GB; repetitions: {arguments.repetitions}\n")
    print(f"{costs_table(rows, size)}\n\n{claims_table(rows)}")


if __name__ == "__main__":
    main()
