// Gradient of grouped_scale: that of quantize_dequantize for the scales and the units, and through
// each unit to the largest scales of its group, in equal parts, as at::amax has it.
#include "aimet/ops/affine.h"
#include "aimet/ops/affine_composite.h"
#include "aimet/ops/autograd.h"
#include "aimet/ops/grouped_scale.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace aimet {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct GroupedScale : torch::autograd::Function<GroupedScale> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& scale,
                            std::vector<std::int64_t> group_size, std::int64_t steps) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({scale});
    ops::save_grid(context, 1, steps, group_size);
    return grouped_scale(scale, group_size, steps);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const at::Tensor scale = context->get_saved_variables()[0];
    const ops::SavedGrid grid = ops::saved_grid(context);
    const std::vector<c10::SymInt> counts =
        ops::check_grouped_scale(scale, *grid.block_size, grid.qmax);
    const at::Tensor largest = ops::largest_of_groups(scale, counts);
    const at::Tensor values = scale.to(largest.scalar_type());
    const at::Tensor unit = largest / static_cast<double>(grid.qmax);
    auto [through_code, of_unit, of_offset] = quantize_dequantize_backward(
        grads[0].to(largest.scalar_type()), values, unit, at::zeros_like(unit), 1,
        ops::last_code(grid.qmax), *grid.block_size, {true, true, false});
    const at::Tensor is_largest =
        values == ops::broadcastable(largest, scale, counts, *grid.block_size);
    const at::Tensor share =
        of_unit / (ops::sum_to_blocks(is_largest.to(unit.scalar_type()), counts) *
                   static_cast<double>(grid.qmax));
    const at::Tensor result =
        through_code + at::where(is_largest,
                                 ops::broadcastable(share, scale, counts, *grid.block_size), 0);
    return {result.to(scale.scalar_type()), {}, {}};
  }
};

at::Tensor grouped_scale_autograd(const at::Tensor& scale, at::IntArrayRef group_size,
                                  std::int64_t steps) {
  if (ops::needs_gradient(scale)) return GroupedScale::apply(scale, group_size.vec(), steps);
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return grouped_scale(scale, group_size, steps);
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, Autograd, m) { m.impl("grouped_scale", &aimet::grouped_scale_autograd); }
