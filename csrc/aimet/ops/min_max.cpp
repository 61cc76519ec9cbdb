// C++ API, Meta kernel and ATen fallback of min_max.
#include "aimet/ops/min_max.h"

#include "aimet/ops/affine_composite.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/dispatch.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/where.h>
#include <torch/library.h>

#include <limits>
#include <vector>

namespace aimet {

std::tuple<at::Tensor, at::Tensor> min_max(const at::Tensor& input, at::SymIntArrayRef shape,
                                           at::OptionalIntArrayRef block_size) {
  static const auto op = ops::find_operator<decltype(min_max)>("aimet::min_max");
  return op.call(input, shape, block_size);
}

namespace {

void check(const at::Tensor& input, at::SymIntArrayRef shape, at::OptionalIntArrayRef block_size) {
  ops::check_is_floating("min_max", "input", input);
  ops::check_granularity("min_max", "shape", shape, input.sym_sizes(), block_size);
}

std::tuple<at::Tensor, at::Tensor> min_max_meta(const at::Tensor& input, at::SymIntArrayRef shape,
                                                at::OptionalIntArrayRef block_size) {
  check(input, shape, block_size);
  const at::TensorOptions options = input.options().dtype(ops::compute_type_of(input));
  return {at::empty_symint(shape, options), at::empty_symint(shape, options)};
}

std::tuple<at::Tensor, at::Tensor> min_max_composite(const at::Tensor& input,
                                                     at::SymIntArrayRef shape,
                                                     at::OptionalIntArrayRef block_size) {
  check(input, shape, block_size);
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const std::vector<c10::SymInt> blocked = ops::blocked_sizes(input.sym_sizes(), shape);
  const at::Tensor values = input.to(ops::compute_type_of(input)).reshape_symint(blocked);
  const at::Tensor is_counted = values.isfinite();
  const std::vector<std::int64_t> dims =
      ops::shared_dims(input.dim(), static_cast<std::int64_t>(shape.size()));
  if (values.sym_numel() == 0) {
    const at::Tensor low = at::empty_symint(shape, values.options()).fill_(kInfinity);
    return {low, low.neg()};
  }
  const at::Tensor low = at::where(is_counted, values, kInfinity).amin(dims);
  const at::Tensor high = at::where(is_counted, values, -kInfinity).amax(dims);
  return {low.reshape_symint(shape) + 0.0, high.reshape_symint(shape) + 0.0};
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, Meta, m) {
  m.impl("min_max", &aimet::min_max_meta);
}
TORCH_LIBRARY_IMPL(aimet, CompositeExplicitAutograd, m) {
  m.impl("min_max", &aimet::min_max_composite);
}
