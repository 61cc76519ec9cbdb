"""How tests are shared out where several processes run them (``pytest -n 2``)."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a file in one process, which has its fixtures once.

    Those of the wheel and of what is built against it stay together: they share one build folder.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Files(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            is_integration = nodeid.startswith("tests/integration/")
            return "integration" if is_integration else nodeid.partition("::")[0]

    return Files(config, log)
