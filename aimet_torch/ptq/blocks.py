"""Finds the blocks of a network: runs of operations of which one value goes on.

A residual block ends where its addition (and the activation behind it) has been computed; a chain
of layers ends where several operations read a value, or where it has become long enough.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import fx

from aimet_torch.graph import ModelGraph, OpNode

__all__ = ["Block", "find_blocks"]


@dataclasses.dataclass
class Block:
    """Operations that are optimized together.

    Attributes:
        name: Of the operation whose result goes on.
        nodes: In the order in which they run; the last one is the exit.
        inputs: What they read from elsewhere.
        layers: The layers among them, by node.
    """

    name: str
    nodes: list[fx.Node]
    inputs: list[fx.Node]
    layers: dict[fx.Node, OpNode]

    @property
    def exit(self) -> fx.Node:
        """The node whose result goes on."""
        return self.nodes[-1]


def find_blocks(
    graph: ModelGraph, is_layer: Callable[[OpNode], bool], max_layers: int
) -> list[Block]:
    """Divide a network into blocks.

    Args:
        graph: After ``to_module()``.
        is_layer: The layers that are to be optimized.
        max_layers: At most this many in a block, where it can be ended earlier.

    Returns:
        Blocks with at least one layer, in the order of the graph. What lies in parts that could
        not be traced belongs to none.
    """
    return _Finder(graph, is_layer, max_layers).run()


class _Finder:
    def __init__(
        self, graph: ModelGraph, is_layer: Callable[[OpNode], bool], max_layers: int
    ) -> None:
        self.ops = {op.fx_node: op for op in graph.ops if op.fx_node is not None}
        self.nodes = [n for n in graph.fx_graph.nodes if n.op.startswith("call_")]
        self.position = {node: i for i, node in enumerate(self.nodes)}
        self.layers = {n: op for n, op in self.ops.items() if is_layer(op)}
        self.max_layers = max_layers

    def run(self) -> list[Block]:
        blocks: list[Block] = []
        start = 0
        while start < len(self.nodes):
            end = self._end(start)
            if end is None:
                start += 1
                continue
            block = self._block(start, end)
            if block.layers:
                blocks.append(block)
            start = end + 1
        return blocks

    def _end(self, start: int) -> int | None:
        """Where the block that starts here ends, None if nothing can."""
        found: int | None = None
        for end in self._exits(start):
            if found is not None:
                before, now = self._count(start, found), self._count(start, end)
                is_branch = len(self.nodes[found].users) > 1
                if now > before and before > 0 and (is_branch or now > self.max_layers):
                    break
            found = end
        return found

    def _exits(self, start: int) -> list[int]:
        """Ends at which one value, a floating-point tensor, leaves what began at ``start``."""
        exits = []
        leaving: set[fx.Node] = set()
        for end in range(start, len(self.nodes)):
            node = self.nodes[end]
            op = self.ops.get(node)
            if op is not None and op.is_boundary:
                break
            leaving.add(node)
            leaving = {n for n in leaving if any(self._is_behind(u, end) for u in n.users)}
            is_tensor = op is not None and len(op.outputs) == 1 and op.outputs[0].is_float
            if leaving == {node} and is_tensor:
                exits.append(end)
                if self._count(start, end) > self.max_layers:
                    break  # no later end is of use
        return exits

    def _is_behind(self, user: fx.Node, end: int) -> bool:
        return user.op == "output" or self.position.get(user, -1) > end

    def _count(self, start: int, end: int) -> int:
        return sum(node in self.layers for node in self.nodes[start : end + 1])

    def _block(self, start: int, end: int) -> Block:
        nodes = self.nodes[start : end + 1]
        inside = set(nodes)
        inputs = dict.fromkeys(n for node in nodes for n in node.all_input_nodes if n not in inside)
        layers = {node: self.layers[node] for node in nodes if node in self.layers}
        return Block(self.ops[nodes[-1]].name, nodes, list(inputs), layers)
