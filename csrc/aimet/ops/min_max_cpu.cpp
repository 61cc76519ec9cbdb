#include "aimet/core/rounding.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/kernel_choice.h"
#include "aimet/ops/layout.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

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
}

std::tuple<at::Tensor, at::Tensor> min_max_cpu(const at::Tensor& input,
                                               at::SymIntArrayRef symbolic_shape,
                                               at::OptionalIntArrayRef block_size) {
  ops::check_is_floating("min_max", "input", input);
  ops::check_granularity("min_max", "shape", symbolic_shape, input.sym_sizes(), block_size);
  const at::IntArrayRef shape = C10_AS_INTARRAYREF_SLOW(symbolic_shape);
  const at::Tensor x = ops::dense(input);
  const ops::ChannelLayout layout = ops::channel_layout(x, shape, block_size);
  const cpu::Reduction reduction{layout.shape};
  const at::TensorOptions options = input.options().dtype(ops::compute_type(x));
  at::Tensor partial_low = at::empty({reduction.partial_count()}, options);
  at::Tensor partial_high = at::empty({reduction.partial_count()}, options);
  const cpu::MinMaxArguments arguments{x.const_data_ptr(), partial_low.mutable_data_ptr(),
                                       partial_high.mutable_data_ptr(), reduction};
  const cpu::ElementType type = ops::element_type(x);
  const cpu::KernelTable& kernels = ops::kernels();
  at::parallel_for(
      0, reduction.task_count(), ops::task_grain(reduction.task_size()),
      [&](std::int64_t begin, std::int64_t end) { kernels.min_max(type, arguments, begin, end); });

  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  at::Tensor low = at::empty(shape, options).fill_(kInfinity);
  at::Tensor high = at::empty(shape, options).fill_(-kInfinity);
  if (options.dtype() == at::kDouble) {
    combine<double>(partial_low, partial_high, reduction, layout, low, high);
  } else {
    combine<float>(partial_low, partial_high, reduction, layout, low, high);
  }
  return {low.add_(0.0),
          high.add_(0.0)};  // -0 becomes +0: which one comes first depends on the split
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, CPU, m) {
  m.impl("min_max", &aimet::min_max_cpu);
}
