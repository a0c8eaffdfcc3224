"""Tasks of lm-eval are found, loaded without the network, and rejected if they must not be run."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from converters.errors import InputError
from sweep.measure import lm_eval_tasks, task_names
from sweep.measure.harness import check_task
from sweep.measure.lm_eval_tasks import TaskLocation, load_task, quiet
from sweep.measure.task_options import TaskOptions

OWN = """
import json
from pathlib import Path
from datasets import Dataset, DatasetDict

def load(**_):
    print("loading")
    rows = [json.loads(line) for line in (Path(__file__).parent / "rows.jsonl").read_text().splitlines()]
    return DatasetDict({"test": Dataset.from_list(rows)})

def backwards(documents):
    return documents.select(range(len(documents) - 1, -1, -1))

def lost(**_):
    raise ValueError("two  lines\\nof " + "words " * 100)

def silent(**_):
    raise RuntimeError
"""
TASK = """
task: %s
custom_dataset: !function own.load
dataset_path: %s
test_split: test
"""
CHOOSE = "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: [a, b]\ndoc_to_target: 0\n"
WRITE = "output_type: generate_until\ndoc_to_text: '{{q}}'\ndoc_to_target: a\n"
ACC, EXACT = "metric_list: [{metric: acc}]\n", "metric_list: [{metric: exact_match}]\n"
SEEING = SimpleNamespace(doc_to_image=["a"])
NEEDING = "google/IFEval"  # whose items need data of nltk: presets/tasks/data.toml
ROWS = [{"q": f"Q{i}", "instruction_id_list": names} for i, names in enumerate((["a"], ["b", "c"], ["d"], []))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    files = {
        "choose": TASK % ("choose", "here") + CHOOSE + ACC + "tag: tagged\n",
        "more": TASK % ("more", "here") + CHOOSE + "metric_list: [{metric: acc}, {metric: acc_norm}]\ntag: tagged\n",
        "write": TASK % ("write", "here") + WRITE + EXACT,
        "greedy": TASK % ("greedy", "here") + WRITE + EXACT + "generation_kwargs: {do_sample: false}\n",
        "needing": TASK % ("needing", NEEDING) + WRITE + EXACT,
        "prepared": TASK % ("prepared", NEEDING) + WRITE + EXACT + "process_docs: !function own.backwards\n",
        "lost": TASK.replace("own.load", "own.lost") % ("lost", "here") + WRITE + EXACT,
        "silent": TASK.replace("own.load", "own.silent") % ("silent", "here") + WRITE + EXACT,
        "both": "group: both\ntask: [choose, more]\n",
        "inline": "group: inline\ntask:\n  - {task: choose, task_alias: other}\n  - task: own\n    "
        + (TASK.replace("task: %s\n", "") % "here" + CHOOSE + ACC).strip().replace("\n", "\n    "),
        "outer": "group: outer\ntask: [both, more]\n",
        "mean": "group: mean\ntask: [choose, more]\naggregate_metric_list: [{metric: acc, weight_by_size: false}]\n",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


@pytest.fixture
def checker(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules that the checker of instructions imports; nltk has no data, and downloads succeed."""
    modules = {name: ModuleType(name) for name in ("immutabledict", "langdetect", "nltk")}
    downloads: list[Any] = []

    def find(resource: str) -> str:
        if resource == "corpora/here":
            return resource
        raise LookupError(resource)

    langdetect, nltk = modules["langdetect"], modules["nltk"]
    langdetect.DetectorFactory = SimpleNamespace(seed=None)  # type: ignore[attr-defined]
    nltk.download, nltk.data = downloads.append, SimpleNamespace(find=find)  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return SimpleNamespace(langdetect=langdetect, nltk=nltk, downloads=downloads)


def load(task: str, folder: Path, **options: Any) -> Any:
    with quiet(offline=True):
        return load_task(task, TaskLocation(folder), TaskOptions(**options))


def test_a_task_and_a_group_are_loaded_with_their_names(folder: Path) -> None:
    alone = load("choose", folder)
    assert (alone.name, list(alone.tasks), alone.left_out) == ("choose", ["choose"], {})
    assert alone.root is alone.tasks["choose"]
    for name in ("both", "outer", "mean", "tagged"):
        group = load(name, folder)
        assert (group.name, list(group.tasks)) == (name, ["choose", "more"])
        assert [one.metric for one in group.root.aggregate_metric_list] == ["acc"]
        assert [one.weight_by_size for one in group.root.aggregate_metric_list] == [name != "mean"]


