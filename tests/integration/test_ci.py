"""The sum of all tests, as the last line of continuous integration reports it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.commands import ROOT

CTEST = """<testsuite tests="4">
<testcase name="a" status="run"/><testcase name="b" status="run"/>
<testcase name="c" status="{status}">{failure}</testcase>
<testcase name="d" status="notrun"><skipped message="SKIP_REGULAR_EXPRESSION_MATCHED"/></testcase>
</testsuite>"""
PYTEST = """<testsuites><testsuite>
<testcase name="x"/><testcase name="y">{error}</testcase>
<testcase name="z"><skipped message="no GPU"/></testcase>
</testsuite></testsuites>"""


def summary(*files: Path) -> tuple[int, list[str]]:
    command = [sys.executable, str(ROOT / ".ci" / "summary.py"), *map(str, files)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.returncode, result.stdout.splitlines()


@pytest.mark.parametrize(
    ("ctest", "error", "status", "last"),
    [
        ({"status": "run", "failure": ""}, "", 0, "5 passed, 0 failed"),
        ({"status": "fail", "failure": "<failure/>"}, "", 1, "4 passed, 1 failed"),
        ({"status": "run", "failure": ""}, "<failure/>", 1, "4 passed, 1 failed"),
        ({"status": "run", "failure": ""}, "<error/>", 1, "4 passed, 1 failed"),
    ],
)
def test_summary_adds_up_both_suites(tmp_path, ctest, error, status, last) -> None:
    cpp, python = tmp_path / "cpp.xml", tmp_path / "python.xml"
    cpp.write_text(CTEST.format(**ctest))
    python.write_text(PYTEST.format(error=error))
    code, lines = summary(cpp, python)
    assert (code, lines[-1]) == (status, last)
    assert "1 skipped" in lines[0]


def test_a_suite_that_did_not_run_is_a_failure(tmp_path) -> None:
    python = tmp_path / "python.xml"
    python.write_text(PYTEST.format(error=""))
    code, lines = summary(tmp_path / "cpp.xml", python)
    assert (code, lines[-1]) == (1, "2 passed, 1 failed")
    assert "did not run" in lines[0]


def test_nothing_run_is_no_success(tmp_path) -> None:
    python = tmp_path / "python.xml"
    python.write_text("<testsuites/>")
    assert summary(python) == (1, ["python: 0 passed, 0 failed, 0 skipped", "0 passed, 0 failed"])
