"""Exports against llama.cpp's own converter and quantizer: whole processes, one checkpoint, taking turns. Linux only.

    make peers && python benchmarks/export.py [--repetitions 3] [--layers 28] [--dir DIR] [--tokenizer DIR]

The checkpoint is Qwen3-0.6B's shape with random weights. Both sides make the plain quants of the q2-q8 sweep: the peers
by convert_hf_to_gguf.py and one llama-quantize for each quant, with as many threads as there are cores; BF16 is the
converter's own file. Before each turn the checkpoint leaves the page cache and everything earlier is on the disk; what
a process wrote is then cached for the next of its turn. Memory and bytes read are taken in a pass of their own, because
looking takes time; there each process's inputs leave the cache, so that all it reads comes from storage and is counted.
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
fsync, spent, told = os.fsync, 0.0, Path(sys.argv.pop(1))
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
    told.write_text(str(spent))
"""
"""The command `sweep`, with the seconds it spends in fsync written to the file that its first argument names."""


@dataclass(frozen=True)
class Job:
    """A process: its command, the files it reads, those it writes. `sync_seconds` gets the time it synced itself."""

    command: tuple[str | Path, ...]
    reads: tuple[Path, ...]
    writes: tuple[Path, ...]
    sync_seconds: Path | None = None


@dataclass(frozen=True)
class Timing:
    """Seconds until a process ended, until the disk had what it wrote, and of processors (its children's too)."""

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
    """Peak bytes of a process and its children, resident and of these anonymous; bytes that came from storage."""

    resident: int
    anonymous: int
    read: int

    def __add__(self, other: Usage) -> Usage:
        return Usage(max(self.resident, other.resident), max(self.anonymous, other.anonymous), self.read + other.read)


@dataclass(frozen=True)
class Row:
    """All that is known of a job, or of several that follow each other."""

    timings: tuple[Timing, ...]
    usage: Usage

    def __add__(self, other: Row) -> Row:
        timings = tuple(one + two for one, two in zip(self.timings, other.timings, strict=True))
        return Row(timings, self.usage + other.usage)


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a Qwen3 of CONFIG."""
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
    """Normal bfloat16 values, in uint16: norms about 1, matrices about 0."""
    values = generator.standard_normal(shape, np.float32) * np.float32(0.02) + np.float32(len(shape) == 1)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def write_shard(file: Path, tensors: dict[str, tuple[int, ...]], generator: np.random.Generator) -> None:
    """A safetensors file: length of the header, header, data. Written here, for numpy has no bfloat16 to save."""
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
    """Config, tokenizer and two shards; what lies there already for as many layers stays. Returns the shards."""
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
    half = len(every) // 3  # by bytes: the vocabulary's matrix is in the first
    weight_map: dict[str, str] = {}
    for file, group in zip(files, (dict(every[:half]), dict(every[half:])), strict=True):
        write_shard(file, group, generator)
        weight_map.update(dict.fromkeys(group, file.name))
    index = {"metadata": {}, "weight_map": weight_map}  # transformers wants both
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    done.write_text(config)
    return files


def jobs(directory: Path, shards: tuple[Path, ...]) -> dict[str, dict[str, Job]]:
    """Turns by name, each with its processes in their order."""
    model = shards[0].parent
    variants = [name for name in preset.load("q2-q8").variants if name in PLAIN]  # llama-quantize knows no mixes
    quants = [name for name in variants if name != "BF16"]
    copies, theirs, one, all_ = (directory / name for name in ("cp", "theirs", "ours-bf16", "ours-q2-q8"))
    bf16 = theirs / "BF16.gguf"

    def ours(out: Path, names: Sequence[str]) -> Job:
        spent = directory / f"{out.name}.seconds"
        command = (sys.executable, "-c", SWEEP, spent, "convert", model, "--to", ",".join(names), "--out", out)
        files = tuple(out / f"{model.name}-{name}.gguf" for name in names)
        return Job(command, shards, files, spent)

    def quantized(name: str) -> Job:
        file = theirs / f"{name}.gguf"
        return Job((QUANTIZE, bf16, file, name, str(os.cpu_count())), (bf16,), (file,))

    converter = Job((sys.executable, CONVERTER, model, "--outtype", "bf16", "--outfile", bf16), shards, (bf16,))
    return {
        "cp": {"cp": Job(("cp", *shards, copies), shards, tuple(copies / shard.name for shard in shards))},
        "peers": {
            "convert_hf_to_gguf.py": converter,
            **{f"llama-quantize {name}": quantized(name) for name in quants},
        },
        "ours BF16": {"sweep convert BF16": ours(one, ["BF16"])},
        "ours": {"sweep convert q2-q8": ours(all_, variants)},
    }


def leave_cache(files: Iterable[Path]) -> None:
    """Let the page cache forget these files."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)  # dirty pages stay otherwise
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def prepare(turn: dict[str, Job]) -> None:
    """A clean start: no file of an earlier time, nothing left to be written, the checkpoint not cached."""
    for job in turn.values():
        for file in job.writes:
            file.parent.mkdir(exist_ok=True)
            file.unlink(missing_ok=True)
    os.sync()
    leave_cache(next(iter(turn.values())).reads)


