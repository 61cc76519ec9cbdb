#include "aimet/core/histogram.h"
#include "aimet/ops/affine_composite.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/kernel_choice.h"
#include "aimet/ops/layout.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <mutex>
#include <vector>

namespace aimet {
namespace {

// One histogram: threads count parts of the tensor on their own. Integers add up the same in any
// order.
void count_tensor(const cpu::HistogramArguments& arguments, cpu::ElementType type,
                  std::int64_t* counts) {
  const cpu::KernelTable& kernels = ops::kernels();
  const std::int64_t size = arguments.shape.inner;
  std::mutex mutex;
  at::parallel_for(0, size, ops::kGrainSize, [&](std::int64_t begin, std::int64_t end) {
    const cpu::Box box{0, 1, 0, 1, begin, end};
    if (begin == 0 && end == size) return kernels.histogram(type, arguments, box, counts);
    std::vector<std::int64_t> own(arguments.bin_count, 0);
    kernels.histogram(type, arguments, box, own.data());
    const std::lock_guard<std::mutex> lock(mutex);
    for (std::int64_t bin = 0; bin < arguments.bin_count; ++bin) counts[bin] += own[bin];
  });
}

void update_histogram_cpu(at::Tensor histogram, const at::Tensor& input, const at::Tensor& min,
                          const at::Tensor& max, at::OptionalIntArrayRef block_size) {
  ops::check_is_floating("update_histogram_", "input", input);
  ops::check_histogram("update_histogram_", histogram, min, max);
  ops::check_granularity("update_histogram_", "min", min.sym_sizes(), input.sym_sizes(),
                         block_size);
  if (input.numel() == 0) return;
  at::Tensor x = ops::dense(input);
  ops::ChannelLayout layout = ops::channel_layout(x, min.sizes(), block_size);
  if (!layout.parameter_of.empty()) {
    // Several channels share a histogram; bring each parameter's elements together instead.
    x = ops::by_parameter(x, min.sym_sizes()).contiguous();
    layout = {{1, x.size(0), x.size(1)}, {}};
  }
  const at::ScalarType compute_type = ops::compute_type(x);
  const at::Tensor low = ops::channel_values(min, layout, compute_type);
  const at::Tensor high = ops::channel_values(max, layout, compute_type);
  at::Tensor counts = histogram.contiguous();
  std::int64_t* counts_data = counts.mutable_data_ptr<std::int64_t>();
  const cpu::HistogramArguments arguments{x.const_data_ptr(), low.const_data_ptr(),
                                          high.const_data_ptr(), layout.shape, histogram.size(-1)};
  const cpu::ElementType type = ops::element_type(x);
  if (layout.shape.channels == 1) {
    count_tensor(arguments, type, counts_data);
  } else {
    const cpu::KernelTable& kernels = ops::kernels();
    const std::int64_t per_channel = layout.shape.outer * layout.shape.inner;
    at::parallel_for(0, layout.shape.channels, ops::task_grain(per_channel),
                     [&](std::int64_t begin, std::int64_t end) {
                       kernels.histogram(type, arguments,
                                         {0, layout.shape.outer, begin, end, 0, layout.shape.inner},
                                         counts_data);
                     });
  }
  if (!histogram.is_contiguous()) histogram.copy_(counts);
}

template <typename T>
void rebin(const at::Tensor& source, const at::Tensor& old_min, const at::Tensor& old_max,
           const at::Tensor& new_min, const at::Tensor& new_max, at::Tensor& target) {
  const std::int64_t bin_count = source.size(-1);
  for (std::int64_t c = 0; c < old_min.numel(); ++c) {
    const core::Range<T> old_observed{old_min.const_data_ptr<T>()[c],
                                      old_max.const_data_ptr<T>()[c]};
    const core::Range<T> new_observed{new_min.const_data_ptr<T>()[c],
                                      new_max.const_data_ptr<T>()[c]};
    const std::int64_t* from = source.const_data_ptr<std::int64_t>() + c * bin_count;
    std::int64_t* to = target.mutable_data_ptr<std::int64_t>() + c * bin_count;
    const bool is_same =
        old_observed.min == new_observed.min && old_observed.max == new_observed.max;
    if (is_same || !core::is_observed(old_observed) || !core::is_observed(new_observed)) {
      std::copy(from, from + bin_count, to);
      continue;
    }
    const core::Range<T> new_bins = core::bin_range(new_observed);
    for (std::int64_t bin = 0; bin < bin_count; ++bin) {
      if (from[bin] == 0) continue;
      if (old_observed.min == old_observed.max) {
        to[core::bin_index(old_observed.min, new_bins, bin_count)] +=
            from[bin];  // all were this value
        continue;
      }
      const core::BinSplit split =
          core::split_bin(bin, from[bin], core::bin_range(old_observed), new_bins, bin_count);
      to[split.index] += split.first;
      to[std::min(split.index + 1, bin_count - 1)] += from[bin] - split.first;
    }
  }
}

at::Tensor rebin_histogram_cpu(const at::Tensor& histogram, const at::Tensor& old_min,
                               const at::Tensor& old_max, const at::Tensor& new_min,
                               const at::Tensor& new_max) {
  ops::check_histogram("rebin_histogram", histogram, old_min, old_max);
  ops::check_histogram("rebin_histogram", histogram, new_min, new_max);
  at::Tensor result = at::zeros(histogram.sizes(), histogram.options());
  const at::Tensor source = histogram.contiguous();
  const at::ScalarType type = ops::compute_type(old_min);
  const auto limit = [&](const at::Tensor& tensor) { return ops::contiguous_as(tensor, type); };
  if (type == at::kDouble) {
    rebin<double>(source, limit(old_min), limit(old_max), limit(new_min), limit(new_max), result);
  } else {
    rebin<float>(source, limit(old_min), limit(old_max), limit(new_min), limit(new_max), result);
  }
  return result;
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, CPU, m) {
  m.impl("update_histogram_", &aimet::update_histogram_cpu);
  m.impl("rebin_histogram", &aimet::rebin_histogram_cpu);
}
