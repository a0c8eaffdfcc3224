"""Why llama.cpp could not load a model, from its log."""

import re
from collections.abc import Collection

from converters.llamacpp.log import Captured

_REASON = re.compile(r"error loading model: (.*)")  # an outer function may repeat it, so the last one is the reason
_FUNCTION = re.compile(r"^(?:error loading model [a-z]+: |\w+: (?=\S))")
_REQUESTED = re.compile(r"create_tensor: loading tensor (\S+)")
_WRONG_COUNT = "wrong number of tensors"
_MAX_NAMES = 5


def load_failure(log: Captured, tensors: Collection[str] = ()) -> str:
    """The reason in a failed load's log. `tensors` are the names of the tensors in the file.

    llama.cpp names a tensor that is missing or has a wrong shape. If the file has tensors that it does not use, it
    gives only their number; they are named here, because its log lists all tensors that it looked for.
    """
    reasons = _REASON.findall(log.text)
    if not reasons:
        return log.errors or "no reason given"
    reason = _FUNCTION.sub("", reasons[-1].strip())
    if _WRONG_COUNT not in reason:
        return reason
    requested = set(_REQUESTED.findall(log.text))
    surplus = [name for name in tensors if name not in requested]
    if not surplus:
        return reason
    more = f" and {len(surplus) - _MAX_NAMES} more" if len(surplus) > _MAX_NAMES else ""
    return f"{reason}: it does not use {', '.join(map(repr, surplus[:_MAX_NAMES]))}{more}"
