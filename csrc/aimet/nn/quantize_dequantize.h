// Quantization-aware training without Python: quantize-dequantize as a module of LibTorch, with
// limits that it calibrates or learns. Not part of aimet.h, because LibTorch's modules cost seconds
// of compile time.
//
//   aimet::nn::QuantizeDequantize quantizer(aimet::nn::QuantizeDequantizeOptions().bitwidth(4));
//   quantizer->calibrate(values);
//   torch::Tensor y = quantizer(x);  // differentiable in x, quantizer->min and quantizer->max
#pragma once

#include "aimet/export.h"

#include <torch/arg.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <optional>
#include <tuple>
#include <vector>

namespace aimet::nn {

// What calibration derives the limits from; formulas in range_search.h and docs/numerics.md.
enum class RangeMethod { kMinMax, kPercentile, kSqnr, kMse, kEntropy };

struct AIMET_API QuantizeDequantizeOptions {
  // Of scale and offset: {} is one range in all, {C, 1, 1, 1} one for each index of the first of
  // four dimensions. Broadcasts against the input.
  TORCH_ARG(std::vector<std::int64_t>, shape) = {};
  // 1 to 32.
  TORCH_ARG(std::int64_t, bitwidth) = 8;
  // Whether zero is the center of the grid: weights; otherwise activations.
  TORCH_ARG(bool, symmetric) = false;
  // Codes from -2^(b-1) rather than from 0. Unset: as `symmetric`.
  TORCH_ARG(std::optional<bool>, is_signed) = std::nullopt;
  // Elements that share a scale, for each dimension of `shape` (see ops/affine.h).
  TORCH_ARG(std::optional<std::vector<std::int64_t>>, block_size) = std::nullopt;
  TORCH_ARG(RangeMethod, range_method) = RangeMethod::kMinMax;
  // For kPercentile: 50 to 100.
  TORCH_ARG(double, percentile) = 99.99;
  // Of the histograms of all methods but kMinMax.
  TORCH_ARG(std::int64_t, bins) = 2048;
};

// y = quantize_dequantize(x) with scale and offset of encoding_from_range(min, max); gradients by
// the straight-through rule of docs/numerics.md. Formulas, state and checkpoints are those of
// aimet_torch.quantization.affine.QuantizeDequantize in Python. Not safe for use by several threads
// while it calibrates.
class AIMET_API QuantizeDequantizeImpl : public torch::nn::Cloneable<QuantizeDequantizeImpl> {
 public:
  // c10::ValueError: a bit width, block size, percentile or number of bins that makes no sense.
  explicit QuantizeDequantizeImpl(QuantizeDequantizeOptions options = {});

  // While calibrating: observes `input` and returns it as it is. Otherwise a tensor of its shape
  // and dtype; integers pass unchanged. c10::Error where there is no range yet.
  torch::Tensor forward(const torch::Tensor& input);

  // Observes every input of forward() until end_calibration(), which sets the range. NaN and
  // infinities do not count. A frozen quantizer observes nothing and keeps its range.
  void begin_calibration();
  // c10::ValueError: no finite value was seen; the range stays as it was.
  void end_calibration();
  // Forgets what was seen.
  void cancel_calibration();
  bool is_calibrating() const { return calibrating_; }
  // All of it for one tensor, such as a weight.
  void calibrate(const torch::Tensor& values);

  // Broadcast to the shape. c10::ValueError: not finite, or min above max.
  void set_range(const torch::Tensor& low, const torch::Tensor& high);
  bool is_initialized() const;
  // Keeps the range from now on: no gradient, no calibration, no loading.
  void freeze();
  bool is_frozen() const { return frozen_; }

  std::int64_t qmin() const;
  std::int64_t qmax() const;
  // Differentiable in min and max.
  std::tuple<torch::Tensor, torch::Tensor> scale_and_offset() const;

  void reset() override;
  void pretty_print(std::ostream& stream) const override;
  // As in Python's state dict: `min`, `max`, `_extra_state`. load() takes over all or nothing:
  // c10::ValueError names every difference of grid or shape.
  void save(torch::serialize::OutputArchive& archive) const override;
  void load(torch::serialize::InputArchive& archive) override;
  // A range in half precision would move by up to a step, so it stays in float32.
  using torch::nn::Module::to;
  void to(torch::Device device, torch::Dtype dtype, bool non_blocking = false) override;
  void to(torch::Dtype dtype, bool non_blocking = false) override;

  // Parameters of the options' shape, float32; NaN where there is no range yet.
  torch::Tensor min;
  torch::Tensor max;
  QuantizeDequantizeOptions options;

 private:
  void observe(const torch::Tensor& input);
  std::tuple<torch::Tensor, torch::Tensor> observed_range() const;
  torch::Tensor extra_state() const;

  bool calibrating_ = false;
  bool frozen_ = false;
  mutable bool initialized_ = false;
  // What was seen: limits, +inf and -inf where nothing was, and counts between them.
  torch::Tensor lowest_;
  torch::Tensor highest_;
  torch::Tensor histogram_;
};

TORCH_MODULE(QuantizeDequantize);

// Calibrates every QuantizeDequantize of `model` on what passes through it while `run` runs,
// without gradients:  aimet::nn::calibrate(*model, [&] { model->forward(images); });
// c10::ValueError names those that saw nothing; the others have their range. Where `run` throws, no
// range changes.
AIMET_API void calibrate(torch::nn::Module& model, const std::function<void()>& run);

}  // namespace aimet::nn
