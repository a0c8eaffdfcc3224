"""The undocumented parts of dependencies that this program uses. A test that fails names the part, and what breaks.

pyproject.toml pins these dependencies, or bounds them. After raising a bound, port the modules that failing tests name.
"""

from __future__ import annotations

import ast
import inspect
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import presets
from converters.export import export
from converters.llamacpp.ghost import ghost
from converters.llamacpp.load import LoadOptions
from converters.llamacpp.memory import context_memory, loaded_ghost
from converters.llamacpp.model import Context, ContextOptions, Model
from converters.plan import plan_export
from converters.resolver import open_source

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MICRO = presets.builtin_models()["micro"]


@dataclass(frozen=True)
class Use:
    """A use of an undocumented part of a dependency.

    `uses` is the part, `where` names the modules that use it, and `breaks` says what breaks without it. `check` raises
    AssertionError or ImportError if the part has changed.
    """

    dependency: str
    uses: str
    where: str
    breaks: str
    check: Callable[[], None]


def has(path: str, *names: str, parameters: Iterable[str] = ()) -> Callable[[], None]:
    """A check that the object `path` exists, has the attributes `names`, and can be called with these parameters."""

    def check() -> None:
        module, _, name = path.partition(":")
        found: Any = import_module(module)
        for part in filter(None, name.split(".")):
            assert hasattr(found, part), f"{module} has no {name}"
            found = getattr(found, part)
        missing = [attribute for attribute in names if not hasattr(found, attribute)]
        assert not missing, f"{path} has no {', '.join(missing)}"
        used = set(parameters)
        assert not used or used <= set(inspect.signature(found).parameters), f"{path} takes no {sorted(used)}"

    return check


def factory_is_replaced() -> None:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=MICRO.task_directory, include_defaults=False)
    assert hasattr(manager, "_factory"), "TaskManager has no _factory"
    entry = manager.task_index[MICRO.tasks[0]]
    missing = [name for name in ("yaml_path", "cfg", "kind", "tags") if not hasattr(entry, name)]
    assert not missing, f"an entry of the task index has no {', '.join(missing)}"


def caches_are_made_of_layers() -> None:
    from transformers import DynamicCache, Qwen3_5MoeTextConfig, Qwen3Config
    from transformers.cache_utils import DynamicLayer, LinearAttentionLayer

    plain = DynamicCache(config=Qwen3Config(num_hidden_layers=2))
    assert [type(layer) for layer in plain.layers] == [DynamicLayer] * 2, "a cache's layers are not DynamicLayer"
    kinds = ["linear_attention", "full_attention"]
    mixed = DynamicCache(config=Qwen3_5MoeTextConfig(num_hidden_layers=2, layer_types=kinds))
    assert [type(layer) for layer in mixed.layers] == [LinearAttentionLayer, DynamicLayer], (
        "DeltaNet's has another type"
    )
    state = LinearAttentionLayer()
    for name in ("conv_states", "recurrent_states", "conv_kernel_size", "has_previous_state", "number_of_states"):
        assert hasattr(state, name), f"LinearAttentionLayer has no {name}"


def log_lines_are_found() -> None:
    """All lines of llama.cpp's log that are read are found, for a model with attention and linear layers."""
    source = open_source("micro-moe")
    types = {tensor.type.name for tensor in plan_export(source, ["Q4_K_M"])["Q4_K_M"].tensors}
    assert types > {"F32", "Q4_K"}, f"the quantizer's dry run names the types {sorted(types)}"
    with (
        ghost(source.structure, source.tensors) as path,
        loaded_ghost(path, LoadOptions(), (), "micro-moe") as loaded,
    ):
        memory = context_memory(loaded, ContextOptions(256), (), "micro-moe")
    missing = [field.name for field in fields(memory) if getattr(memory, field.name) in (0, (0,), frozenset())]
    assert not missing, f"llama.cpp does not log {', '.join(missing)} of a context"
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "micro-moe-Q8_0.gguf"
        export(source, {"Q8_0": file})
        with Model(file) as opened, Context(opened, ContextOptions(256)) as context:
            assert opened.allocated_bytes > file.stat().st_size / 2, "llama.cpp does not log the size of buffers"
            assert context.recurrent_bytes, "llama.cpp does not log the size of a context's recurrent state"