def test_a_group_may_contain_the_settings_of_its_tasks(folder: Path) -> None:
    group = load("inline", folder)
    assert list(group.tasks) == ["choose", "inline::own"]
    assert group.tasks["choose"].config.task_alias == "other"
    assert len(group.tasks["inline::own"].eval_docs) == 4


@pytest.mark.parametrize("config", [{"task": "t", "class": object}, {"task": ["t"]}, {"task": "t", "group": "g"}])
def test_only_a_task_that_is_described_by_its_settings_gets_local_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]
) -> None:
    from lm_eval.tasks._factory import TaskFactory

    def configuration(settings: dict[str, Any]) -> dict[str, Any]:
        factory = lm_eval_tasks._factory_class()(TaskLocation(data=tmp_path).local, TaskOptions(), {})
        found: dict[str, Any] = factory._load_full_config(SimpleNamespace(yaml_path=None, cfg=settings))
        return found

    monkeypatch.setattr(TaskFactory, "_load_full_config", lambda _self, entry, _overrides: dict(entry.cfg))
    assert configuration(config) == config
    with pytest.raises(InputError, match="no file with the split 'late'"):
        configuration({"task": "t", "test_split": "late"})


def test_a_file_of_the_current_directory_is_not_a_task(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "gsm8k").write_text(TASK % ("gsm8k", "here") + CHOOSE + ACC)
    monkeypatch.chdir(folder)
    config = lm_eval_tasks._manager("gsm8k", TaskLocation()).task_index["gsm8k"].yaml_path
    assert config is not None
    assert config.is_relative_to(task_names.home())
    with pytest.raises(InputError, match=r"unknown task 'choose\.yaml'; known in .*: both, choose, greedy,"):
        check_task("choose.yaml", TaskLocation(folder))


def test_code_of_a_task_that_fails_is_reported_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed = lm_eval_tasks._indexed
    start = "task {}: the task or its data cannot be loaded: "
    with pytest.raises(InputError) as lost:
        check_task("lost", TaskLocation(folder))
    assert str(lost.value) == start.format("lost") + ("two lines of " + "words " * 100)[:300]
    with pytest.raises(InputError) as silent:
        check_task("silent", TaskLocation(folder))
    assert str(silent.value) == start.format("silent") + "RuntimeError"
    monkeypatch.setattr(lm_eval_tasks, "_manager", lambda *_: indexed(folder))
    with pytest.raises(InputError) as online:
        check_task("silent")
    assert str(online.value) == (
        start.format("silent")
        + "RuntimeError; give its data with --task-data, or choose other tasks, or none, with --tasks"
    )
    load("choose", folder)
    assert capsys.readouterr().out == ""  # own.load prints


@pytest.mark.parametrize(
    ("attributes", "options", "message"),
    [
        ({"MULTIMODAL": True, "config": SimpleNamespace(doc_to_audio=["a"])}, {}, "task t: it uses sound"),
        ({"MULTIMODAL": True}, {}, "has images in another way than doc_to_image"),
        ({"MULTIMODAL": True, "config": SEEING}, {"num_fewshot": 2}, "t: examples with images are not supported"),
        ({"MULTIMODAL": True, "config": SEEING}, {"num_fewshot": 0}, ""),
        ({"MULTIMODAL": True, "config": SimpleNamespace(doc_to_image=["a"], num_fewshot=0)}, {"num_fewshot": 2}, ""),
        ({"UNSAFE_CODE": True}, {"allow_code": True}, "without the restrictions of code_eval"),
        ({"config": SimpleNamespace(generation_kwargs={"do_sample": True})}, {}, "it samples its answers"),
        ({"config": SimpleNamespace(generation_kwargs={"do_sample": False})}, {"thinking": True}, ""),
        ({"config": SimpleNamespace(generation_kwargs=None)}, {}, ""),
        ({"config": SimpleNamespace()}, {"thinking": True}, ""),
        ({"OUTPUT_TYPE": "multiple_choice"}, {"thinking": True}, "cannot run with --thinking on"),
        ({"OUTPUT_TYPE": "multiple_choice"}, {"thinking": False}, ""),
        ({"OUTPUT_TYPE": "multiple_choice", "config": SimpleNamespace(generation_kwargs={"do_sample": True})}, {}, ""),
        ({"MULTIMODAL": False, "UNSAFE_CODE": False}, {}, ""),
    ],
)
def test_tasks_that_must_not_be_run_are_rejected(
    attributes: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    plain = {
        "task_name": "t",
        "OUTPUT_TYPE": "generate_until",
        "config": SimpleNamespace(metric_list=[], process_results=None),
    }
    task: Any = SimpleNamespace(**plain | attributes)
    if not message:
        lm_eval_tasks._validate(task, TaskOptions(**options))
        return
    with pytest.raises(InputError, match=message):
        lm_eval_tasks._validate(task, TaskOptions(**options))


def entry(kind: str, cfg: dict[str, Any] | None = None, tags: tuple[str, ...] = ()) -> Any:
    return SimpleNamespace(kind=SimpleNamespace(name=kind), cfg=cfg, tags=set(tags))


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("task", True),
        ("python", True),
        ("absent", False),
        ("group", True),
        ("parts", True),
        ("partly", False),
        ("nested", False),
        ("nameless", False),
        ("named", True),
        ("tag", True),
        ("half", False),
    ],
)
def test_a_folder_is_enough_if_it_declares_all_members_of_a_group(name: str, whole: bool) -> None:
    index = {
        "task": entry("TASK", {"task": "task"}),
        "python": entry("PY_TASK"),
        "group": entry("GROUP", {"group": "group", "task": ["task", "python"]}),
        "parts": entry("GROUP", {"task": [{"task": "task"}, {"group": "group"}]}),
        "partly": entry("GROUP", {"task": ["task", "absent"]}),
        "nested": entry("GROUP", {"task": ["task", {"group": "partly"}]}),
        "nameless": entry("GROUP", {"task": ["task", {"task": ["task"]}]}),
        "named": entry("GROUP", {"task": "task"}),
        "tag": entry("TAG", tags=("task", "group")),
        "half": entry("TAG", tags=("task", "absent")),
    }
    manager: Any = SimpleNamespace(task_index=index)
    assert lm_eval_tasks._is_whole(manager, name) is whole


