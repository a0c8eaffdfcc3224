"""Prints the share of mutants that the tests found, by module, after `mutmut run`; --survivors: also names the others.

A mutant counts as found if a test failed or did not end in time.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

MUTANTS = Path(__file__).parents[1] / "mutants"
SURVIVED, NO_TESTS = 0, (5, 33)  # exit codes in mutmut's files; None: not run yet


def main(survivors: bool) -> None:
    total: Counter[str] = Counter()
    print(f"{'module':<36}{'mutants':>8}{'found':>8}{'survived':>10}{'no test':>9}{'not run':>9}{'share':>8}")
    for path in sorted(MUTANTS.rglob("*.meta")):
        codes: dict[str, int | None] = json.loads(path.read_text())["exit_code_by_key"]
        counts = Counter(map(_verdict, codes.values()))
        if not codes:
            continue
        total += counts
        _print(str(path.relative_to(MUTANTS).with_suffix("")), counts)
        if survivors:
            left = [name for name, code in codes.items() if _verdict(code) in ("survived", "no test")]
            print("".join(f"    {name}\n" for name in left), end="")
    _print("all", total)


def _verdict(code: int | None) -> str:
    if code is None:
        return "not run"
    return "survived" if code == SURVIVED else "no test" if code in NO_TESTS else "found"


def _print(name: str, counts: Counter[str]) -> None:
    run = counts.total() - counts["not run"]
    share = f"{counts['found'] / run:.1%}" if run else ""
    numbers = f"{counts['found']:>8}{counts['survived']:>10}{counts['no test']:>9}{counts['not run']:>9}"
    print(f"{name:<36}{counts.total():>8}{numbers}{share:>8}")


if __name__ == "__main__":
    main("--survivors" in sys.argv[1:])
