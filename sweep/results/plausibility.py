"""Recognizes figures that quantization does not usually explain, so that a mistake is not taken for a loss.

The limits lie between what quants do and what mistakes do. Published mean KL divergences of Qwen models with every
weight in one type: the 0.8B model, which loses most, has 0.50 nats in IQ3_XXS (3.06 bits per weight), 1.30 in Q2_K
(2.63) and 5.2 to 5.7 in IQ1_S and IQ1_M (1.56 and 1.75). Types for ternary weights on other weights give 12 to 15;
the built-in model keeps 3 % of its top tokens in TQ1_0, and 80 % in IQ1_S.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sweep import format as fmt
from sweep.record import Record


@dataclass(frozen=True)
class _Limits:
    """The limits for variants with at least `bits` bits per weight: the smallest share of positions with the same top
    token, the largest mean KL divergence in nats per token, and the largest ratio of perplexities."""

    bits: float
    top1: float
    kld: float
    perplexity_ratio: float


# A divergence of 8 nats on the text raises the perplexity by about exp(8) = 3000
_LIMITS = (_Limits(3.0, 0.5, 1.0, 100.0), _Limits(0.0, 0.05, 8.0, 3000.0))


def with_doubts(records: Sequence[Record]) -> list[Record]:
    """The records with `implausible` filled in."""
    named = {record.variant: record for record in records}
    return [replace(record, implausible=_implausible(record, named)) for record in records]


def _implausible(record: Record, named: Mapping[str, Record]) -> tuple[str, ...]:
    """What is outside the limits, in words; empty if nothing is. A variant of unknown size has many bits."""
    bits = _LIMITS[0].bits if record.bits_per_weight is None else record.bits_per_weight
    limits = next(one for one in _LIMITS if bits >= one.bits)
    reference = fmt.plain(record.reference or "the reference")
    found = []
    divergence, ratio = record.divergence, _perplexity_ratio(record, named)
    if divergence is not None and divergence.top1_agreement < limits.top1:
        share, least = f"{100 * divergence.top1_agreement:.1f} %", f"{100 * limits.top1:.0f} %"
        found.append(f"its top token is that of {reference} at {share} of the positions, under {least}")
    if divergence is not None and divergence.kld_mean > limits.kld:
        found.append(f"its mean KL divergence is {fmt.small(divergence.kld_mean)} nats, over {limits.kld:g}")
    if ratio is not None and ratio > limits.perplexity_ratio:
        found.append(f"its perplexity is {ratio:,.0f} times that of {reference}, over {limits.perplexity_ratio:,.0f}")
    return tuple(found)


def _perplexity_ratio(record: Record, named: Mapping[str, Record]) -> float | None:
    """The variant's perplexity divided by its reference's, over the same positions if the divergence was measured."""
    if record.divergence is not None and record.divergence.perplexity_ratio is not None:
        return record.divergence.perplexity_ratio
    base = named.get(record.reference or "")
    if record.perplexity is None or base is None or base.perplexity is None or base.perplexity.value <= 0.0:
        return None
    return record.perplexity.value / base.perplexity.value
