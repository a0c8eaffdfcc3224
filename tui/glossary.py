"""What the words on the screen mean, as in docs/glossary.md, which is not installed; a test compares the two."""

from __future__ import annotations

GLOSSARY = {
    "variant": "One way to store and run a model.",
    "bits per weight (bpw)": "8 × bytes of all tensors / number of weights.",
    "reference": "The variant that all others are compared with, BF16 by default.",
    "imatrix": "Importance matrix: how strongly each input column of a weight matrix is used, measured on a text.",
    "preset": "A named list of variants and measurements: q2-q8.",
    "job": "One piece of work in a run: to make a file, or to take one measurement of one variant.",
    "failed, cancelled, skipped": "How a job ends without a whole result: by an error; because a person cancelled it; "
    "because something that it needs has no result.",
    "perplexity (PPL)": "exp of the mean negative log-likelihood per token of a text, computed as llama-perplexity "
    "does. Lower is better.",
    "KL divergence (KLD)": "How far a variant's next-token probabilities are from the reference's, in nats per token, "
    "as a mean over all scored tokens. 0 means the same.",
    "noise floor": "The KL divergence of the reference from itself if it is computed again with another batch size.",
    "top-1 %": "The share of scored positions at which the variant and the reference find the same token most "
    "probable.",
    "recovery %": "100 × (score − chance) / (reference's score − chance): 100 is as good as the reference, "
    "0 is guessing.",
    "significant": "Of a difference: a paired test finds it at the 5 % level, after Holm's correction for the number "
    "of tests in the run",
    "indistinguishable": "Of two variants: the 95 % interval of their difference contains 0.",
    "Pareto set": "The variants for which no other variant is both smaller and better.",
    "standard error (±)": "The standard deviation of an estimate over repetitions of the measurement.",
    "prompt t/s, decode t/s": "Tokens per second for reading a prompt of 512 tokens and for generating 128 tokens",
    "simulated GPU": "A GPU that is not in this machine.",
    "fits": "The whole variant is on the GPUs, and the reserve stays free.",
    "partly in RAM": "The variant does not fit, but runs with some layers or experts in RAM.",
    "reserve": "Memory that is left free on each device: a safety margin and an allowance for the driver.",
    "headroom": "Free memory on the fullest device after the reserve; negative if the variant does not fit.",
    "context": "The number of tokens of one sequence that the KV cache has room for.",
    "draft": "What proposes tokens in speculative decoding, for the model to check",
}
