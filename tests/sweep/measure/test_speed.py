"""Speed is the number of tokens divided by the median time, measured within a limit of seconds, beside the load by
other programs."""

from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from sweep.backends.llama import LlamaBackend, LlamaOptions
from sweep.measure.speed import measure_speed


def test_speed_is_the_median_of_the_timings_after_the_first():
    timings = {64: iter([0.1]), 512: iter([9.0, 1.0, 4.0, 2.0]), 8: iter([0.01]), 128: iter([0.5, 0.25, 1.0])}
    timed = SimpleNamespace(
        max_length=4096,
        time_prompt=lambda n, n_ctx, depth: next(timings[n]),
        time_decode=lambda n, n_ctx, depth: next(timings[n]),
    )
    result = measure_speed(timed, 512, repeats=3)
    assert not result.shortened
    assert result.prompt_tokens_per_s == 512 / 2.0
    assert result.decode_tokens_per_s == 128 / 0.5
    assert result.prompt_runs == (512 / 1.0, 512 / 4.0, 512 / 2.0)
    assert result.decode_runs == (128 / 0.5, 128 / 0.25, 128 / 1.0)


def test_only_three_timings_are_made_if_they_take_longer_than_the_limit():
    timed = SimpleNamespace(max_length=64, time_prompt=lambda *_: 1.0, time_decode=lambda *_: 1.0)
    result = measure_speed(timed, 512, repeats=1000, seconds=0.0)
    assert (result.prompt_repeats, result.decode_repeats) == (3, 3)
    assert (result.prompt_tokens, result.decode_tokens) == (64, 8)


@pytest.mark.parametrize(
    ("token_seconds", "prompt_tokens", "decode_tokens"), [(0.001, 512, 128), (0.005, 256, 128), (0.02, 64, 64)]
)
def test_fewer_tokens_are_timed_if_the_model_is_slow(token_seconds, prompt_tokens, decode_tokens):
    """Three timings of each kind fit into half of ten seconds, and no shorter ones are taken than that needs."""
    timed: list[tuple[int, int]] = []

    def seconds(n, n_ctx, depth):
        timed.append((n, depth))
        return n * token_seconds

    backend = SimpleNamespace(max_length=4096, time_prompt=seconds, time_decode=seconds)
    result = measure_speed(backend, 512, repeats=3, depth=100)
    assert (result.prompt_tokens, result.decode_tokens) == (prompt_tokens, decode_tokens)
    assert result.shortened == ((prompt_tokens, decode_tokens) != (512, 128))
    assert result.decode_tokens_per_s == pytest.approx(1 / token_seconds)
    assert {depth for _, depth in timed} == {100}


def test_the_depth_leaves_less_room_for_the_prompt():
    backend = SimpleNamespace(max_length=512, time_prompt=lambda *_: 0.1, time_decode=lambda *_: 0.1)
    assert measure_speed(backend, 512, repeats=3, depth=400).prompt_tokens == 112


def test_what_other_programs_use_is_measured_and_what_this_process_uses_is_not():
    def compute(n_tokens, n_ctx, depth):
        end = time.process_time() + 0.1
        while time.process_time() < end:
            continue
        return 1.0

    timed = SimpleNamespace(max_length=64, time_prompt=compute, time_decode=compute)
    quiet = measure_speed(timed, 512)
    loads = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(quiet.cores)]
    try:
        busy = measure_speed(timed, 512)
    finally:
        for load in loads:
            load.kill()
            load.wait()
    # this process and the others share all cores
    assert quiet.cores - 1.2 <= busy.other_cores <= quiet.cores
    assert quiet.other_cores < quiet.cores


def test_reading_a_prompt_is_faster_than_decoding(tiny):
    backend = LlamaBackend(tiny.gguf, LlamaOptions(n_threads=1))
    result = measure_speed(backend, 512, repeats=2)
    backend.close()
    # tokens of a prompt share each read of the weights; decoded tokens do not
    assert result.prompt_tokens_per_s > result.decode_tokens_per_s > 0
