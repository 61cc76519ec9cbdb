// Helpers of the *_autograd.cpp files.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_strided.h>
#include <c10/util/OptionalArrayRef.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace aimet::ops {

// An owning block_size: autograd functions keep it until backward.
using BlockSize = std::optional<std::vector<std::int64_t>>;

inline BlockSize to_vector(at::OptionalIntArrayRef block_size) {
  if (!block_size.has_value()) return std::nullopt;
  return block_size->vec();
}

inline at::OptionalIntArrayRef view_of(const BlockSize& block_size) {
  return block_size.has_value() ? at::OptionalIntArrayRef(at::IntArrayRef(*block_size))
                                : at::OptionalIntArrayRef();
}

template <typename... Tensors>
bool needs_gradient(const Tensors&... tensors) {
  return at::GradMode::is_enabled() && (tensors.requires_grad() || ...);
}

// Masks are in memory order, so gradients have to have the strides of the output.
inline void save_layout(torch::autograd::AutogradContext* context, const at::Tensor& output) {
  context->saved_data["sizes"] = output.sym_sizes();
  context->saved_data["strides"] = output.sym_strides();
}

inline at::Tensor in_saved_layout(torch::autograd::AutogradContext* context, const at::Tensor& grad) {
  const auto strides = context->saved_data["strides"].toSymIntVector();
  if (grad.sym_strides() == c10::SymIntArrayRef(strides)) return grad;
  const auto sizes = context->saved_data["sizes"].toSymIntVector();
  return at::empty_strided_symint(sizes, strides, grad.options()).copy_(grad);
}

struct SavedGrid {
  std::int64_t qmin;
  std::int64_t qmax;
  BlockSize block_size;
};

inline void save_grid(torch::autograd::AutogradContext* context, std::int64_t qmin,
                      std::int64_t qmax, const BlockSize& block_size) {
  context->saved_data["qmin"] = qmin;
  context->saved_data["qmax"] = qmax;
  if (block_size.has_value()) context->saved_data["block_size"] = *block_size;
}

inline SavedGrid saved_grid(torch::autograd::AutogradContext* context) {
  SavedGrid grid{context->saved_data["qmin"].toInt(), context->saved_data["qmax"].toInt(),
                 std::nullopt};
  const auto block_size = context->saved_data.find("block_size");
  if (block_size != context->saved_data.end()) grid.block_size = block_size->second.toIntVector();
  return grid;
}

}  // namespace aimet::ops
