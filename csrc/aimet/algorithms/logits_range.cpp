#include "aimet/algorithms/logits_range.h"

#include "aimet/algorithms/range_raster.h"
#include "aimet/core/affine.h"
#include "aimet/core/encoding.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/dispatch.h"

#include <ATen/Parallel.h>
#include <ATen/WrapDimUtils.h>
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

Pair range_from_cross_entropy(const at::Tensor& logits, std::int64_t qmin, std::int64_t qmax,
                              bool symmetric, const std::optional<at::Tensor>& reference,
                              std::int64_t class_axis) {
  static const auto op =
      ops::find_operator<decltype(range_from_cross_entropy)>("aimet::range_from_cross_entropy");
  return op.call(logits, qmin, qmax, symmetric, reference, class_axis);
}

namespace {

constexpr const char* kOp = "range_from_cross_entropy";

void check(const at::Tensor& logits, std::int64_t qmin, std::int64_t qmax,
           const std::optional<at::Tensor>& reference, std::int64_t class_axis) {
  ops::check_is_floating(kOp, "logits", logits);
  ops::check_grid(kOp, qmin, qmax);
  TORCH_CHECK_VALUE(logits.dim() > 0, kOp, ": `logits` must have a dimension of classes, got none");
  TORCH_CHECK_VALUE(class_axis >= -logits.dim() && class_axis < logits.dim(), kOp,
                    ": `class_axis` must be a dimension of `logits` of shape ", logits.sym_sizes(),
                    ", got ", class_axis);
  if (!reference) return;
  ops::check_is_floating(kOp, "reference", *reference);
  TORCH_CHECK_VALUE(reference->sym_sizes() == logits.sym_sizes(), kOp,
                    ": `reference` must have the shape ", logits.sym_sizes(),
                    " of `logits`, got ", reference->sym_sizes());
}

at::Tensor as_rows(const at::Tensor& tensor, std::int64_t class_axis) {
  const std::int64_t axis = at::maybe_wrap_dim(class_axis, tensor.dim());
  return tensor.cpu().to(at::kFloat).movedim(axis, -1).reshape({-1, tensor.size(axis)}).contiguous();
}

// Rows without NaN and infinities, and the probabilities that they should keep.
class Classifier {
 public:
  Classifier(const at::Tensor& logits, const at::Tensor& reference) : classes_(logits.size(1)) {
    const float* value = logits.const_data_ptr<float>();
    const float* wanted = reference.const_data_ptr<float>();
    for (std::int64_t row = 0; row < logits.size(0); ++row, value += classes_, wanted += classes_) {
      const auto is_finite = [](float x) { return std::isfinite(x); };
      if (!std::all_of(value, value + classes_, is_finite) ||
          !std::all_of(wanted, wanted + classes_, is_finite)) {
        continue;
      }
      logits_.insert(logits_.end(), value, value + classes_);
      add_probabilities(wanted);
      for (std::int64_t k = 0; k < classes_; ++k) {
        limits_.min = std::min(limits_.min, value[k]);
        limits_.max = std::max(limits_.max, value[k]);
      }
    }
    rows_ = classes_ == 0 ? 0 : static_cast<std::int64_t>(logits_.size()) / classes_;
    costs_.resize(static_cast<std::size_t>(rows_));
  }

  bool empty() const { return rows_ == 0; }

  // Of all values, and zero.
  core::Range<float> limits() const { return limits_; }

  // Sum of -sum p log softmax(q) over the rows, q the quantized logits.
  double cross_entropy(const core::AffineParams<float>& grid) {
    at::parallel_for(0, rows_, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        costs_[static_cast<std::size_t>(row)] = row_cost(row, grid);
      }
    });
    double total = 0;
    for (const double cost : costs_) total += cost;  // in order, whatever the threads
    return total;
  }

 private:
  void add_probabilities(const float* logits) {
    const double largest = *std::max_element(logits, logits + classes_);
    double sum = 0;
    for (std::int64_t k = 0; k < classes_; ++k) sum += std::exp(logits[k] - largest);
    for (std::int64_t k = 0; k < classes_; ++k) {
      probabilities_.push_back(std::exp(logits[k] - largest) / sum);
    }
  }

  double row_cost(std::int64_t row, const core::AffineParams<float>& grid) const {
    const float* value = logits_.data() + row * classes_;
    const double* wanted = probabilities_.data() + row * classes_;
    const float largest =
        core::quantize_dequantize(*std::max_element(value, value + classes_), grid);
    double sum = 0;
    double expected = 0;
    for (std::int64_t k = 0; k < classes_; ++k) {
      // Below zero: quantization keeps the order.
      const double below = double(core::quantize_dequantize(value[k], grid)) - largest;
      sum += std::exp(below);
      expected += wanted[k] * below;
    }
    return std::log(sum) - expected;
  }

  std::int64_t classes_;
  std::int64_t rows_ = 0;
  std::vector<float> logits_;
  std::vector<double> probabilities_;
  std::vector<double> costs_;
  core::Range<float> limits_{0, 0};
};

// A search is a long loop with few results: on the CPU, and back.
Pair search(const at::Tensor& logits, std::int64_t qmin, std::int64_t qmax, bool symmetric,
            const std::optional<at::Tensor>& reference, std::int64_t class_axis) {
  check(logits, qmin, qmax, reference, class_axis);
  const at::Tensor rows = as_rows(logits, class_axis);
  Classifier classifier(rows, reference ? as_rows(*reference, class_axis) : rows);
  const auto cost = [&](const core::AffineParams<float>& grid) {
    return classifier.cross_entropy(grid);
  };
  const core::Range<float> range =
      classifier.empty() ? core::range_from_min_max<float>(0, 0, qmax - qmin, symmetric)
                         : RangeRaster(classifier.limits(), qmin, qmax, symmetric, cost).run();
  const at::TensorOptions options = logits.options().dtype(at::kFloat);
  return {at::scalar_tensor(range.min, options), at::scalar_tensor(range.max, options)};
}

Pair search_meta(const at::Tensor& logits, std::int64_t qmin, std::int64_t qmax, bool,
                 const std::optional<at::Tensor>& reference, std::int64_t class_axis) {
  check(logits, qmin, qmax, reference, class_axis);
  const at::TensorOptions options = logits.options().dtype(at::kFloat);
  return {at::empty({}, options), at::empty({}, options)};
}

Pair search_autograd(const at::Tensor& logits, std::int64_t qmin, std::int64_t qmax, bool symmetric,
                     const std::optional<at::Tensor>& reference, std::int64_t class_axis) {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return range_from_cross_entropy(logits, qmin, qmax, symmetric, reference, class_axis);
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, Meta, m) {
  m.impl("range_from_cross_entropy", &aimet::search_meta);
}
TORCH_LIBRARY_IMPL(aimet, CompositeExplicitAutograd, m) {
  m.impl("range_from_cross_entropy", &aimet::search);
}
TORCH_LIBRARY_IMPL(aimet, Autograd, m) {
  m.impl("range_from_cross_entropy", &aimet::search_autograd);
}
