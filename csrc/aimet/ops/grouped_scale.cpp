// C++ API, Meta kernel and ATen fallback of grouped_scale.h.
#include "aimet/ops/grouped_scale.h"

#include "aimet/ops/affine.h"
#include "aimet/ops/affine_composite.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/dispatch.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

namespace aimet {

at::Tensor grouped_scale(const at::Tensor& scale, at::IntArrayRef group_size, std::int64_t steps) {
  static const auto op = ops::find_operator<decltype(grouped_scale)>("aimet::grouped_scale");
  return op.call(scale, group_size, steps);
}

namespace ops {

std::vector<c10::SymInt> check_grouped_scale(const at::Tensor& scale, at::IntArrayRef group_size,
                                             std::int64_t steps) {
  constexpr const char* kOp = "grouped_scale";
  check_is_floating(kOp, "scale", scale);
  TORCH_CHECK_VALUE(steps >= 1, kOp, ": `steps` must be at least 1, got ", steps);
  const std::size_t rank = static_cast<std::size_t>(scale.dim());
  TORCH_CHECK_VALUE(group_size.size() == rank, kOp,
                    ": `group_size` must have one entry per dimension of `scale`, got ", group_size,
                    " and scale of shape ", scale.sym_sizes());
  std::vector<c10::SymInt> counts;
  for (std::size_t dim = 0; dim < rank; ++dim) {
    const c10::SymInt& size = scale.sym_sizes()[dim];
    const std::int64_t group = group_size[dim];
    TORCH_CHECK_VALUE(group == -1 || (group > 0 && size % group == 0), kOp,
                      ": entries of `group_size` must divide the shape of `scale`, or be -1 for "
                      "the rest of the dimension, got group_size=",
                      group_size, " and scale of shape ", scale.sym_sizes());
    counts.push_back(group == -1 ? c10::SymInt(1) : size / group);
  }
  return counts;
}

at::Tensor largest_of_groups(const at::Tensor& scale, c10::SymIntArrayRef group_counts) {
  const at::Tensor values = scale.to(compute_type_of(scale));
  return by_parameter(values, group_counts).amax({1}).view_symint(group_counts);
}

at::Tensor round_to_units(const at::Tensor& scale, const at::Tensor& unit, std::int64_t steps,
                          at::IntArrayRef group_size) {
  const at::Tensor values = scale.to(unit.scalar_type()).contiguous();
  return quantize_dequantize(values, unit, at::zeros_like(unit), 1, last_code(steps), group_size)
      .to(scale.scalar_type());
}

}  // namespace ops

namespace {

at::Tensor grouped_scale_meta(const at::Tensor& scale, at::IntArrayRef group_size,
                              std::int64_t steps) {
  ops::check_grouped_scale(scale, group_size, steps);
  return at::empty_like(scale, scale.options(), at::MemoryFormat::Contiguous);
}

at::Tensor grouped_scale_composite(const at::Tensor& scale, at::IntArrayRef group_size,
                                   std::int64_t steps) {
  const std::vector<c10::SymInt> counts = ops::check_grouped_scale(scale, group_size, steps);
  if (scale.sym_numel() == 0) return grouped_scale_meta(scale, group_size, steps);
  const at::Tensor unit = ops::largest_of_groups(scale, counts) / static_cast<double>(steps);
  return ops::round_to_units(scale, unit, steps, group_size);
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, Meta, m) { m.impl("grouped_scale", &aimet::grouped_scale_meta); }
TORCH_LIBRARY_IMPL(aimet, CompositeExplicitAutograd, m) {
  m.impl("grouped_scale", &aimet::grouped_scale_composite);
}
