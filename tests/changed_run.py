"""A stored run of an image task in which a quant changes answers: what reports and the screen show of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from PIL import Image, ImageDraw

from sweep.artefact import Artefact
from sweep.items import Item, Question, QuestionImage
from sweep.jobs.cell import Cell
from sweep.jobs.inputs import Task
from sweep.jobs.model import MeasuredModel
from sweep.jobs.settings import ComputeResources, Settings
from sweep.jobs.task import TaskJob
from sweep.results.plan import Plan
from sweep.results.store import Outcome, Store
from sweep.workspace import Workspace

TASK = "vl_form"
RED, WHITE = (214, 40, 40), (255, 255, 255)
COLOURS = ("red", "blue", "green")
PICTURE = "pictures/0.png"


@dataclass(frozen=True)
class _Document:
    """Answers (the index of the choice) by variant; the images of its question, None if none is stored."""

    answers: tuple[str, str, str]
    images: tuple[str, ...] | None


VARIANTS = ("BF16", "Q2_K", "Q4_K_M")
DOCUMENTS = (  # the right answer is always 0
    _Document(("0", "0", "0"), (PICTURE,)),
    _Document(("1", "0", "1"), ("",)),  # a gain; the image is not in a file of its own
    _Document(("1", "2", "1"), None),  # another wrong answer
    _Document(("0", "1", "2"), (PICTURE,)),  # lost by both
    _Document(("0", "1", "0"), ("pictures/none.png",)),
)


def changed_run(workspace: Workspace, folder: Path) -> Plan:
    """Write the run to the store, and the task's picture to `folder`: a red square, 600 by 300 pixels, on white."""
    file = folder / PICTURE
    file.parent.mkdir(parents=True)
    image = Image.new("RGB", (600, 300), WHITE)
    ImageDraw.Draw(image).rectangle((0, 0, 299, 299), RED)
    image.save(file)
    digest = sha256(file.read_bytes()).hexdigest()
    task = Task(TASK, Artefact.of(folder))
    cells = tuple(
        Cell(f"{name} task", name, TASK, TaskJob(MeasuredModel("gguf", Artefact(f"/{name}"), "", "", Settings()), task))
        for name in VARIANTS
    )
    about = {"model": "a model", "text": "", "tasks": {TASK: len(DOCUMENTS)}, "engine": ""}
    plan = Plan("run-1", "m", "none", "BF16", VARIANTS, Settings(), ComputeResources(), about, cells)
    questions = [
        Question(
            TASK,
            f"d{i}",
            f"p{i}",
            f"<image>What <colour> is\nthe square {i}?",
            COLOURS,
            "red",
            tuple(QuestionImage(path, digest) for path in document.images),
        )
        for i, document in enumerate(DOCUMENTS)
        if document.images is not None
    ]
    result = {"metric": "acc", "stderr": 0.1, "n": len(DOCUMENTS), "notes": [], "chance": 1 / 3}
    result |= {"higher_is_better": True, "other": {}, "settings": {"max_gen_toks": None}}
    workspace.root.mkdir(parents=True, exist_ok=True)
    with Store(workspace.database) as store:
        store.add_run(plan.run, json.loads(json.dumps(plan.to_json())))
        for column, cell in enumerate(cells):
            given = [document.answers[column] for document in DOCUMENTS]
            items = [
                Item(i, f"d{i}", f"p{i}", float(answer == "0"), answer, 0.5, TASK) for i, answer in enumerate(given)
            ]
            value = sum(item.value for item in items) / len(items)
            store.put(cell.key, Outcome("ok", {**result, "value": value}, None, 1.0), items, questions)
    return plan
