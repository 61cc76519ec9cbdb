#include "aimet/core/rounding.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/kernel_choice.h"
#include "aimet/ops/layout.h"
#include "aimet/ops/limits_reduction.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>

namespace aimet {
namespace {

// Combines the partial results of each channel, and of the channels that share a parameter.
template <typename T>
void combine(const at::Tensor& partial_low, const at::Tensor& partial_high,
             const cpu::Reduction& reduction, const ops::ChannelLayout& layout, at::Tensor& low,
             at::Tensor& high) {
  const T* source_low = partial_low.const_data_ptr<T>();
  const T* source_high = partial_high.const_data_ptr<T>();
  T* target_low = low.mutable_data_ptr<T>();
  T* target_high = high.mutable_data_ptr<T>();
  std::fill_n(target_low, low.numel(), std::numeric_limits<T>::infinity());
  std::fill_n(target_high, high.numel(), -std::numeric_limits<T>::infinity());
  const std::int64_t groups = reduction.groups();
  const std::int64_t per_channel = reduction.partials_per_group();
  for (std::int64_t group = 0; group < groups; ++group) {
    for (std::int64_t c = 0; c < layout.shape.channels; ++c) {
      const std::int64_t parameter = layout.parameter_of.empty() ? c : layout.parameter_of[c];
      const std::int64_t first = (group * layout.shape.channels + c) * per_channel;
      for (std::int64_t i = first; i < first + per_channel; ++i) {
        target_low[parameter] = core::minimum(target_low[parameter], source_low[i]);
        target_high[parameter] = core::maximum(target_high[parameter], source_high[i]);
      }
    }
  }
  // -0 becomes +0: which one comes first depends on the split.
  for (std::int64_t i = 0; i < low.numel(); ++i) {
    target_low[i] += T(0);
    target_high[i] += T(0);
  }
}

std::tuple<at::Tensor, at::Tensor> min_max_cpu(const at::Tensor& input,
                                               at::SymIntArrayRef symbolic_shape,
                                               at::OptionalIntArrayRef block_size) {
  ops::check_is_floating("min_max", "input", input);
  ops::check_granularity("min_max", "shape", symbolic_shape, input.sym_sizes(), block_size);
  const at::IntArrayRef shape = C10_AS_INTARRAYREF_SLOW(symbolic_shape);
  const at::Tensor x = ops::dense(input);
  const ops::ChannelLayout layout = ops::channel_layout(x, shape, block_size);
  const ops::LimitsReduction limits(x, layout);
  const cpu::Reduction& reduction = limits.reduction();
  at::parallel_for(0, reduction.task_count(), ops::task_grain(reduction.task_size()),
                   [&](std::int64_t begin, std::int64_t end) { limits.run(begin, end); });
  return limits.result(shape);
}

}  // namespace

namespace ops {

LimitsReduction::LimitsReduction(const at::Tensor& dense, const ChannelLayout& layout)
    : layout_(layout), type_(element_type(dense)) {
  const cpu::Reduction reduction{layout.shape};
  const at::TensorOptions options = dense.options().dtype(compute_type(dense));
  partial_low_ = at::empty({reduction.partial_count()}, options);
  partial_high_ = at::empty({reduction.partial_count()}, options);
  arguments_ = {dense.const_data_ptr(), partial_low_.mutable_data_ptr(),
                partial_high_.mutable_data_ptr(), reduction};
}

void LimitsReduction::run(std::int64_t begin, std::int64_t end) const {
  kernels().min_max(type_, arguments_, begin, end);
}

std::tuple<at::Tensor, at::Tensor> LimitsReduction::result(at::IntArrayRef shape) const {
  at::Tensor low = at::empty(shape, partial_low_.options());
  at::Tensor high = at::empty(shape, partial_low_.options());
  if (low.scalar_type() == at::kDouble) {
    combine<double>(partial_low_, partial_high_, reduction(), layout_, low, high);
  } else {
    combine<float>(partial_low_, partial_high_, reduction(), layout_, low, high);
  }
  return {low, high};
}

}  // namespace ops
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, CPU, m) {
  m.impl("min_max", &aimet::min_max_cpu);
}
