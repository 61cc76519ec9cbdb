"""``python -m aimet_torch``: what build systems ask an installed package."""

from __future__ import annotations

import argparse

import torch

from aimet_torch._native import CMAKE_DIR


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m aimet_torch", description=__doc__)
    parser.add_argument(
        "--cmake-prefix-path",
        action="store_true",
        required=True,
        help="value of CMAKE_PREFIX_PATH with which find_package(aimet) finds this package",
    )
    parser.parse_args()
    print(CMAKE_DIR, torch.utils.cmake_prefix_path, sep=";")


if __name__ == "__main__":
    main()
