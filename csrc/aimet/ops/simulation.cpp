// C++ API, Meta and Autograd kernels and ATen fallback of simulation.h.
#include "aimet/ops/simulation.h"

#include "aimet/ops/affine.h"
#include "aimet/ops/autograd.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/dispatch.h"
#include "aimet/ops/encoding.h"

#include <ATen/TensorOperators.h>
#include <torch/library.h>

#include <vector>

namespace aimet {
namespace {

constexpr const char* kByRange = "quantize_dequantize_by_range_";
constexpr const char* kInPlace = "quantize_dequantize_";

using ByRange = void(at::Tensor, const at::Tensor&, const at::Tensor&, std::int64_t, std::int64_t,
                     bool, std::optional<double>, std::optional<double>);
using InPlace = void(at::Tensor, const at::Tensor&, const at::Tensor&, std::int64_t, std::int64_t,
                     std::optional<double>, std::optional<double>);

}  // namespace

void quantize_dequantize_by_range_(at::Tensor input, const at::Tensor& min, const at::Tensor& max,
                                   std::int64_t qmin, std::int64_t qmax, bool symmetric,
                                   std::optional<double> clamp_min,
                                   std::optional<double> clamp_max) {
  static const auto op = ops::find_operator<ByRange>("aimet::quantize_dequantize_by_range_");
  op.call(input, min, max, qmin, qmax, symmetric, clamp_min, clamp_max);
}

void quantize_dequantize_(at::Tensor input, const at::Tensor& scale, const at::Tensor& offset,
                          std::int64_t qmin, std::int64_t qmax, std::optional<double> clamp_min,
                          std::optional<double> clamp_max) {
  static const auto op = ops::find_operator<InPlace>("aimet::quantize_dequantize_");
  op.call(input, scale, offset, qmin, qmax, clamp_min, clamp_max);
}

std::int64_t fingerprint(at::TensorList tensors) {
  static const auto op = ops::find_operator<decltype(fingerprint)>("aimet::fingerprint");
  return op.call(tensors);
}

namespace {

void by_range_meta(at::Tensor input, const at::Tensor& min, const at::Tensor& max,
                   std::int64_t qmin, std::int64_t qmax, bool, std::optional<double>,
                   std::optional<double>) {
  ops::check_is_floating(kByRange, "input", input);
  ops::check_range(kByRange, min, max);
  ops::check_granularity(kByRange, "min", min.sym_sizes(), input.sym_sizes(), {});
  ops::check_grid(kByRange, qmin, qmax);
}

void by_range_composite(at::Tensor input, const at::Tensor& min, const at::Tensor& max,
                        std::int64_t qmin, std::int64_t qmax, bool symmetric,
                        std::optional<double> clamp_min, std::optional<double> clamp_max) {
  by_range_meta(input, min, max, qmin, qmax, symmetric, clamp_min, clamp_max);
  auto [scale, offset] = encoding_from_range(min, max, qmin, qmax, symmetric);
  quantize_dequantize_(input, scale, offset, qmin, qmax, clamp_min, clamp_max);
}

void in_place_meta(at::Tensor input, const at::Tensor& scale, const at::Tensor& offset,
                   std::int64_t qmin, std::int64_t qmax, std::optional<double>,
                   std::optional<double>) {
  ops::check_affine(kInPlace, input, scale, offset, {});
  ops::check_grid(kInPlace, qmin, qmax);
}

void in_place_composite(at::Tensor input, const at::Tensor& scale, const at::Tensor& offset,
                        std::int64_t qmin, std::int64_t qmax, std::optional<double> clamp_min,
                        std::optional<double> clamp_max) {
  in_place_meta(input, scale, offset, qmin, qmax, clamp_min, clamp_max);
  const auto bound = [](std::optional<double> value) {
    return value.has_value() ? std::optional<at::Scalar>(*value) : std::nullopt;
  };
  if (clamp_min.has_value() || clamp_max.has_value())
    input.clamp_(bound(clamp_min), bound(clamp_max));
  input.copy_(quantize_dequantize(input, scale, offset, qmin, qmax));
}

void by_range_autograd(at::Tensor input, const at::Tensor& min, const at::Tensor& max,
                       std::int64_t qmin, std::int64_t qmax, bool symmetric,
                       std::optional<double> clamp_min, std::optional<double> clamp_max) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      !ops::needs_gradient(input, min, max), kByRange,
      ": `input`, `min` and `max` must need no gradient, which would be lost; use "
      "quantize_dequantize, or torch.no_grad()");
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  quantize_dequantize_by_range_(input, min, max, qmin, qmax, symmetric, clamp_min, clamp_max);
  input.unsafeGetTensorImpl()->bump_version();
}

void in_place_autograd(at::Tensor input, const at::Tensor& scale, const at::Tensor& offset,
                       std::int64_t qmin, std::int64_t qmax, std::optional<double> clamp_min,
                       std::optional<double> clamp_max) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      !ops::needs_gradient(input, scale, offset), kInPlace,
      ": `input`, `scale` and `offset` must need no gradient, which would be lost; use "
      "quantize_dequantize, or torch.no_grad()");
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  quantize_dequantize_(input, scale, offset, qmin, qmax, clamp_min, clamp_max);
  input.unsafeGetTensorImpl()->bump_version();
}

std::int64_t fingerprint_meta(at::TensorList) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, "fingerprint: `tensors` must hold data, got meta tensors");
}

std::int64_t fingerprint_composite(at::TensorList tensors) {
  std::vector<at::Tensor> copies;
  for (const at::Tensor& tensor : tensors) copies.push_back(tensor.cpu());
  return fingerprint(copies);
}

std::int64_t fingerprint_autograd(at::TensorList tensors) {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return fingerprint(tensors);
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, Meta, m) {
  m.impl("quantize_dequantize_by_range_", &aimet::by_range_meta);
  m.impl("quantize_dequantize_", &aimet::in_place_meta);
  m.impl("fingerprint", &aimet::fingerprint_meta);
}
TORCH_LIBRARY_IMPL(aimet, CompositeExplicitAutograd, m) {
  m.impl("quantize_dequantize_by_range_", &aimet::by_range_composite);
  m.impl("quantize_dequantize_", &aimet::in_place_composite);
  m.impl("fingerprint", &aimet::fingerprint_composite);
}
TORCH_LIBRARY_IMPL(aimet, Autograd, m) {
  m.impl("quantize_dequantize_by_range_", &aimet::by_range_autograd);
  m.impl("quantize_dequantize_", &aimet::in_place_autograd);
  m.impl("fingerprint", &aimet::fingerprint_autograd);
}
