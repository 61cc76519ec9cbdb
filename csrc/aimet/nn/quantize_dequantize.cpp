#include "aimet/nn/quantize_dequantize.h"

#include "aimet/ops/affine.h"
#include "aimet/ops/encoding.h"
#include "aimet/ops/histogram.h"
#include "aimet/ops/min_max.h"
#include "aimet/ops/range_search.h"

#include <c10/util/OptionalArrayRef.h>
#include <torch/serialize/input-archive.h>
#include <torch/serialize/output-archive.h>

#include <limits>
#include <ostream>
#include <sstream>
#include <string>
#include <utility>

namespace aimet::nn {
namespace {

using torch::Tensor;

constexpr const char* kName = "aimet::nn::QuantizeDequantize";
// The layout of `_extra_state`: aimet_torch/quantization/affine/base.py.
constexpr std::int64_t kStateVersion = 1;
constexpr std::int64_t kStateLength = 8;
constexpr std::int64_t kLearnsLimits = 0;

at::OptionalIntArrayRef blocks_of(const QuantizeDequantizeOptions& options) {
  if (!options.block_size()) return {};
  return at::IntArrayRef(*options.block_size());
}

void check_options(const QuantizeDequantizeOptions& options) {
  TORCH_CHECK_VALUE(options.bitwidth() >= 1 && options.bitwidth() <= 32, kName,
                    ": `bitwidth` must be between 1 and 32, got ", options.bitwidth());
  TORCH_CHECK_VALUE(!options.block_size() || options.block_size()->size() == options.shape().size(),
                    kName, ": `block_size` must have one entry for each dimension of `shape` ",
                    at::IntArrayRef(options.shape()));
  TORCH_CHECK_VALUE(options.percentile() >= 50 && options.percentile() <= 100, kName,
                    ": `percentile` must be within 50 and 100, got ", options.percentile());
  TORCH_CHECK_VALUE(options.bins() > 0, kName, ": `bins` must be positive, got ", options.bins());
}

std::vector<std::int64_t> with_last(std::vector<std::int64_t> shape, std::int64_t size) {
  shape.push_back(size);
  return shape;
}

bool is_below_float(torch::Dtype dtype) {
  return dtype != torch::kFloat && dtype != torch::kDouble;
}

Tensor read(torch::serialize::InputArchive& archive, const char* key, bool is_buffer) {
  Tensor tensor;
  archive.read(key, tensor, is_buffer);
  return tensor.detach();
}

}  // namespace

QuantizeDequantizeImpl::QuantizeDequantizeImpl(QuantizeDequantizeOptions given)
    : options(std::move(given)) {
  check_options(options);
  QuantizeDequantizeImpl::reset();
}

void QuantizeDequantizeImpl::reset() {
  const double unknown = std::numeric_limits<float>::quiet_NaN();
  min = register_parameter("min", torch::full(options.shape(), unknown), !frozen_);
  max = register_parameter("max", torch::full(options.shape(), unknown), !frozen_);
  initialized_ = false;
  cancel_calibration();
}

std::int64_t QuantizeDequantizeImpl::qmin() const {
  return options.is_signed().value_or(options.symmetric())
             ? -(std::int64_t{1} << (options.bitwidth() - 1))
             : 0;
}

std::int64_t QuantizeDequantizeImpl::qmax() const {
  return qmin() + (std::int64_t{1} << options.bitwidth()) - 1;
}

Tensor QuantizeDequantizeImpl::forward(const Tensor& input) {
  if (calibrating_) {
    observe(input);
    return input;
  }
  if (!input.is_floating_point()) return input;
  TORCH_CHECK(is_initialized(), kName,
              ": there is no range to quantize with; calibrate the quantizer or call set_range()");
  const auto [scale, offset] = scale_and_offset();
  return quantize_dequantize(input, scale, offset, qmin(), qmax(), blocks_of(options));
}

std::tuple<Tensor, Tensor> QuantizeDequantizeImpl::scale_and_offset() const {
  return encoding_from_range(min, max, qmin(), qmax(), options.symmetric());
}

void QuantizeDequantizeImpl::begin_calibration() {
  cancel_calibration();
  calibrating_ = !frozen_;
}

void QuantizeDequantizeImpl::cancel_calibration() {
  calibrating_ = false;
  lowest_ = highest_ = histogram_ = Tensor();
}

void QuantizeDequantizeImpl::end_calibration() {
  if (!calibrating_) return;
  const torch::NoGradGuard no_grad;
  const bool anything = lowest_.defined() && (lowest_ <= highest_).any().item<bool>();
  if (anything) {
    const auto [low, high] = observed_range();
    set_range(low, high);
  }
  cancel_calibration();
  TORCH_CHECK_VALUE(anything, kName,
                    ".end_calibration: no finite value was observed, the range stays as it was; "
                    "pass data through forward() between begin_calibration() and here");
}

void QuantizeDequantizeImpl::calibrate(const Tensor& values) {
  begin_calibration();
  forward(values);
  end_calibration();
}

void QuantizeDequantizeImpl::observe(const Tensor& input) {
  if (!input.is_floating_point() || input.numel() == 0) return;
  const torch::NoGradGuard no_grad;
  const auto blocks = blocks_of(options);
  auto [low, high] = min_max(input, c10::fromIntArrayRefSlow(options.shape()), blocks);
  const bool is_first = !lowest_.defined();
  if (!is_first) {
    low = torch::minimum(low, lowest_);
    high = torch::maximum(high, highest_);
  }
  if (options.range_method() != RangeMethod::kMinMax) {
    if (is_first) {
      histogram_ = torch::zeros(with_last(options.shape(), options.bins()),
                                input.options().dtype(torch::kLong));
    } else if (!torch::equal(low, lowest_) || !torch::equal(high, highest_)) {
      histogram_ = rebin_histogram(histogram_, lowest_, highest_, low, high);
    }
    update_histogram_(histogram_, input, low, high, blocks);
  }
  lowest_ = low;
  highest_ = high;
}

std::tuple<Tensor, Tensor> QuantizeDequantizeImpl::observed_range() const {
  const std::int64_t first = qmin();
  const std::int64_t last = qmax();
  const bool symmetric = options.symmetric();
  switch (options.range_method()) {
    case RangeMethod::kMinMax:
      break;
    case RangeMethod::kPercentile:
      return range_from_percentile(histogram_, lowest_, highest_, options.percentile(), first, last,
                                   symmetric);
    case RangeMethod::kSqnr:
      return range_from_sqnr(histogram_, lowest_, highest_, first, last, symmetric);
    case RangeMethod::kMse:
      return range_from_mse(histogram_, lowest_, highest_, first, last, symmetric);
    case RangeMethod::kEntropy:
      return range_from_entropy(histogram_, lowest_, highest_, first, last, symmetric);
  }
  return range_from_min_max(lowest_, highest_, first, last, symmetric);
}

void QuantizeDequantizeImpl::set_range(const Tensor& low, const Tensor& high) {
  const torch::NoGradGuard no_grad;
  const Tensor lower = low.detach().to(min.options()).expand(min.sizes());
  const Tensor upper = high.detach().to(max.options()).expand(max.sizes());
  // Values on an accelerator are not looked at: that would wait for it.
  if (lower.is_cpu()) {
    TORCH_CHECK_VALUE(lower.isfinite().all().item<bool>() && upper.isfinite().all().item<bool>(),
                      kName, ".set_range: `low` and `high` must be finite, got ", lower, " and ",
                      upper);
    TORCH_CHECK_VALUE((lower <= upper).all().item<bool>(), kName,
                      ".set_range: `low` must not exceed `high`, got ", lower, " and ", upper);
  }
  min.copy_(lower);
  max.copy_(upper);
  initialized_ = true;
}

bool QuantizeDequantizeImpl::is_initialized() const {
  // Somebody may have written to the parameters directly.
  if (!initialized_) initialized_ = !(min.isnan().any() | max.isnan().any()).item<bool>();
  return initialized_;
}

void QuantizeDequantizeImpl::freeze() {
  cancel_calibration();
  frozen_ = true;
  min.set_requires_grad(false);
  max.set_requires_grad(false);
}

void QuantizeDequantizeImpl::pretty_print(std::ostream& stream) const {
  stream << kName << "(shape=" << at::IntArrayRef(options.shape()) << ", qmin=" << qmin()
         << ", qmax=" << qmax() << (options.symmetric() ? ", symmetric" : "")
         << (frozen_ ? ", frozen)" : ")");
}

Tensor QuantizeDequantizeImpl::extra_state() const {
  const std::int64_t may_change = frozen_ ? 0 : 1;
  return torch::tensor({kStateVersion, qmin(), qmax(), kLearnsLimits,
                        std::int64_t{options.symmetric()}, may_change, may_change,
                        std::int64_t{min.requires_grad()}});
}

void QuantizeDequantizeImpl::save(torch::serialize::OutputArchive& archive) const {
  Module::save(archive);
  archive.write("_extra_state", extra_state(), /*is_buffer=*/true);
}

void QuantizeDequantizeImpl::load(torch::serialize::InputArchive& archive) {
  const Tensor state = read(archive, "_extra_state", true).cpu();
  const Tensor low = read(archive, "min", false);
  const Tensor high = read(archive, "max", false);
  TORCH_CHECK_VALUE(state.numel() == kStateLength && state[0].item<std::int64_t>() == kStateVersion,
                    kName, ".load: `archive` is of a version that is not known");
  std::ostringstream differences;
  const auto compare = [&](const char* label, const auto& theirs, const auto& own) {
    if (theirs != own) differences << ' ' << label << " is " << theirs << ", here " << own << ';';
  };
  compare("qmin", state[1].item<std::int64_t>(), qmin());
  compare("qmax", state[2].item<std::int64_t>(), qmax());
  compare("the method", state[3].item<std::int64_t>(), kLearnsLimits);
  compare("symmetric", state[4].item<std::int64_t>() != 0, options.symmetric());
  compare("the shape of min", low.sizes(), min.sizes());
  compare("the shape of max", high.sizes(), max.sizes());
  TORCH_CHECK_VALUE(differences.str().empty(), kName,
                    ".load: `archive` does not fit:", differences.str(), " nothing was loaded");
  if (frozen_) return;
  const torch::NoGradGuard no_grad;
  min.copy_(low);
  max.copy_(high);
  initialized_ = false;
  const bool learns = state[7].item<std::int64_t>() != 0;
  min.set_requires_grad(learns);
  max.set_requires_grad(learns);
  if (state[5].item<std::int64_t>() == 0) freeze();
}

void QuantizeDequantizeImpl::to(torch::Device device, torch::Dtype dtype, bool non_blocking) {
  if (is_below_float(dtype)) {
    Module::to(device, torch::kFloat, non_blocking);
  } else {
    Module::to(device, dtype, non_blocking);
  }
}

void QuantizeDequantizeImpl::to(torch::Dtype dtype, bool non_blocking) {
  Module::to(is_below_float(dtype) ? torch::kFloat : dtype, non_blocking);
}

void calibrate(torch::nn::Module& model, const std::function<void()>& run) {
  const torch::NoGradGuard no_grad;
  std::vector<std::pair<std::string, QuantizeDequantizeImpl*>> found;
  model.apply([&](const std::string& name, torch::nn::Module& module) {
    if (auto* quantizer = dynamic_cast<QuantizeDequantizeImpl*>(&module)) {
      found.emplace_back(name, quantizer);
    }
  });
  for (const auto& [name, quantizer] : found) quantizer->begin_calibration();
  try {
    run();
  } catch (...) {
    for (const auto& [name, quantizer] : found) quantizer->cancel_calibration();
    throw;
  }
  std::string unseen;
  for (const auto& [name, quantizer] : found) {
    try {
      quantizer->end_calibration();
    } catch (const c10::ValueError&) {
      unseen += (unseen.empty() ? "" : ", ") + name;
    }
  }
  TORCH_CHECK_VALUE(unseen.empty(), "aimet::nn::calibrate: no finite value passed through ", unseen,
                    "; their ranges stay as they were");
}

}  // namespace aimet::nn
