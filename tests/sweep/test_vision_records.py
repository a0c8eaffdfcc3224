"""Records and tables of variants with projector files."""

from __future__ import annotations

from dataclasses import fields, replace

from sweep.analysis import figures
from sweep.analysis.run_candidates import advise_on_records, run_candidates
from sweep.record import Divergence, ImageDivergence, Memory, Projector, Record
from sweep.report.figure_columns import figures_shown

PLAIN = Record("Q4_K_M", "gguf", "ok", file_bytes=1000, bits_per_weight=4.9, memory=Memory(5000))
RECORDS = [
    replace(PLAIN, projector=Projector("F16", 400, 700)),
    replace(PLAIN, variant="Q4_K_M+mmproj=Q8_0", projector=Projector("Q8_0", 200, 500)),
]


def test_the_worst_divergence_decides_of_a_text_and_of_answers_about_images() -> None:
    reference = replace(PLAIN, variant="BF16", file_bytes=3000, reference="BF16")
    divergence = Divergence(*(0.0 for _ in fields(Divergence)))
    images = ImageDivergence(0.0, 0.001, None, None, 0.9, 100, 20, 10)
    text = replace(divergence, kld_mean=0.002, kld_stderr=0.0005)
    good = replace(PLAIN, reference="BF16", divergence=text, image_divergence={"ocr": replace(images, kld_mean=0.0015)})
    bad = replace(
        good, variant="Q4_K_M+mmproj=Q4_0", file_bytes=900, image_divergence={"ocr": replace(images, kld_mean=0.3)}
    )
    found = {one.variant: one.kld for one in run_candidates([reference, good, bad])}
    assert (found["Q4_K_M"].value, found["Q4_K_M"].basis) == (0.002, "")
    assert (found["Q4_K_M+mmproj=Q4_0"].value, found["Q4_K_M+mmproj=Q4_0"].basis) == (0.3, "right answers to ocr")
    assert advise_on_records([reference, good, bad]).variant == "Q4_K_M"
    alone = advise_on_records([bad])
    assert "Its measured KL divergence at the right answers to ocr is 0.3" in alone.reason


def test_projector_files_count_in_memory_and_in_the_size_of_a_candidate() -> None:
    assert [figures.memory(record) for record in RECORDS] == [(5700, "predicted"), (5500, "predicted")]
    assert figures.memory(PLAIN) == (5000, "predicted")
    assert [one.variant for one in run_candidates(RECORDS)] == ["Q4_K_M+mmproj=Q8_0", "Q4_K_M"]
    assert [one.file_bytes for one in run_candidates(RECORDS)] == [1200, 1400]
    assert [column.short for column in figures_shown([PLAIN])][:3] == ["bpw", "size", "memory"]
    shown = figures_shown(RECORDS)
    assert [column.short for column in shown][:4] == ["bpw", "size", "mmproj", "memory"]
    assert shown[2].texts(RECORDS)[0] == ["400 B", "200 B"]
    row = RECORDS[1].to_json()
    assert row["projector"] == {"name": "Q8_0", "file_bytes": 200, "memory_bytes": 500}
    assert (row["file_bytes"], row["memory"]["predicted_bytes"]) == (1000, 5000)
