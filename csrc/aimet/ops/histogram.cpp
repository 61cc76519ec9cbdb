// C++ API, Meta kernels and ATen fallback of the histogram operators.
#include "aimet/ops/histogram.h"

#include "aimet/core/encoding.h"
#include "aimet/ops/affine_composite.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/dispatch.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/where.h>
#include <torch/library.h>

#include <vector>

namespace aimet {

void update_histogram_(at::Tensor histogram, const at::Tensor& input, const at::Tensor& min,
                       const at::Tensor& max, at::OptionalIntArrayRef block_size) {
  static const auto op =
      ops::find_operator<void(at::Tensor, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                              at::OptionalIntArrayRef)>("aimet::update_histogram_");
  op.call(histogram, input, min, max, block_size);
}

at::Tensor rebin_histogram(const at::Tensor& histogram, const at::Tensor& old_min,
                           const at::Tensor& old_max, const at::Tensor& new_min,
                           const at::Tensor& new_max) {
  static const auto op = ops::find_operator<decltype(rebin_histogram)>("aimet::rebin_histogram");
  return op.call(histogram, old_min, old_max, new_min, new_max);
}

namespace {

void update_histogram_meta(at::Tensor histogram, const at::Tensor& input, const at::Tensor& min,
                           const at::Tensor& max, at::OptionalIntArrayRef block_size) {
  ops::check_is_floating("update_histogram_", "input", input);
  ops::check_histogram("update_histogram_", histogram, min, max);
  ops::check_granularity("update_histogram_", "min", min.sym_sizes(), input.sym_sizes(),
                         block_size);
}

at::Tensor rebin_histogram_meta(const at::Tensor& histogram, const at::Tensor& old_min,
                                const at::Tensor& old_max, const at::Tensor& new_min,
                                const at::Tensor& new_max) {
  ops::check_histogram("rebin_histogram", histogram, old_min, old_max);
  ops::check_histogram("rebin_histogram", histogram, new_min, new_max);
  return at::empty_like(histogram, histogram.options(), at::MemoryFormat::Contiguous);
}

// core/histogram.h in ATen operations.
void update_histogram_composite(at::Tensor histogram, const at::Tensor& input,
                                const at::Tensor& min, const at::Tensor& max,
                                at::OptionalIntArrayRef block_size) {
  update_histogram_meta(histogram, input, min, max, block_size);
  if (input.numel() == 0) return;
  const at::ScalarType type = ops::compute_type_of(input);
  const std::int64_t bin_count = histogram.size(-1);
  const at::Tensor x =
      ops::by_parameter(input.to(type), min.sym_sizes());  // (parameters, elements of each)
  const at::Tensor observed_low = min.to(type).reshape({-1, 1});
  const at::Tensor observed_high = max.to(type).reshape({-1, 1});
  const at::Tensor is_point = observed_low == observed_high;
  const double limit = core::largest_limit<double>();
  const at::Tensor low = at::where(is_point, observed_low - 0.5, observed_low).clamp(-limit, limit);
  const at::Tensor high =
      at::where(is_point, observed_high + 0.5, observed_high).clamp(-limit, limit);
  const at::Tensor is_observed = observed_low.isfinite()
                                     .logical_and(observed_high.isfinite())
                                     .logical_and(observed_low <= observed_high);
  const at::Tensor is_counted = x.isfinite().logical_and(is_observed);
  const at::Tensor position = (at::where(is_counted, x, 0) - low) * bin_count / (high - low);
  const at::Tensor index = position.nan_to_num(0).clamp(0, bin_count - 1).to(at::kLong);
  const at::Tensor row = at::arange(x.size(0), index.options()).unsqueeze(1) * bin_count;
  at::Tensor counts = histogram.contiguous().view({-1});
  counts = counts.scatter_add(0, at::where(is_counted, index + row, 0).reshape({-1}),
                              is_counted.to(at::kLong).reshape({-1}));
  histogram.copy_(counts.view(histogram.sizes()));
}

// Histograms are small: to the CPU and back.
at::Tensor rebin_histogram_composite(const at::Tensor& histogram, const at::Tensor& old_min,
                                     const at::Tensor& old_max, const at::Tensor& new_min,
                                     const at::Tensor& new_max) {
  return rebin_histogram(histogram.cpu(), old_min.cpu(), old_max.cpu(), new_min.cpu(),
                         new_max.cpu())
      .to(histogram.device());
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, Meta, m) {
  m.impl("update_histogram_", &aimet::update_histogram_meta);
  m.impl("rebin_histogram", &aimet::rebin_histogram_meta);
}
TORCH_LIBRARY_IMPL(aimet, CompositeExplicitAutograd, m) {
  m.impl("update_histogram_", &aimet::update_histogram_composite);
  m.impl("rebin_histogram", &aimet::rebin_histogram_composite);
}
