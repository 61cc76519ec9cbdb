#include "aimet/ops/layout.h"

#include "aimet/ops/kernel_choice.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>
#include <c10/util/SmallVector.h>

#include <algorithm>

namespace aimet::ops {

at::Tensor dense(const at::Tensor& tensor) {
  if (tensor.is_non_overlapping_and_dense()) return tensor;
  return at::empty_like(tensor).copy_(tensor);
}

at::Tensor in_layout_of(const at::Tensor& tensor, const at::Tensor& reference) {
  if (tensor.strides() == reference.strides() && tensor.scalar_type() == reference.scalar_type())
    return tensor;
  return at::empty_like(reference).copy_(tensor);
}

namespace {

// One factor of the memory order: `size` elements that share a parameter (step 0), or use
// parameters `step` apart.
struct Factor {
  std::int64_t size;
  std::int64_t step;
};
using Factors = c10::SmallVector<Factor, 12>;

void append(Factors& factors, Factor factor) {
  if (factor.size == 1) return;
  if (!factors.empty()) {
    Factor& last = factors.back();
    if (last.step == factor.size * factor.step && (last.step == 0) == (factor.step == 0)) {
      last = {last.size * factor.size, factor.step};
      return;
    }
  }
  factors.push_back(factor);
}

// Dimensions from the outermost to the innermost in memory.
c10::SmallVector<std::int64_t, 6> memory_order(const at::Tensor& tensor) {
  c10::SmallVector<std::int64_t, 6> order(tensor.dim());
  for (std::int64_t dim = 0; dim < tensor.dim(); ++dim) order[dim] = dim;
  if (!tensor.is_contiguous()) {
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return tensor.stride(a) > tensor.stride(b);
    });
  }
  return order;
}

}  // namespace

ChannelLayout channel_layout(const at::Tensor& input, at::IntArrayRef parameter_sizes,
                             at::OptionalIntArrayRef block_size) {
  ChannelLayout layout;
  const std::int64_t parameter_count = c10::multiply_integers(parameter_sizes);
  if (parameter_count == 1) {
    layout.shape = {1, 1, input.numel()};
    return layout;
  }
  const std::int64_t skipped = input.dim() - static_cast<std::int64_t>(parameter_sizes.size());
  c10::SmallVector<std::int64_t, 6> step(parameter_sizes.size());
  std::int64_t running = 1;
  for (std::size_t dim = parameter_sizes.size(); dim-- > 0;) {
    step[dim] = running;
    running *= parameter_sizes[dim];
  }
  Factors factors;
  for (const std::int64_t dim : memory_order(input)) {
    const std::int64_t size = input.size(dim);
    if (dim < skipped || parameter_sizes[dim - skipped] == 1) {
      append(factors, {size, 0});
      continue;
    }
    const std::int64_t count = parameter_sizes[dim - skipped];
    append(factors, {count, step[dim - skipped]});
    append(factors, {block_size.has_value() && count > 0 ? size / count : 1, 0});
  }

  // Leading and trailing shared factors are outer and inner; what lies between are the channels.
  std::size_t first = 0;
  std::size_t last = factors.size();
  if (first < last && factors[first].step == 0) layout.shape.outer = factors[first++].size;
  if (first < last && factors[last - 1].step == 0) layout.shape.inner = factors[--last].size;
  for (std::size_t i = first; i < last; ++i) layout.shape.channels *= factors[i].size;
  if (last - first == 1 && factors[first].step == 1) return layout;

  layout.parameter_of.assign(1, 0);
  for (std::size_t i = first; i < last; ++i) {
    std::vector<std::int64_t> next;
    next.reserve(layout.parameter_of.size() * factors[i].size);
    for (const std::int64_t parameter : layout.parameter_of) {
      for (std::int64_t k = 0; k < factors[i].size; ++k)
        next.push_back(parameter + k * factors[i].step);
    }
    layout.parameter_of = std::move(next);
  }
  return layout;
}

at::Tensor contiguous_as(const at::Tensor& tensor, at::ScalarType type) {
  const bool is_so = tensor.scalar_type() == type && tensor.is_contiguous();
  return is_so ? tensor : tensor.to(type).contiguous();
}

at::Tensor channel_values(const at::Tensor& parameter, const ChannelLayout& layout,
                          at::ScalarType type) {
  const std::int64_t channel_count = layout.shape.channels;
  const at::Tensor values = contiguous_as(parameter, type);
  if (values.numel() == 1 && channel_count != 1) {
    return values.reshape({1}).expand({channel_count}).contiguous();
  }
  if (layout.parameter_of.empty()) return values;
  at::Tensor result = at::empty({channel_count}, values.options());
  const auto gather = [&](auto zero) {
    using T = decltype(zero);
    const T* source = values.const_data_ptr<T>();
    T* target = result.mutable_data_ptr<T>();
    for (std::int64_t c = 0; c < channel_count; ++c) target[c] = source[layout.parameter_of[c]];
  };
  if (type == at::kDouble) {
    gather(double{});
  } else {
    gather(float{});
  }
  return result;
}

at::Tensor sum_to_parameter(const at::Tensor& values, const ChannelLayout& layout,
                            at::IntArrayRef parameter_sizes) {
  if (layout.parameter_of.empty()) return values.reshape(parameter_sizes);
  at::Tensor result = at::zeros(parameter_sizes, values.options());
  const double* source = values.const_data_ptr<double>();
  double* target = result.mutable_data_ptr<double>();
  for (std::size_t c = 0; c < layout.parameter_of.size(); ++c)
    target[layout.parameter_of[c]] += source[c];
  return result;
}

at::Tensor sum_partials(const at::Tensor& partials, const cpu::Reduction& reduction) {
  const std::int64_t channels = reduction.shape.channels;
  at::Tensor sums = at::empty({channels}, partials.options());
  const double* source = partials.const_data_ptr<double>();
  double* target = sums.mutable_data_ptr<double>();
  const std::int64_t partials_per_channel = reduction.groups() * reduction.partials_per_group();
  at::parallel_for(0, channels, task_grain(partials_per_channel),
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t c = begin; c < end; ++c)
                       target[c] = core::sum_of_channel(source, reduction, c);
                   });
  return sums;
}

cpu::ElementType element_type(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return cpu::ElementType::kFloat32;
    case at::kDouble:
      return cpu::ElementType::kFloat64;
    case at::kHalf:
      return cpu::ElementType::kFloat16;
    case at::kBFloat16:
      return cpu::ElementType::kBFloat16;
    default:
      TORCH_INTERNAL_ASSERT(false, "element_type: unchecked dtype ", tensor.scalar_type());
  }
}

}  // namespace aimet::ops
