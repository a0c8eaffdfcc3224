"""Which tasks take images is read from their files, as lm-eval would find it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweep.measure.image_tasks import takes_images

FILES = {
    "plain.yaml": "task: plain\ndoc_to_text: '<image> is only text here'\ndoc_to_target: doc_to_image\ntag: all\n",
    "seen.yaml": "task: seen\ndoc_to_image: [picture]\nprocess_results: !function utils.score\ntag: [all, some]\n",
    "derived.yaml": "include: _base\ntask: derived\n",
    "twice.yaml": "include: [own.yaml, derived.yaml]\ntask: twice\n",
    "off.yaml": "task: off\ndoc_to_image: null\n",
    "_base": "doc_to_image: !function utils.images\n",
    "one.yaml": "group: one\ntask:\n  - plain\n  - group: inner\n    task: [off, derived]\n",
    "inline.yaml": "group: inline\ntask:\n  - {task: fresh, doc_to_image: [picture]}\n",
    "outer.yaml": "group: outer\ntask: [plain, outer, one]\n",
    "none.yaml": "group: none\ntask: [plain, {task: off}, missing]\n",
    "loop.yaml": "include: loop.yaml\ntask: loop\n",
    "broken.yaml": "task: broken\ndoc_to_image: [\n",
    "gone.yaml": "task: gone\ninclude: missing\n",
}
WITH = {"seen", "derived", "twice", "one", "inline", "outer", "all", "some"}
WITHOUT = {"plain", "off", "none", "loop", "broken", "gone", "unknown"}


@pytest.mark.parametrize("name", sorted(WITH | WITHOUT))
def test_a_task_takes_images_if_its_file_or_one_of_its_tasks_says_so(name: str, tmp_path: Path) -> None:
    for file, text in FILES.items():
        (tmp_path / file).write_text(text)
    assert takes_images(name, tmp_path) == (name in WITH)


def test_tasks_of_lm_eval_take_images_as_lm_eval_says() -> None:
    assert [takes_images(name) for name in ("chartqa", "mmmu_val", "mmmu_val_art")] == [True] * 3
    assert [takes_images(name) for name in ("gsm8k", "mmlu", "arc_easy", "ai2_arc", "unheard_of")] == [False] * 5