def started(job: Job, log: Path) -> subprocess.Popen[bytes]:
    """The process at its start. All of Python's bytecode is cached, from the pass that does not count time on."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(log.parent / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with log.open("wb") as sink:
        return subprocess.Popen(job.command, stdout=sink, stderr=sink, env=environment)


def check(status: int, job: Job, log: Path) -> None:
    if status != 0 or not all(file.is_file() for file in job.writes):
        raise SystemExit(f"{' '.join(map(str, job.command[:3]))}: failed\n{log.read_text(errors='replace')[-2000:]}")


def ended(process: subprocess.Popen[bytes], job: Job, log: Path) -> resource.struct_rusage:
    """Wait for the end of a process. What it used, its children included."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0 or not all(file.is_file() for file in job.writes):
        told = log.read_text(errors="replace")[-2000:]
        raise SystemExit(f"{' '.join(map(str, job.command[:3]))}: failed with {process.returncode}\n{told}")
    return usage


def time_job(job: Job, log: Path) -> Timing:
    """Run it and bring to the disk what it wrote, unless it does so itself."""
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


def watch_job(job: Job, log: Path) -> Usage:
    """Run it, its inputs not cached, and look at it and its children all the while."""
    leave_cache(job.reads)
    process = started(job, log)
    resident = anonymous = 0
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        now, highest, unmapped = zip(*map(memory, family(process.pid)), strict=True)
        resident, anonymous = max(resident, sum(now), *highest), max(anonymous, sum(unmapped))
        time.sleep(SAMPLE_SECONDS)
    usage = ended(process, job, log)  # its ru_maxrss would be our own, which a new process begins with
    return Usage(resident, anonymous, usage.ru_inblock * 512)


def family(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return [pid]


def memory(pid: int) -> tuple[int, int, int]:
    """Bytes resident now, at most so far, and now of no file; zeros once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0, 0
    fields = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    now, highest, unmapped = (int(fields[name][0]) * 1024 if name in fields else 0 for name in MEMORY_FIELDS)
    return now, highest, unmapped


def measured(turns: dict[str, dict[str, Job]], repetitions: int, log: Path) -> dict[str, Row]:
    """Each process's costs. Every other repetition takes the turns in the other order."""
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
    return {name: Row(tuple(timings[name]), usages[name]) for name in timings}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Claim:
    """What is to be reached: the ratio of a cost of `above` to that of `below`, at least or at most so much."""

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


def costs_table(rows: dict[str, Row], checkpoint_bytes: int) -> str:
    """Markdown: a line for each row. Times are wall seconds until all is on the disk, where not said otherwise."""
    lines = [
        "| process | least s | median s | without sync | CPU s | MB/s of checkpoint"
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


def middle(row: Row, kind: str) -> float:
    """The median of one kind of seconds."""
    return statistics.median(getattr(timing, kind) for timing in row.timings)


def ratios(claim: Claim, above: Row, below: Row) -> tuple[float, ...]:
    """Of the medians; where it is of time, also of the least, and of the medians without sync."""
    if claim.cost != "time":
        return (getattr(above.usage, claim.cost) / getattr(below.usage, claim.cost),)
    least = [min(timing.synced_seconds for timing in row.timings) for row in (above, below)]
    pairs = [[middle(row, kind) for row in (above, below)] for kind in ("synced_seconds", "seconds")]
    return tuple(one / other for one, other in (pairs[0], least, pairs[1]))


def claims_table(rows: dict[str, Row]) -> str:
    """Markdown: each claim with the ratios that were found; met if all of them are enough."""
    lines = ["| claim | bound | median | least | without sync | |", "|---|--:|--:|--:|--:|---|"]
    for claim in CLAIMS:
        found = ratios(claim, rows[claim.above], rows[claim.below])
        met = all(ratio >= claim.bound if claim.at_least else ratio <= claim.bound for ratio in found)
        cells = [f"{ratio:.2f}" for ratio in found] + [""] * (3 - len(found))
        bound = f"{'≥' if claim.at_least else '≤'} {claim.bound}"
        lines.append(f"| {claim.text} | {bound} | {' | '.join(cells)} | {'met' if met else 'missed'} |")
    return "\n".join(lines)


def machine() -> str:
    """What the figures depend on, in a line."""
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
    parser.add_argument("--layers", type=int, default=28, help="fewer make a smaller checkpoint")
    parser.add_argument("--dir", type=Path, help="where checkpoint and files lie and stay, instead of for the run only")
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER, help="Qwen's own: the converter takes no other")
    arguments = parser.parse_args()
    for needed, remedy in (
        (CONVERTER, "run `make peers`"),
        (QUANTIZE, "run `make peers`"),
        (arguments.tokenizer / "tokenizer.json", "give --tokenizer, a directory with the tokenizer of a Qwen model"),
    ):
        if not needed.exists():
            raise SystemExit(f"{needed}: is not there; {remedy}")
    with tempfile.TemporaryDirectory() if arguments.dir is None else nullcontext(arguments.dir) as name:
        directory = Path(name).resolve()
        say("making the checkpoint")
        shards = make_checkpoint(directory / "model", arguments.tokenizer, arguments.layers)
        size = sum(shard.stat().st_size for shard in shards)
        turns = jobs(directory, shards)
        rows = measured(turns, arguments.repetitions, directory / "log")
        rows[PEERS] = reduce(add, (rows[name] for name in turns["peers"]))
    print(f"{machine()}; a checkpoint of {size / 1e9:.2f} GB; repetitions: {arguments.repetitions}\n")
    print(f"{costs_table(rows, size)}\n\n{claims_table(rows)}")


if __name__ == "__main__":
    main()
