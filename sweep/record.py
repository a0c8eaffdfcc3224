"""Records: all figures of one variant in a run. Every table, plot, report and JSON output shows them.

Scripts depend on the names of the fields (`sweep run --format json`). A figure that was not measured is None.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from presets.ptq_study import StudyRow


@dataclass(frozen=True)
class Memory:
    """The bytes of memory for loading and decoding: predicted without loading weights, and measured.

    `device_bytes` is the memory on all GPUs together: 0 if the model is on no GPU, None if the driver does not report
    memory per process. `host_bytes` is the resident memory in RAM. `measured_bytes` is `device_bytes`, or `host_bytes`
    if the model is on no GPU.
    """

    predicted_bytes: int | None = None
    measured_bytes: int | None = None
    host_bytes: int | None = None
    device_bytes: int | None = None


@dataclass(frozen=True)
class Perplexity:
    """exp(mean negative log-likelihood) with its standard error, over `tokens` scored positions.

    `low` and `high` bound the 95 % interval that resampling windows of the text gives. If the reference was measured on
    more windows than the variant (`Record.stopping`), `value` is the reference's perplexity times the ratio of both
    over the variant's windows, so that it can be compared with the others.
    """

    value: float
    stderr: float
    tokens: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Confidence:
    """The divergence at the positions where the reference's most probable token has a probability from `low` to
    `high`."""

    low: float
    high: float
    tokens: int
    kld_mean: float
    top1_agreement: float


@dataclass(frozen=True)
class Divergence:
    """KL(reference || variant) in nats per token over the scored positions, and further comparisons at these positions.

    - `kld_stderr` takes the windows of the text as independent units; `kld_low` and `kld_high` are the 95 % interval
      from resampling the windows. Every other standard error takes the positions as independent, as llama-perplexity
      does.
    - `sampling_stderr` is the part of the mean's standard error that comes from sampling the reference's tail.
    - `perplexity_*`: the reference's perplexity over the same positions, and the variant's in comparison with it.
    - `delta_p_*`: the probability of the text's next token, variant minus reference.
    - Percentiles have their percentage as key: "0" is the smallest value, "100" the largest.
    """

    kld_mean: float
    kld_stderr: float
    kld_p99_9: float
    kld_max: float
    top1_agreement: float
    noise_floor: float | None = None
    kld_low: float | None = None
    kld_high: float | None = None
    kld_token_stderr: float | None = None
    kld_percentiles: dict[str, float] = field(default_factory=dict)
    sampling_stderr: float | None = None
    top1_stderr: float | None = None
    perplexity_reference: float | None = None
    perplexity_reference_stderr: float | None = None
    perplexity_correlation: float | None = None
    perplexity_log_ratio: float | None = None
    perplexity_log_ratio_stderr: float | None = None
    perplexity_ratio: float | None = None
    perplexity_ratio_stderr: float | None = None
    perplexity_difference: float | None = None
    perplexity_difference_stderr: float | None = None
    delta_p_mean: float | None = None
    delta_p_stderr: float | None = None
    delta_p_rms: float | None = None
    delta_p_rms_stderr: float | None = None
    delta_p_percentiles: dict[str, float] = field(default_factory=dict)
    by_confidence: tuple[Confidence, ...] = ()


@dataclass(frozen=True)
class TextFigures:
    """The figures of a text that was measured beside the first one. `divergence` is None for the reference, `text`
    identifies the text."""

    perplexity: Perplexity
    divergence: Divergence | None = None
    text: MeasuredText | None = None


@dataclass(frozen=True)
class TaskScore:
    """One task: its primary metric over `n` items, and the paired difference from the reference.

    - `chance`: the score of blind guessing. `higher_is_better`: the metric's direction. `other`: further metrics.
    - `clusters`: the number of subjects, or of images (`cluster_kind`), that were taken as independent units; None if
      the items were.
    - `delta`: variant minus reference over the same items; `delta_stderr`: its paired standard error; `delta_low` to
      `delta_high`: its 95 % interval; `p_value`: of the exact two-sided McNemar test; `p_holm`: the same after Holm's
      correction over all variants and tasks of the run.
    - `flips`: the share of items whose correctness changed. `answers_changed`: the share of items whose answer changed,
      also from one wrong answer to another.
    - `gold_delta`, `gold_delta_stderr`, `gold_p_value`: the same comparison for the probability of the right choice
      among all choices.
    - `sharing_*`: common prefixes of questions are computed once. A sample of `sharing_questions` questions was scored
      one by one too: `sharing_changed` of them got another answer, and the log-likelihood of no choice changed by more
      than `sharing_difference` nats. None if answers are generated, or if there were too few questions for a sample.

    The comparisons are None for the reference.
    """

    metric: str
    value: float
    stderr: float
    n: int
    delta: float | None = None
    delta_stderr: float | None = None
    p_value: float | None = None
    flips: float | None = None
    chance: float = 0.0
    other: dict[str, float] = field(default_factory=dict)
    higher_is_better: bool = True
    delta_low: float | None = None
    delta_high: float | None = None
    p_holm: float | None = None
    answers_changed: float | None = None
    clusters: int | None = None
    gold_delta: float | None = None
    gold_delta_stderr: float | None = None
    gold_p_value: float | None = None
    sharing_questions: int | None = None
    sharing_difference: float | None = None
    sharing_changed: int | None = None
    cluster_kind: str = "subjects"


@dataclass(frozen=True)
class Speed:
    """Tokens per second for reading a prompt in full batches and for decoding one sequence; seconds for loading.

    - Both speeds are medians. The `*_runs` are the speeds of the single timings, `*_low` and `*_high` the lowest and
      the highest of them. Results of earlier versions have none.
    - `other_cores`: how many of the machine's `cores` other programs used meanwhile, on average.
    - `prompt_tokens`, `decode_tokens`: the tokens of each timing, fewer than usual if the model is slow.
    - `measurements`: how often the speed was measured; the figures are those of the steadier measurement.
    - `unstable`: whether the speeds cannot be relied on; `unstable_reasons` says why (see results.steadiness).
    """

    prompt_tokens_per_s: float
    decode_tokens_per_s: float
    load_seconds: float | None = None
    prompt_low: float | None = None
    prompt_high: float | None = None
    decode_low: float | None = None
    decode_high: float | None = None
    prompt_runs: tuple[float, ...] = ()
    decode_runs: tuple[float, ...] = ()
    other_cores: float | None = None
    cores: int | None = None
    measurements: int = 1
    unstable: bool = False
    unstable_reasons: tuple[str, ...] = ()
    prompt_tokens: int | None = None
    decode_tokens: int | None = None


@dataclass(frozen=True)
class DepthSpeed:
    """Tokens per second after other tokens in the context, otherwise as in `Speed`."""

    prompt_tokens_per_s: float
    decode_tokens_per_s: float
    prompt_runs: tuple[float, ...] = ()
    decode_runs: tuple[float, ...] = ()
    prompt_tokens: int | None = None
    decode_tokens: int | None = None


@dataclass(frozen=True)
class Value:
    """A figure of an added measurement, its standard error (None if it has none), and how tables show it: heading, unit
    and number of decimals."""

    value: float
    stderr: float | None = None
    heading: str = ""
    unit: str = ""
    decimals: int = 3


MOST_SAMPLES = 4096
"""Values of a figure that JSON holds, about 40 kB: the windows of WikiText-2, and the items of most tasks."""


@dataclass(frozen=True)
class Samples:
    """The values that a figure is the mean of: one per unit, float64 (n,). A unit is a window of the text or an item.

    Samples with equal `units` have the same units in the same order, so their differences are paired; the shorter ones
    have the first units of the longer ones. `clusters` (n,) numbers the subject or image of each unit; None if the
    units are independent.
    """

    units: str
    values: NDArray[np.float64]
    clusters: NDArray[np.intp] | None = None

    def head(self, n: int) -> Samples:
        """The first n units."""
        return Samples(self.units, self.values[:n], None if self.clusters is None else self.clusters[:n])

    def to_json(self) -> dict[str, Any]:
        values = [float(f"{value:.9g}") for value in self.values]
        return {
            "units": self.units,
            "values": values,
            "clusters": None if self.clusters is None else self.clusters.tolist(),
        }


@dataclass(frozen=True)
class Stopping:
    """How much of a text or task was measured: `samples` of its `of` windows or items, in random order, and why no more
    (`stopped`): one line for people. It is empty as long as the measurement is not finished."""

    samples: int
    of: int
    stopped: str


@dataclass(frozen=True)
class ImageDivergence:
    """KL(reference || variant) in nats per token of the right answers to a task with images, which are given token by
    token.

    `kld_stderr` and the 95 % interval from `kld_low` to `kld_high` take the answers about the same images as one
    independent unit; they are None with fewer than two such units. `top1_agreement` is the share of tokens for which
    both models find the same token most probable.
    """

    kld_mean: float
    kld_stderr: float | None
    kld_low: float | None
    kld_high: float | None
    top1_agreement: float
    tokens: int
    answers: int
    images: int


@dataclass(frozen=True)
class Speech:
    """What a speech model hears in recordings.

    - `wer`: word errors (`substitutions`, `deletions` and `insertions`) per word of the transcripts, which have `words`
      words; `cer`: the same for characters. Both are None if the recordings have no transcripts. Texts are normalized
      first.
    - `wer_low` to `wer_high`: the 95 % interval from resampling recordings. `design_effect`: how many words count as
      one independent word.
    - `wer_delta`: variant minus reference on the same recordings, with the 95 % interval of this paired difference;
      None for the reference. If the interval contains 0, the recordings cannot tell yet. `same_texts`: the number of
      `recordings` for which both write the same text.
    - `looped_words`: words that only repeat the phrase before them. `invented_words`: words written for recordings
      with an empty transcript. `words_on_silence`, `words_on_noise`: for 30 s of silence and of white noise.
    - `kld_mean`: KL(reference || variant) in nats over the `tokens` of the reference's transcripts, which are given
      token by token, with the 95 % interval from resampling recordings. `top1_agreement`: the share of these tokens for
      which both models find the same token most probable. None for the reference.
    - `encode_seconds`: for a window of 30 s; `prompt_seconds`: for the first tokens of a transcript;
      `decode_tokens_per_s`: of greedy decoding; `real_time_factor`: seconds of computing per second of a window of 30 s
      with as many tokens as these recordings have on average.
    """

    wer: float | None = None
    wer_low: float | None = None
    wer_high: float | None = None
    wer_delta: float | None = None
    wer_delta_low: float | None = None
    wer_delta_high: float | None = None
    cer: float | None = None
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    words: int = 0
    looped_words: int = 0
    invented_words: int = 0
    words_on_silence: int = 0
    words_on_noise: int = 0
    design_effect: float | None = None
    recordings: int = 0
    same_texts: int | None = None
    kld_mean: float | None = None
    kld_low: float | None = None
    kld_high: float | None = None
    top1_agreement: float | None = None
    tokens: int = 0
    encode_seconds: float | None = None
    prompt_seconds: float | None = None
    decode_tokens_per_s: float | None = None
    real_time_factor: float | None = None


@dataclass(frozen=True)
class Projector:
    """The projector file with which a variant reads images: its type, or the name of the user's file, its size, and the
    memory that it takes beside the text model (weights, and the compute buffer that llama.cpp reserves)."""

    name: str
    file_bytes: int
    memory_bytes: int


@dataclass(frozen=True)
class MeasuredText:
    """The text of perplexity and KL divergence, so that records of two machines can be compared.

    - `sha256` is a hash of its content and of how it is read, `windows_sha256` one of the tokens of the scored windows
      (None in results of earlier versions).
    - `window` and `stride` are in tokens; a `stride` of None means that windows do not overlap.
    - `reference_model` is a hash of the model that KL divergence is measured from; None if there is none.
    - `text_windows_sha256`: a hash of the windows in the order of the text, if they were measured in random order;
      `windows_sha256` is then one of them in that order.
    """

    name: str
    sha256: str
    window: int
    stride: int | None = None
    windows_sha256: str | None = None
    reference_model: str | None = None
    text_windows_sha256: str | None = None


@dataclass(frozen=True)
class Record:
    """One variant in one run.

    - `status`: "ok", "pending", "partial" (some results are missing or incomplete), "failed", "cancelled" or "skipped".
      With the last three it has no result. "failed": a cell of it failed; "cancelled": none failed, but a person
      cancelled one; "skipped": something that it needs has no result, or it does not fit the GPU of --gpu.
    - `error`: the errors of the cells in `unfinished`, or why the variant does not fit.
    - `unfinished`: the cells without a whole result by name, with how they ended (Ending).
    - `settings`: the threads, batches, context and placement of the measurement, and the engine's versions.
    - `task_reference`: the variant that task scores are compared with. This is the reference. If the reference is a
      file, which has no task scores, it is the variant that the file was made from, or, if that is unknown, the variant
      with the most bits per weight.
    - `reference_reason`: why a sweep over a repository of GGUF files has this reference, to be read after its name.
    - `speed_at_depth`: the speeds after other tokens, by the number of these tokens; empty if none was asked for.
    - `figures`: the figures of added measurements by name.
    - `implausible`: what of its figures quantization does not usually explain, in words (see results.plausibility).
    - `worse_than_rounding`: the variant that rounds plainly to the same bits and groups, if its KL divergence is
      significantly lower (see results.plain_rounding).
    - `projector`: its projector file; None if the run has no images, or if torch runs the variant. `file_bytes` and
      `memory` are those of the text model alone.
    - `image_divergence`: by task with images; empty for the reference.
    - `text`: the text that `perplexity` and `divergence` are about; None if the run has none.
    - `other_texts`: by name, the texts that were measured beside it.
    - `speech`: the figures of a speech model; None for others.
    - `study`: the figures of a published study for the same model, method and bits (see presets.ptq_study).
    - `stopping`: by name ("text"), the measurements that stop when enough is known, with how much was measured. What
      is measured in full has no entry.
    - `samples`: the values that figures are means of ("kld" and "nll" in nats per window, "kld NAME" and "nll NAME" of
      other texts, "task NAME" per item), to compare any two variants. They are part of the JSON of
      `sweep report --json` and `sweep run --format json`.
    """

    variant: str
    kind: str
    status: str
    error: str | None = None
    file_bytes: int | None = None
    bits_per_weight: float | None = None
    memory: Memory = Memory()
    perplexity: Perplexity | None = None
    divergence: Divergence | None = None
    tasks: dict[str, TaskScore] = field(default_factory=dict)
    speed: Speed | None = None
    reference: str | None = None
    task_reference: str | None = None
    reference_reason: str | None = None
    kv_type: str = "f16"
    device: str = "cpu"
    settings: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Value] = field(default_factory=dict)
    implausible: tuple[str, ...] = ()
    unfinished: dict[str, str] = field(default_factory=dict)
    worse_than_rounding: str | None = None
    study: StudyRow | None = None
    projector: Projector | None = None
    image_divergence: dict[str, ImageDivergence] = field(default_factory=dict)
    text: MeasuredText | None = None
    other_texts: dict[str, TextFigures] = field(default_factory=dict)
    speed_at_depth: dict[str, DepthSpeed] = field(default_factory=dict)
    speech: Speech | None = None
    stopping: dict[str, Stopping] = field(default_factory=dict)
    samples: dict[str, Samples] = field(default_factory=dict, compare=False, repr=False)

    def to_json(self, *, samples: bool = False) -> dict[str, Any]:
        """The fields; with `samples`, also the values of up to MOST_SAMPLES units of a figure, rounded to 9 digits."""
        row = asdict(replace(self, samples={}))
        del row["samples"]
        if samples:
            few = {name: own for name, own in self.samples.items() if own.values.size <= MOST_SAMPLES}
            row["samples"] = {name: own.to_json() for name, own in few.items()}
        return row
