"""Speed is the number of tokens divided by the median time, measured within a limit of seconds."""

from __future__ import annotations

from types import SimpleNamespace

from sweep.backends.llama import LlamaBackend, LlamaOptions
from sweep.measure.speed import measure_speed


def test_speed_is_the_median_of_the_timings_after_the_first():
    timings = {512: iter([9.0, 1.0, 4.0, 2.0]), 128: iter([9.0, 0.5, 0.25, 1.0])}
    timed = SimpleNamespace(
        max_length=4096, time_prompt=lambda n, n_ctx: next(timings[n]), time_decode=lambda n, n_ctx: next(timings[n])
    )
    result = measure_speed(timed, 512, repeats=3)
    assert result.prompt_tokens_per_s == 512 / 2.0
    assert result.decode_tokens_per_s == 128 / 0.5


def test_no_repeat_begins_after_the_time_is_spent():
    timed = SimpleNamespace(max_length=64, time_prompt=lambda n, n_ctx: 1.0, time_decode=lambda n, n_ctx: 1.0)
    result = measure_speed(timed, 512, repeats=1000, seconds=0.0)
    assert (result.prompt_repeats, result.decode_repeats) == (1, 1)
    assert (result.prompt_tokens, result.decode_tokens) == (64, 64)


def test_reading_a_prompt_is_faster_than_decoding(tiny):
    backend = LlamaBackend(tiny.gguf, LlamaOptions(n_threads=1))
    result = measure_speed(backend, 512, repeats=2)
    backend.close()
    # tokens of a prompt share each read of the weights; decoded tokens do not
    assert result.prompt_tokens_per_s > result.decode_tokens_per_s > 0
