"""Converts plans of format 1, in which cells had dictionaries of parameters, to the present format.

These plans are only read to show their runs, so fields that only matter for running a plan are left empty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from sweep.jobs.settings import Settings

Row = Mapping[str, Any]
_SETTINGS = {entry.name for entry in fields(Settings)}


def upgraded(row: Row) -> dict[str, Any]:
    """The plan in the format of Plan.to_json. Raises KeyError or TypeError if `row` is not a plan."""
    about, settings = dict(row["about"]), row["settings"]
    torch = about.get("torch") or {}
    devices = {"llama.cpp": settings.get("device", "cpu"), "torch": torch.get("device", "cpu")}
    return {
        "run": row["run"],
        "model": row["model"],
        "preset": row["preset"],
        "reference": row["reference"],
        "variants": list(row["variants"]),
        "settings": _settings(settings),
        "where": {"threads": settings.get("threads", 1), "devices": devices},
        "skipped": about.pop("skipped", {}),
        "about": about,
        "cells": [_cell(cell, about) for cell in row["cells"]],
        "procedures": row.get("procedures", {}),
        "made_of": row.get("made_of"),
    }


def _settings(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name in _SETTINGS}


def _cell(cell: Row, about: Row) -> dict[str, Any]:
    return {
        "key": cell["key"],
        "variant": cell["variant"],
        "name": cell["name"],
        "job": {"kind": cell["kind"], **_JOBS[cell["kind"]](cell["params"], cell.get("makes"), about)},
        "needs": list(cell["needs"]),
        "wants": [],
        "alike": cell.get("alike"),
    }


def _artefact(path: str | None) -> dict[str, str] | None:
    return None if path is None else {"name": path}


def _model(params: Row, about: Row) -> dict[str, Any]:
    runs = params.get("runs", "gguf")
    return {
        "opener": runs,
        "file": _artefact(params["file"]),
        "content": "",
        "engine": about.get("engine", "") if runs == "gguf" else about["torch"]["engine"],
        "settings": _settings(params["settings"]),
        "checkpoint": _artefact(params.get("source")),
        "name": params.get("name", ""),
    }


def _export(params: Row, makes: str | None, about: Row) -> dict[str, Any]:
    names = {name: params[name] for name in ("name", "quant")}
    files = {name: _artefact(params.get(name)) for name in ("source", "file", "imatrix")}
    return {**names, **files, "model": "", "label": "", "engine": about.get("engine", "")}


def _imatrix(params: Row, makes: str | None, about: Row) -> dict[str, Any]:
    return {
        "file": _artefact(params["file"]),
        "text": _artefact(params["text"]),
        "matrix": _artefact(params["makes"]),
        "content": "",
        "text_identity": "",
        "origin": params["origin"],
        "engine": about.get("engine", ""),
        "settings": _settings(params["settings"]),
    }


def _quantize(params: Row, makes: str | None, about: Row) -> dict[str, Any]:
    text = params["text"]
    return {
        "source": _artefact(params["source"]),
        "name": params["name"],
        "recipe": params["recipe"],
        "folder": params["file"].rpartition("/")[0],
        "model": "",
        "engine": "",
        "text": None if text is None else _text(params["text_name"] or text, text),
    }


def _speed(params: Row, makes: str | None, about: Row) -> dict[str, Any]:
    return {"model": _model(params, about)}


def _perplexity(params: Row, makes: str | None, about: Row) -> dict[str, Any]:
    return {
        "model": _model(params, about),
        "text": _text(about.get("text") or "", params["text"]),
        "reference": _artefact(params["reference"]),
        "distributions": _artefact(makes),
        "base_file": _artefact(params.get("writes_base")),
    }


def _text(name: str, file: str) -> dict[str, Any]:
    return {"name": name, "file": _artefact(file), "identity": ""}


def _task(params: Row, makes: str | None, about: Row) -> dict[str, Any]:
    task = params["task"]
    places = {name: _artefact(task.get(name)) for name in ("folder", "data")}
    named = {"name": task["name"], "data_name": task.get("data_name"), "options": task["options"]}
    return {"model": _model(params, about), "task": {**named, **places}}


_JOBS: dict[str, Callable[[Row, str | None, Row], dict[str, Any]]] = {
    "export": _export,
    "imatrix": _imatrix,
    "quantize": _quantize,
    "speed": _speed,
    "text": _perplexity,
    "task": _task,
}
