"""A scheme with nothing but prices, for searches."""

from __future__ import annotations

from collections.abc import Mapping

from aimet_torch.compression.schemes import Candidate, Unit


class Priced:
    """A scheme with nothing but prices."""

    name, total = "priced", 100.0

    def __init__(self, interaction=0.0):
        self.adds_up = interaction == 0
        self.left = {"x": "a reason"}
        self.interaction = interaction

    def cost(self, choice: Mapping[str, Candidate]) -> float:
        saved = sum(40 - candidate.cost for candidate in choice.values())
        return 100 - saved + self.interaction * max(len(choice) - 1, 0)


def priced_units():
    costs = (30.0, 20.0, 10.0)
    return [
        Unit(name, 40.0, [Candidate(cost / 40, cost, dict, 40 - cost) for cost in costs])
        for name in "ab"
    ]
