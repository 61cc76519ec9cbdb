"""Fixtures of several packages' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.python.two_ranks import TwoRanks


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoRanks]:
    """Two processes of a gloo group, shared by all tests of a session."""
    ranks = TwoRanks(tmp_path_factory.mktemp("two_ranks"))
    yield ranks
    ranks.stop()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """This process computes with one thread, as the two ranks do: torch's sums depend on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
