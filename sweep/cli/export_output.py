"""Writes the file of --export: how another program runs the recommended variant, or a certain one."""

from __future__ import annotations

from pathlib import Path

from converters.atomic import exists_already, loses_content, write_text
from converters.errors import InputError
from sweep import format as fmt
from sweep.analysis.advice import Advice
from sweep.analysis.candidate import Candidate
from sweep.cli.output import Output
from sweep.report.serving_files import SERVING_KINDS, parse_export, served_file


def write_export(export: str, advice: Advice, output: Output, force: bool = False) -> None:
    """Write the file to the current directory. `export` is KIND or KIND:VARIANT. Raises InputError if the variant is
    not known or llama.cpp does not run it, and for a file with other content unless `force` allows to replace it."""
    kind, variant = parse_export(export)
    one = _chosen(export, advice, variant)
    if one.obstacle:
        output.warn(f"--export: {fmt.plain(one.variant)} {fmt.plain(one.obstacle)}")
    served = served_file(one)
    found = SERVING_KINDS[kind]
    file = Path(f"{served.stem}{found.suffix}")
    text = found.content(served)
    if not force and loses_content(file, text):
        raise InputError(f"{exists_already(file)} of `sweep report` or `sweep fit`")
    write_text(file, text)
    output.say(f"written: {file}; {found.usage(str(file), served)}")


def _chosen(export: str, advice: Advice, variant: str | None) -> Candidate:
    if variant is None:
        if advice.pick is None:
            raise InputError(f"--export: no variant is recommended; name one with --export {export}:VARIANT")
        return advice.pick
    cache = None if advice.pick is None else advice.pick.kv_type
    found = [one for one in advice.candidates if one.variant == variant]
    if not found:
        known = dict.fromkeys(fmt.plain(one.variant) for one in advice.candidates)
        raise InputError(f"--export {export}: there is no variant {variant!r}; there are {', '.join(known) or 'none'}")
    return min(found, key=lambda one: (bool(one.obstacle), one.kv_type != cache))
