"""``python -m aimet_torch``: what build systems ask an installed package."""

from __future__ import annotations

import argparse

import torch

from aimet_torch._native import CMAKE_DIR


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m aimet_torch", description=__doc__)
    question = parser.add_mutually_exclusive_group(required=True)
    question.add_argument(
        "--cmake-prefix-path",
        action="store_true",
        help="value of CMAKE_PREFIX_PATH with which find_package(aimet) finds this package and "
        "the LibTorch that it was built with",
    )
    question.add_argument(
        "--cmake-dir",
        action="store_true",
        help="folder of aimetConfig.cmake: the value of aimet_DIR",
    )
    if parser.parse_args().cmake_dir:
        print(CMAKE_DIR / "aimet")
    else:
        print(CMAKE_DIR, torch.utils.cmake_prefix_path, sep=";")


if __name__ == "__main__":
    main()
