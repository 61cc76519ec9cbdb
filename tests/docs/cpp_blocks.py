"""The C++ blocks of the pages as one program, compiled beside those of examples/cpp."""

from __future__ import annotations

from tests.docs.blocks import PAGES, blocks

#: What the blocks of a page take for granted.
NAMES = {
    "cpp.md": "at::Tensor x;",
    "encodings.md": "",
    "qat.md": "torch::Tensor x, y, images; torch::nn::Linear linear(16, 16);"
    " torch::nn::Sequential model;",
}


def program() -> str:
    """Return a program that has each block in a function of its own, and calls none of them."""
    includes = ["#include <torch/torch.h>", "#include <torch/script.h>", "#include <iostream>"]
    includes += ["#include <aimet/simulation/quant_sim.h>"]
    functions = []
    for page in PAGES:
        for block in blocks(page, "cpp"):
            lines = block.text.splitlines()
            includes += [line for line in lines if line.startswith("#include")]
            body = [line for line in lines if not line.startswith("#include")]
            head = f"void line_{block.line}_of_{page.partition('.')[0]}() {{ {NAMES[page]}"
            functions.append("\n".join([head, f'#line {block.line + 1} "docs/{page}"', *body, "}"]))
    return "\n".join([*includes, *functions, "int main() {}\n"])


CMAKE = """
add_executable(pages pages.cpp)
target_link_libraries(pages PRIVATE aimet::aimet)
target_precompile_headers(pages REUSE_FROM operators)
"""