def all_of(*checks: Callable[[], None]) -> Callable[[], None]:
    def check() -> None:
        for one in checks:
            one()

    return check


USES = (
    Use(
        "lm-eval",
        "lm_eval.tasks._factory.TaskFactory._load_full_config(entry, overrides)",
        "sweep/measure/lm_eval_tasks.py",
        "local data does not replace the hub's, and tasks download data",
        has("lm_eval.tasks._factory:TaskFactory._load_full_config", parameters=("self", "entry", "overrides")),
    ),
    Use(
        "lm-eval",
        "lm_eval.tasks._yaml_loader.load_yaml(path, resolve_func=False)",
        "sweep/measure/lm_eval_tasks.py",
        "a task's data set is not known before its code runs",
        has("lm_eval.tasks._yaml_loader:load_yaml", parameters=("resolve_func",)),
    ),
    Use(
        "lm-eval",
        "TaskManager._factory and the entries of TaskManager.task_index",
        "sweep/measure/lm_eval_tasks.py",
        "tasks are made without local data, and groups are not found by their members",
        factory_is_replaced,
    ),
    Use(
        "lm-eval",
        "names in lm_eval.api.task, lm_eval.evaluator and lm_eval.utils that are replaced",
        "sweep/measure/harness.py",
        "progress bars are drawn over the screen, git is run, and templates are compiled again for each item",
        all_of(
            has("lm_eval.api.task", "tqdm"),
            has("lm_eval.evaluator", "add_env_info", "get_git_commit_hash"),
            has("lm_eval.utils", "env"),
        ),
    ),
    Use(
        "transformers",
        "DynamicCache.layers: DynamicLayer, LinearAttentionLayer and their states",
        "sweep/backends/torch_cache.py, int8/kv_cache.py",
        "sequences cannot share a prefix, and caches cannot be stored in int8",
        caches_are_made_of_layers,
    ),
    Use(
        "transformers",
        "transformers.cache_utils.CacheLayerMixin and what a layer of a cache overrides",
        "sweep/backends/torch_cache.py",
        "models do not accept the paged cache",
        has(
            "transformers.cache_utils:CacheLayerMixin",
            "update",
            "lazy_initialization",
            "get_seq_length",
            "get_mask_sizes",
        ),
    ),
    Use(
        "transformers",
        "AttentionInterface, AttentionMaskInterface, sdpa_attention_forward, sdpa_mask",
        "int8/fakequant.py, int8/attention.py, int8/calibration_passes.py",
        "attention is neither observed nor quantized",
        all_of(
            has("transformers:AttentionInterface", "register"),
            has("transformers:AttentionMaskInterface", "register"),
            has("transformers.integrations.sdpa_attention:sdpa_attention_forward"),
            has("transformers.masking_utils:sdpa_mask"),
        ),
    ),
    Use(
        "transformers",
        "EncoderDecoderCache, the normalizers of Whisper",
        "int8/speech_cache.py, sweep/backends/speech.py, speech/normalizer.py",
        "Whisper decodes without its cache, and words are not normalized",
        all_of(
            has("transformers:EncoderDecoderCache", "crop"),
            has("transformers.models.whisper.english_normalizer", "BasicTextNormalizer", "EnglishTextNormalizer"),
        ),
    ),
    Use(
        "transformers",
        "PreTrainedModel.all_tied_weights_keys, set_attn_implementation and config._attn_implementation",
        "int8/checkpoint.py, int8/calibrate.py, int8/channel_statistics.py",
        "tied weights are saved twice, and calibration leaves its own attention behind",
        all_of(
            has("transformers:PreTrainedModel", "set_attn_implementation", "get_decoder"),
            has("transformers:PreTrainedConfig", "_attn_implementation", "get_text_config"),
        ),
    ),
    Use(
        "transformers",
        "transformers.utils.chat_template_utils.render_jinja_template",
        "sweep/measure/lm_eval_model.py",
        "prompts cannot be written in a model's chat template",
        has(
            "transformers.utils.chat_template_utils:render_jinja_template",
            parameters=("conversations", "chat_template", "add_generation_prompt", "continue_final_message"),
        ),
    ),
    Use(
        "transformers",
        "transformers.convert_slow_tokenizer.bytes_to_unicode",
        "sweep/backends/torch.py",
        "tokens of the torch backend have no bytes",
        has("transformers.convert_slow_tokenizer:bytes_to_unicode"),
    ),
    Use(
        "torch",
        "torch._int_mm(int8, int8) -> int32",
        "int8/linear.py",
        "int8 layers do not compute in integers",
        has("torch", "_int_mm"),
    ),
    Use(
        "llama-cpp-python",
        "llama_cpp.llama_cpp._lib, through which ggml's functions are found",
        "converters/llamacpp/bindings.py",
        "nothing is quantized",
        has("llama_cpp.llama_cpp", "_lib", "llama_model_quantize_default_params", "llama_log_callback"),
    ),
    Use(
        "llama-cpp-python",
        "regular expressions over lines that llama.cpp logs",
        "converters/llamacpp/tensor_types.py, memory.py, model.py",
        "types of tensors are not planned, and memory is predicted as 0",
        log_lines_are_found,
    ),
    Use(
        "typer",
        "typer.models.ParameterInfo",
        "sweep/cli/options.py",
        "commands do not share their options",
        has("typer.models:ParameterInfo"),
    ),
    Use(
        "typer",
        "typer.core.TyperCommand, TyperGroup, TyperOption and TyperArgument, and the attributes that help reads",
        "sweep/cli/help.py",
        "--help and docs/cli.md are empty or in typer's own layout",
        all_of(
            has("typer.core:TyperCommand", "format_help"),
            has("typer.core:TyperGroup", "format_help"),
            has("typer.core:TyperOption.__init__", parameters=("type_descriptor", "is_flag", "rich_help_panel")),
            has("typer.core:TyperArgument.__init__", parameters=("type_descriptor", "show_default", "metavar")),
            has("typer.core:TyperArgument", "display_name_raw"),
        ),
    ),
)


