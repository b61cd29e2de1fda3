"""Explore protocols by hand: ``python -m tests.models [NAME ...]`` prints verdicts and traces."""

import sys
from time import process_time

from tests.models.explore import explore
from tests.models.protocols import PROTOCOLS


def main(names: list[str]) -> int:
    unexpected = 0
    for name in names or PROTOCOLS:
        print(f"\n{name}: {(PROTOCOLS[name].__doc__ or '').splitlines()[0]}")
        for case in PROTOCOLS[name].CASES:
            began = process_time()
            verdict = explore(case.model)
            is_as_said = verdict.problem.startswith(case.problem) and bool(case.problem) == bool(
                verdict.problem
            )
            unexpected += not is_as_said
            mark = "" if is_as_said else "NOT AS EXPECTED: "
            print(f"- {mark}{case.sentence} [{process_time() - began:.1f} s]: {verdict}")
    return unexpected


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:])))
