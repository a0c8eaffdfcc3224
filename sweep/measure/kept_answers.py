"""The answers of a model to the requests of a task, in a file, so that no request is answered twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from converters.atomic import write_text
from sweep.backends.sharing_check import SharingCheck
from sweep.measure.reasoning import Opening
from sweep.measure.simple_evaluate import REQUEST_KINDS

_NOTICED = ("max_gen_toks_used", "unfinished", "in_reasoning")  # attributes of an lm that sum up its answers


class KeptAnswers:
    """Makes the model `lm` of lm-eval answer only new requests; the answers to the others come from `file`.

    A file that cannot be read counts as missing. `save` writes the file. `file` may be None: nothing outlives the
    process then.
    """

    def __init__(self, lm: Any, file: Path | None) -> None:
        self._lm, self._file = lm, file
        self._answers: dict[str, Any] = {}
        self.asked = 0  # requests that the model answered
        if file is not None and file.exists():
            self._read(file)
        for kind in REQUEST_KINDS:
            setattr(lm, kind, partial(self._answer, getattr(lm, kind)))

    def _read(self, file: Path) -> None:
        try:
            row = json.loads(file.read_text())
            answers = {str(key): tuple(one) if isinstance(one, list) else one for key, one in row["answers"].items()}
            noticed = {name: row["noticed"][name] for name in _NOTICED}
            openings = {Opening(one) for one in row["openings"]}
            sharing = None if row["sharing"] is None else SharingCheck(**row["sharing"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return
        self._answers = answers
        for name, value in noticed.items():
            setattr(self._lm, name, value)
        self._lm.openings, self._lm.sharing.check = openings, sharing

    def save(self) -> None:
        if self._file is None:
            return
        sharing = self._lm.sharing.check
        row = {
            "answers": self._answers,
            "noticed": {name: getattr(self._lm, name) for name in _NOTICED},
            "openings": sorted(self._lm.openings),
            "sharing": None if sharing is None else asdict(sharing),
        }
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._file, json.dumps(row))

    def _answer(self, ask: Any, requests: Sequence[Any], **options: Any) -> list[Any]:
        keys = [_key(request) for request in requests]
        fresh = {key: request for key, request in zip(keys, requests, strict=True) if key not in self._answers}
        if fresh:
            answers = ask(list(fresh.values()), **options)
            self._answers |= dict(zip(fresh, answers, strict=True))
            self.asked += len(fresh)
        return [self._answers[key] for key in keys]


def _key(request: Any) -> str:
    """Equal for requests with the same document, number and text."""
    content = json.dumps([str(one) for one in request.args[:2]])
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    return f"{request.task_name} {request.doc_id} {request.idx} {digest}"
