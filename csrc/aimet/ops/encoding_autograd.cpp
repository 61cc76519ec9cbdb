// Gradient of encoding_from_range, with s = max((max - min) / n, s_min) and o = clamp(ste(min / s)
// - qmin, -qmax, -qmin). What is not finite counts as 0: one step of an optimizer along it would
// leave a range of NaN, and with it a quantizer without a range. And Autograd kernels of the
// operators whose results are constants for training.
#include "aimet/core/encoding.h"
#include "aimet/ops/autograd.h"
#include "aimet/ops/encoding.h"
#include "aimet/ops/histogram.h"
#include "aimet/ops/min_max.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/where.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace aimet {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Pair = std::tuple<at::Tensor, at::Tensor>;

at::Tensor finite(const at::Tensor& gradient) {
  return at::where(gradient.isfinite(), gradient, 0);
}

struct EncodingFromRange : torch::autograd::Function<EncodingFromRange> {
  static variable_list forward(AutogradContext* context, const at::Tensor& min,
                               const at::Tensor& max, std::int64_t qmin, std::int64_t qmax,
                               bool symmetric) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({min, max});
    ops::save_grid(context, qmin, qmax, std::nullopt);
    context->saved_data["symmetric"] = symmetric;
    auto [scale, offset] = encoding_from_range(min, max, qmin, qmax, symmetric);
    if (symmetric) context->mark_non_differentiable({offset});
    return {scale, offset};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& min = saved[0];
    const ops::SavedGrid grid = ops::saved_grid(context);
    const std::int64_t step_count = grid.qmax - grid.qmin;
    const double smallest = min.scalar_type() == at::kDouble
                                ? core::minimal_scale<double>(step_count)
                                : core::minimal_scale<float>(step_count);
    const at::Tensor raw_scale = (saved[1] - min) / static_cast<double>(step_count);
    at::Tensor grad_scale = grads[0];
    at::Tensor grad_min;
    if (!context->saved_data["symmetric"].toBool() && grads[1].defined()) {
      const at::Tensor scale = raw_scale.clamp_min(smallest);
      const at::Tensor ratio = min / scale;
      const at::Tensor offset = ratio.round() - grid.qmin;
      const at::Tensor inside = (offset >= -grid.qmax).logical_and(offset <= -grid.qmin);
      grad_min = at::where(inside, grads[1] / scale, 0);
      // Not grad_min * -ratio: far outside the grid the ratio is infinite or NaN.
      const at::Tensor through_scale = at::where(inside, grad_min * -ratio, 0);
      grad_scale = grad_scale.defined() ? grad_scale + through_scale : through_scale;
    }
    if (!grad_scale.defined()) return {{}, {}, {}, {}, {}};
    const at::Tensor grad_max =
        at::where(raw_scale >= smallest, grad_scale / static_cast<double>(step_count), 0);
    const at::Tensor of_min = grad_min.defined() ? grad_min - grad_max : -grad_max;
    return {finite(of_min), finite(grad_max), {}, {}, {}};
  }
};

Pair encoding_from_range_autograd(const at::Tensor& min, const at::Tensor& max, std::int64_t qmin,
                                  std::int64_t qmax, bool symmetric) {
  if (ops::needs_gradient(min, max)) {
    const variable_list result = EncodingFromRange::apply(min, max, qmin, qmax, symmetric);
    return {result[0], result[1]};
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return encoding_from_range(min, max, qmin, qmax, symmetric);
}

Pair range_from_min_max_autograd(const at::Tensor& min, const at::Tensor& max, std::int64_t qmin,
                                 std::int64_t qmax, bool symmetric, bool strict) {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return range_from_min_max(min, max, qmin, qmax, symmetric, strict);
}

Pair min_max_autograd(const at::Tensor& input, at::SymIntArrayRef shape,
                      at::OptionalIntArrayRef block_size) {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return min_max(input, shape, block_size);
}

void update_histogram_autograd(at::Tensor histogram, const at::Tensor& input, const at::Tensor& min,
                               const at::Tensor& max, at::OptionalIntArrayRef block_size) {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  update_histogram_(histogram, input, min, max, block_size);
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, Autograd, m) {
  m.impl("encoding_from_range", &aimet::encoding_from_range_autograd);
  m.impl("range_from_min_max", &aimet::range_from_min_max_autograd);
  m.impl("min_max", &aimet::min_max_autograd);
  m.impl("update_histogram_", &aimet::update_histogram_autograd);
}