def test_a_name_is_looked_up_in_the_folder_that_declares_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, name in (("one", "one_two"), ("other", "far"), ("three", "three-four")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "file.yaml").write_text(f"task: {name}\ntag: [{name}_tag]\n")
    monkeypatch.setattr(task_names, "home", lambda: tmp_path)
    found = {name: list(lm_eval_tasks._folders(name)) for name in ("one_two", "far", "three-four", "one/two", "no")}
    one, other, three = (tmp_path / place for place in ("one", "other", "three"))
    assert found == {"one_two": [one, one], "far": [other], "three-four": [three, three], "one/two": [], "no": []}
    assert list(task_names.likely_folders("one")) == [one]
    assert list(task_names.likely_folders("_one")) == list(task_names.likely_folders("one/file.yaml")) == []
    assert [task_names.is_known(name) for name in ("far", "far_tag", "one_two_tag", "no")] == [True, True, True, False]


def test_the_nearest_names_of_an_unknown_task_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_names, "home", lambda: tmp_path)
    (tmp_path / "a.yaml").write_text("task: arithmetic_easy\ntag: [arithmetic_hard]\n")
    (tmp_path / "b.yaml").write_text("task: Zebra_of_several_stripes\n")

    def said(name: str, *others: str) -> str:
        return str(task_names.unknown_task(name, others))

    assert said("arithmetic_eesy") == ("unknown task 'arithmetic_eesy'; did you mean arithmetic_easy, arithmetic_hard?")
    assert said("arithmetic_eesy", "arithmetic_eesx").endswith(
        "did you mean arithmetic_eesx, arithmetic_easy, arithmetic_hard?"
    )
    several = ["zeb_long_and_far_away_4", "zeb_long_and_far_3", "zeb_long_and_2"]
    assert said("ZEB", *several).endswith("did you mean zeb_long_and_2, zeb_long_and_far_3, zeb_long_and_far_away_4?")
    assert said("ZEBR").endswith("did you mean Zebra_of_several_stripes?")
    assert said("xyz").endswith("; `lm_eval ls tasks` lists all tasks")
    assert said("").endswith("; `lm_eval ls tasks` lists all tasks")


