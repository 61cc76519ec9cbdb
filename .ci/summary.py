"""Add up JUnit files of ctest and pytest and print ``N passed, N failed``. Standard library only.

usage: python .ci/summary.py FILE...    exit status 0 when something passed and nothing failed
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree


def count(path: Path) -> tuple[int, int, int]:
    """Return (passed, failed, skipped) of a file; a missing one is a suite that did not run."""
    if not path.exists():
        print(f"{path}: missing, its tests did not run")
        return 0, 1, 0
    passed = failed = skipped = 0
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        if (
            case.find("failure") is not None
            or case.find("error") is not None
            or case.get("status") == "fail"
        ):
            failed += 1
        elif case.find("skipped") is not None or case.get("status") in ("notrun", "disabled"):
            skipped += 1
        else:
            passed += 1
    print(f"{path.stem}: {passed} passed, {failed} failed, {skipped} skipped")
    return passed, failed, skipped


def main(paths: list[str]) -> int:
    """Print the sum of all files and return the exit status."""
    counts = [count(Path(path)) for path in paths]
    passed, failed, _ = (sum(column) for column in zip(*counts, strict=True))
    print(f"{passed} passed, {failed} failed", flush=True)
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
