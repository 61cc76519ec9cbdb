"""Every case against named rivals, interleaved in one run: ``python -m benchmarks --list``.

How to read a figure, and how to add a case: docs/contributing.md.
"""