@pytest.mark.parametrize("use", USES, ids=[f"{use.dependency}: {use.uses}" for use in USES])
def test_undocumented_parts_still_exist(use: Use) -> None:
    try:
        use.check()
    except (AssertionError, ImportError) as error:
        pytest.fail(
            f"{use.dependency} {version(use.dependency)} has changed {use.uses} ({error}): {use.breaks};"
            f" port {use.where}, or keep the bound in pyproject.toml"
        )


def requirements(table: Iterable[str]) -> dict[str, Requirement]:
    return {canonicalize_name(found.name): found for found in map(Requirement, table)}


REQUIRED = requirements(PROJECT["dependencies"])


@pytest.mark.parametrize("dependency", sorted({use.dependency for use in USES}))
def test_dependencies_with_undocumented_uses_are_pinned_or_bounded(dependency: str) -> None:
    operators = {clause.operator for clause in REQUIRED[dependency].specifier}
    assert operators & {"==", "<"}, f"{dependency}: write an exact version or an upper bound, with a reason"


def test_the_tested_versions_are_within_the_bounds() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = requirements(line for line in lines if line and not line.startswith("#"))
    extras = requirements(one for table in PROJECT["optional-dependencies"].values() for one in table)
    for name, required in {**REQUIRED, **extras}.items():
        if name in pinned:
            (clause,) = pinned[name].specifier
            assert required.specifier.contains(clause.version), f"{name}: constraints.txt and pyproject.toml disagree"


OURS = {"presets", "converters", "images", "speech", "int8", "ptq", "sweep", "tui"}
MODULES = {"llama_cpp": "llama-cpp-python", "PIL": "pillow", "yaml": "pyyaml", "pynvml": "nvidia-ml-py"}
"""Modules whose name differs from that of their distribution."""
INDIRECT = {"triton": "torch", "tokenizers": "transformers", "evaluate": "lm-eval", "immutabledict": "lm-eval"}
INDIRECT |= {"langdetect": "lm-eval", "nltk": "lm-eval"}
"""Modules that a declared dependency installs, which chooses their version."""


def imported(file: Path) -> set[str]:
    """The libraries that a file imports anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            found.add(node.module.partition(".")[0])
    return found - OURS - set(sys.stdlib_module_names) - {"_typeshed"}  # type checkers bring it


def test_declared_dependencies_are_exactly_the_imported_libraries() -> None:
    libraries = set().union(*(imported(file) for package in OURS for file in (ROOT / package).rglob("*.py")))
    declared = {canonicalize_name(MODULES.get(name) or INDIRECT.get(name) or name) for name in libraries | {"pynvml"}}
    assert declared == set(REQUIRED)
