#include "aimet/algorithms/norm_range.h"

#include "aimet/algorithms/range_raster.h"
#include "aimet/core/affine.h"
#include "aimet/core/encoding.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/dispatch.h"

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace aimet {

using Pair = std::tuple<at::Tensor, at::Tensor>;

Pair range_before_norm(const at::Tensor& input, const std::optional<at::Tensor>& weight, double eps,
                       std::int64_t qmin, std::int64_t qmax, bool symmetric, bool rms) {
  static const auto op =
      ops::find_operator<decltype(range_before_norm)>("aimet::range_before_norm");
  return op.call(input, weight, eps, qmin, qmax, symmetric, rms);
}

namespace {

constexpr const char* kOp = "range_before_norm";

void check(const at::Tensor& input, const std::optional<at::Tensor>& weight, double eps,
           std::int64_t qmin, std::int64_t qmax) {
  ops::check_is_floating(kOp, "input", input);
  ops::check_grid(kOp, qmin, qmax);
  TORCH_CHECK_VALUE(input.dim() > 0, kOp, ": `input` must have a dimension of channels, got none");
  TORCH_CHECK_VALUE(eps >= 0, kOp, ": `eps` must not be negative, got ", eps);
  if (!weight) return;
  ops::check_is_floating(kOp, "weight", *weight);
  TORCH_CHECK_VALUE(weight->dim() == 1 && weight->sym_size(0) == input.sym_size(-1), kOp,
                    ": `weight` must have the ", input.sym_size(-1),
                    " channels of `input`, got shape ", weight->sym_sizes());
}

class Normalization {
 public:
  Normalization(const at::Tensor& rows, std::vector<float> weight, double eps, bool rms)
      : channels_(rows.size(1)), weight_(std::move(weight)), eps_(eps), rms_(rms) {
    const float* value = rows.const_data_ptr<float>();
    for (std::int64_t row = 0; row < rows.size(0); ++row, value += channels_) {
      if (!std::all_of(value, value + channels_, [](float x) { return std::isfinite(x); })) continue;
      values_.insert(values_.end(), value, value + channels_);
      const auto [least, largest] = std::minmax_element(value, value + channels_);
      limits_.min = std::min(limits_.min, *least);
      limits_.max = std::max(limits_.max, *largest);
    }
    rows_ = channels_ == 0 ? 0 : static_cast<std::int64_t>(values_.size()) / channels_;
    costs_.resize(static_cast<std::size_t>(rows_));
  }

  bool empty() const { return rows_ == 0; }

  // Of all values, and zero.
  core::Range<float> limits() const { return limits_; }

  double squared_error(const core::AffineParams<float>& grid) {
    at::parallel_for(0, rows_, 1, [&](std::int64_t begin, std::int64_t end) {
      std::vector<double> quantized(static_cast<std::size_t>(channels_));
      for (std::int64_t row = begin; row < end; ++row) {
        costs_[static_cast<std::size_t>(row)] = row_cost(row, grid, quantized.data());
      }
    });
    double total = 0;
    for (const double cost : costs_) total += cost;  // in order, whatever the threads
    return total;
  }

 private:
  struct Moments {
    double mean;
    double factor;  // 1 / deviation
  };

  template <typename T>
  Moments moments(const T* value) const {
    double mean = 0;
    if (!rms_) {
      for (std::int64_t k = 0; k < channels_; ++k) mean += value[k];
      mean /= double(channels_);
    }
    double square = 0;
    for (std::int64_t k = 0; k < channels_; ++k) square += (value[k] - mean) * (value[k] - mean);
    const double variance = square / double(channels_) + eps_;
    return {mean, variance > 0 ? 1 / std::sqrt(variance) : 0.0};
  }

  double row_cost(std::int64_t row, const core::AffineParams<float>& grid,
                  double* quantized) const {
    const float* value = values_.data() + row * channels_;
    for (std::int64_t k = 0; k < channels_; ++k) {
      quantized[k] = core::quantize_dequantize(value[k], grid);
    }
    const Moments wanted = moments(value);
    const Moments found = moments(quantized);
    double cost = 0;
    for (std::int64_t k = 0; k < channels_; ++k) {
      const double error = (quantized[k] - found.mean) * found.factor -
                           (value[k] - wanted.mean) * wanted.factor;
      const double weighted = weight_.empty() ? error : error * weight_[std::size_t(k)];
      cost += weighted * weighted;
    }
    return cost;
  }

  std::int64_t channels_;
  std::int64_t rows_ = 0;
  std::vector<float> weight_;
  double eps_;
  bool rms_;
  std::vector<float> values_;
  std::vector<double> costs_;
  core::Range<float> limits_{0, 0};
};

// A search is a long loop with few results: on the CPU, and back.
Pair search(const at::Tensor& input, const std::optional<at::Tensor>& weight, double eps,
            std::int64_t qmin, std::int64_t qmax, bool symmetric, bool rms) {
  check(input, weight, eps, qmin, qmax);
  const at::Tensor rows =
      input.cpu().to(at::kFloat).reshape({-1, input.size(-1)}).contiguous();
  std::vector<float> factors;
  if (weight) {
    const at::Tensor given = weight->cpu().to(at::kFloat).contiguous();
    factors.assign(given.const_data_ptr<float>(), given.const_data_ptr<float>() + given.numel());
  }
  Normalization norm(rows, std::move(factors), eps, rms);
  const auto cost = [&](const core::AffineParams<float>& grid) { return norm.squared_error(grid); };
  const core::Range<float> range =
      norm.empty() ? core::range_from_min_max<float>(0, 0, qmax - qmin, symmetric)
                   : RangeRaster(norm.limits(), qmin, qmax, symmetric, cost).run();
  const at::TensorOptions options = input.options().dtype(at::kFloat);
  return {at::scalar_tensor(range.min, options), at::scalar_tensor(range.max, options)};
}

Pair search_meta(const at::Tensor& input, const std::optional<at::Tensor>& weight, double eps,
                 std::int64_t qmin, std::int64_t qmax, bool, bool) {
  check(input, weight, eps, qmin, qmax);
  const at::TensorOptions options = input.options().dtype(at::kFloat);
  return {at::empty({}, options), at::empty({}, options)};
}

Pair search_autograd(const at::Tensor& input, const std::optional<at::Tensor>& weight, double eps,
                     std::int64_t qmin, std::int64_t qmax, bool symmetric, bool rms) {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return range_before_norm(input, weight, eps, qmin, qmax, symmetric, rms);
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, Meta, m) {
  m.impl("range_before_norm", &aimet::search_meta);
}
TORCH_LIBRARY_IMPL(aimet, CompositeExplicitAutograd, m) {
  m.impl("range_before_norm", &aimet::search);
}
TORCH_LIBRARY_IMPL(aimet, Autograd, m) {
  m.impl("range_before_norm", &aimet::search_autograd);
}
