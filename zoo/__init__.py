"""Networks with the recommended recipe: FP32, W8A8, W4A8 and compressed side by side.

One script for each; ``python -m zoo.mobilenet_v2`` measures one, ``python -m zoo`` all.
"""