@pytest.mark.parametrize(("task", "order"), [("needing", ["Q0", "Q2", "Q3"]), ("prepared", ["Q3", "Q2", "Q0"])])
def test_items_whose_checker_lacks_data_are_left_out_and_counted(
    folder: Path, checker: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, task: str, order: list[str]
) -> None:
    needs = lm_eval_tasks.task_data()["ifeval"].needs
    assert needs is not None
    wanting = sorted(needs.values)[0]
    rows = [
        row | {"instruction_id_list": [*row["instruction_id_list"], *[wanting] * (i == 1)]}
        for i, row in enumerate(ROWS)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    loaded = load(task, folder)
    assert loaded.tasks[task].eval_docs["q"] == order
    assert loaded.left_out == {task: 1}
    assert checker.langdetect.DetectorFactory.seed == 0
    monkeypatch.setattr(lm_eval_tasks, "_has", lambda resource: resource == needs.resource)
    whole = load(task, folder)
    assert (len(whole.tasks[task].eval_docs), whole.left_out) == (4, {})


def test_nltk_downloads_nothing_while_a_task_is_loaded(
    folder: Path, checker: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [lm_eval_tasks._has(resource) for resource in ("corpora/here", "corpora/absent")] == [True, False]
    own = folder / "own.py"
    own.write_text(OWN + "\nimport nltk\nassert nltk.download('punkt_tab', quiet=True) is False\n")
    load("prepared", folder)  # whose file imports own.py
    assert checker.downloads == []
    checker.nltk.download("after")
    assert checker.downloads == ["after"]
    monkeypatch.setitem(sys.modules, "langdetect", None)
    with pytest.raises(InputError, match=r"the checker of this task needs langdetect; pip install 'lm-eval\[ifeval\]'"):
        load("needing", folder)


def test_lm_eval_is_changed_only_while_a_task_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub.constants
    import lm_eval.api.task
    import lm_eval.evaluator
    import lm_eval.utils

    hub = huggingface_hub.constants
    for owner in (datasets.config, hub):
        monkeypatch.setattr(owner, "HF_HUB_OFFLINE", False)
    for name in ("DISABLE_MULTIPROC", "TOKENIZERS_PARALLELISM"):
        monkeypatch.delenv(name, raising=False)
    parts = [
        (lm_eval.api.task, "tqdm"),
        (lm_eval.evaluator, "add_env_info"),
        (lm_eval.evaluator, "get_git_commit_hash"),
        (lm_eval.utils.env, "from_string"),
        (datasets.config, "HF_HUB_OFFLINE"),
        (hub, "HF_HUB_OFFLINE"),
    ]
    before = [getattr(owner, name) for owner, name in parts]
    filters = [list(logging.getLogger(name).filters) for name in ("lm_eval.api.task", "lm_eval.evaluator")]
    for answers in (True, False):  # a hub that cannot be reached is not waited for
        monkeypatch.setattr("sweep.measure.hub_access.is_reachable", lambda answers=answers: answers)
        with quiet(offline=False):
            assert (not answers, not answers) == (datasets.config.HF_HUB_OFFLINE, hub.HF_HUB_OFFLINE)

    def fail_while_quiet() -> None:
        with quiet(offline=True):
            assert (datasets.config.HF_HUB_OFFLINE, hub.HF_HUB_OFFLINE) == (True, True)
            assert (os.environ["DISABLE_MULTIPROC"], os.environ["TOKENIZERS_PARALLELISM"]) == ("1", "false")
            documents = [1, 2]
            assert lm_eval.api.task.tqdm(documents, total=2, disable=False) is documents
            assert lm_eval.evaluator.add_env_info({}) is None
            assert lm_eval.evaluator.get_git_commit_hash() is None
            template = lm_eval.utils.env.from_string("{{ one }}")
            assert lm_eval.utils.env.from_string("{{ one }}") is template
            assert template.render(one=1) == "1"
            for name in ("lm_eval.api.task", "lm_eval.evaluator"):
                logger = logging.getLogger(name)
                advice = logger.makeRecord(name, 30, "", 0, "'output_path' is defined, but not used", (), None)
                problem = logger.makeRecord(name, 30, "", 0, "a problem", (), None)
                assert (bool(logger.filter(advice)), bool(logger.filter(problem))) == (False, True)
            raise KeyError

    with pytest.raises(KeyError):
        fail_while_quiet()
    assert [getattr(owner, name) for owner, name in parts] == before
    assert [logging.getLogger(name).filters for name in ("lm_eval.api.task", "lm_eval.evaluator")] == filters
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    with quiet(offline=False):
        assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


def test_the_place_of_lm_evals_tasks_is_found_without_importing_it() -> None:
    assert task_names.home() == Path(importlib.import_module("lm_eval.tasks").__file__ or "").parent


def test_data_of_a_task_are_described_by_their_name(tmp_path: Path) -> None:
    assert TaskLocation().local is None
    assert not TaskLocation().offline
    assert TaskLocation(yaml=tmp_path).offline
    assert TaskLocation(data=tmp_path).offline
    named = TaskLocation(data=tmp_path, data_name="gsm8k").local
    assert named is not None
    assert (named.folder, named.about.dataset) == (tmp_path, "openai/gsm8k")
    by_folder = TaskLocation(data=tmp_path / "boolq").local
    assert by_folder is not None
    assert by_folder.about.config == "boolq"
    unknown = TaskLocation(data=tmp_path / "mine").local
    assert unknown is not None
    assert (unknown.about.name, unknown.about.dataset) == ("mine", None)
