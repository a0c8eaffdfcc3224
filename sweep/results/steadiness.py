"""Recognizes speeds that cannot be relied on, because the machine did other work while they were measured.

Other work only slows a measurement down. Three things show it. The limits are from the built-in model, with two threads
on a virtual machine with two cores, five timings each:

|  | quiet machine | busy machine |
|---|---|---|
| (highest - lowest) / median of the timings | over 0.5 in 4 % of the measurements | over 0.5 in 74 % |
| cores that other programs use | up to 0.2 | 0.8 to 2 |
| median speed | not lower with 0.2 than with 0 | 2 to 11 times lower |

A load that stays the same narrows the range but not the loss: of the busy measurements within 0.5, half were five times
too slow. The third sign is a variant that does not go with its siblings. Decoding reads the whole model for each token,
so a smaller file of the same model can be faster by as much as it is smaller; apart from that, types differ in how fast
they are computed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from sweep import format as fmt
from sweep.record import Record, Speed

LARGEST_RANGE = 0.5
"""(highest - lowest) / median of the timings."""
MOST_MISSING_CORES = 0.5
"""Threads of the measurement and cores that other programs used, together, minus the cores of the machine."""
LARGEST_KERNEL_RATIO = 4.0
"""How much faster one type of llama.cpp can be than another for other reasons than its size. The largest ratio between
types of the built-in model is 3.8: the fastest timing on one thread is 2,548 tokens/s for Q4_K_M, 666 for IQ3_S."""


def with_steadiness(records: Sequence[Record]) -> list[Record]:
    """The records with `speed.unstable` and `speed.unstable_reasons` filled in."""
    alone = {record.variant: _own_reasons(record) for record in records if record.speed is not None}
    siblings: dict[str, list[_Decoding]] = defaultdict(list)
    for record in records:
        if record.speed is not None and record.kind == "gguf" and record.file_bytes and not alone[record.variant]:
            shown = _Decoding(record.variant, record.speed.decode_tokens_per_s, record.file_bytes)
            siblings[repr((record.device, record.kv_type, sorted(record.settings.items())))].append(shown)
    beside = {name: reason for group in siblings.values() for name, reason in _odd_ones(group).items()}
    return [
        _marked(
            record, (*alone.get(record.variant, ()), *((beside[record.variant],) if record.variant in beside else ()))
        )
        for record in records
    ]


def steadier(first: Record, second: Record) -> Record:
    """Of two records of one variant, the one with the speed to rely on.

    One whose timings agree comes first. Of two such ones it is the faster one, because other work never makes a
    measurement faster; otherwise the one with the smaller range.
    """
    doubts = [_own_reasons(record) for record in (first, second)]
    if any(doubts) != all(doubts):
        return second if doubts[0] else first
    if any(doubts):
        return min(first, second, key=lambda record: 0.0 if record.speed is None else _range(record.speed))
    return max(first, second, key=lambda record: 0.0 if record.speed is None else record.speed.decode_tokens_per_s)


@dataclass(frozen=True)
class _Decoding:
    """A variant with its decode speed and the size of its file."""

    variant: str
    tokens_per_s: float
    file_bytes: int


def _marked(record: Record, reasons: tuple[str, ...]) -> Record:
    if record.speed is None or not reasons:
        return record
    return replace(record, speed=replace(record.speed, unstable=True, unstable_reasons=reasons))


def _own_reasons(record: Record) -> tuple[str, ...]:
    """What in a record itself makes its speed unreliable, in words."""
    speed, found = record.speed, []
    if speed is None:
        return ()
    for name, median, low, high in _timings(speed):
        if high - low > LARGEST_RANGE * median:
            found.append(f"its {name} timings range from {fmt.rate(low)} to {fmt.rate(high)} tokens/s")
    if _missing_cores(record, speed) > MOST_MISSING_CORES:
        found.append(f"other programs used {speed.other_cores:.1f} of {speed.cores} cores meanwhile")
    return tuple(found)


def _missing_cores(record: Record, speed: Speed) -> float:
    """How many cores more than the machine has the measurement and other programs wanted; 0 if that is not known, or if
    a GPU computed."""
    threads = record.settings.get("threads")
    if record.device != "cpu" or not isinstance(threads, int) or speed.other_cores is None or speed.cores is None:
        return 0.0
    return threads + speed.other_cores - speed.cores


def _range(speed: Speed) -> float:
    """The larger range of its two kinds of timings, relative to the median."""
    return max(((high - low) / median for _, median, low, high in _timings(speed)), default=0.0)


def _timings(speed: Speed) -> list[tuple[str, float, float, float]]:
    """(name, median, lowest, highest) of the kinds of timings that were kept."""
    kinds = (
        ("prompt", speed.prompt_tokens_per_s, speed.prompt_low, speed.prompt_high),
        ("decode", speed.decode_tokens_per_s, speed.decode_low, speed.decode_high),
    )
    return [(name, median, low, high) for name, median, low, high in kinds if low is not None and high is not None]


def _odd_ones(group: Sequence[_Decoding]) -> Mapping[str, str]:
    """The variants whose speed does not go with those of the others, with the reason.

    Each pair that does not go together has one variant at fault: the one in most such pairs, or both if both are in as
    many.
    """
    pairs = [pair for pair in map(_in_order, combinations(group, 2)) if _is_too_far(*pair)]
    found: dict[str, str] = {}
    while pairs:
        counts = Counter(one.variant for pair in pairs for one in pair)
        most = max(counts.values())
        odd = {name for name, count in counts.items() if count == most}
        for pair in pairs:
            for name in odd.intersection(one.variant for one in pair):
                found.setdefault(name, _in_words(*pair))
        pairs = [pair for pair in pairs if odd.isdisjoint(one.variant for one in pair)]
    return found


def _in_order(pair: tuple[_Decoding, _Decoding]) -> tuple[_Decoding, _Decoding]:
    """The faster one first."""
    slow, fast = sorted(pair, key=lambda one: one.tokens_per_s)
    return fast, slow


def _largest_ratio(fast: _Decoding, slow: _Decoding) -> float:
    return LARGEST_KERNEL_RATIO * max(1.0, slow.file_bytes / fast.file_bytes)


def _is_too_far(fast: _Decoding, slow: _Decoding) -> bool:
    return fast.tokens_per_s > _largest_ratio(fast, slow) * slow.tokens_per_s


def _in_words(fast: _Decoding, slow: _Decoding) -> str:
    fast_name, slow_name = (f"{fmt.plain(one.variant)} ({fmt.size(one.file_bytes)})" for one in (fast, slow))
    return (
        f"{fast_name} decodes {fast.tokens_per_s / slow.tokens_per_s:.1f} times as fast as {slow_name}, over the "
        f"{_largest_ratio(fast, slow):.1f} times that their sizes and types explain"
    )
