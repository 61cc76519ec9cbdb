// The C++ API of the affine operators (calls through the dispatcher) and their Meta kernels.
#include "aimet/ops/affine.h"

#include "aimet/ops/affine_composite.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/dispatch.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

namespace aimet {

at::Tensor quantize(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& offset,
                    std::int64_t qmin, std::int64_t qmax, at::OptionalIntArrayRef block_size) {
  static const auto op = ops::find_operator<decltype(quantize)>("aimet::quantize");
  return op.call(input, scale, offset, qmin, qmax, block_size);
}

at::Tensor dequantize(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& offset,
                      at::OptionalIntArrayRef block_size) {
  static const auto op = ops::find_operator<decltype(dequantize)>("aimet::dequantize");
  return op.call(input, scale, offset, block_size);
}

at::Tensor quantize_dequantize(const at::Tensor& input, const at::Tensor& scale,
                               const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
                               at::OptionalIntArrayRef block_size) {
  static const auto op =
      ops::find_operator<decltype(quantize_dequantize)>("aimet::quantize_dequantize");
  return op.call(input, scale, offset, qmin, qmax, block_size);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> quantize_dequantize_min_max(
    const at::Tensor& input, const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin,
    std::int64_t qmax, at::OptionalIntArrayRef block_size) {
  static const auto op = ops::find_operator<decltype(quantize_dequantize_min_max)>(
      "aimet::quantize_dequantize_min_max");
  return op.call(input, scale, offset, qmin, qmax, block_size);
}

std::tuple<at::Tensor, at::Tensor> quantize_dequantize_mask(const at::Tensor& input,
                                                            const at::Tensor& scale,
                                                            const at::Tensor& offset,
                                                            std::int64_t qmin, std::int64_t qmax,
                                                            at::OptionalIntArrayRef block_size) {
  static const auto op =
      ops::find_operator<decltype(quantize_dequantize_mask)>("aimet::_quantize_dequantize_mask");
  return op.call(input, scale, offset, qmin, qmax, block_size);
}

at::Tensor quantize_dequantize_mask_backward(const at::Tensor& grad, const at::Tensor& mask) {
  static const auto op = ops::find_operator<decltype(quantize_dequantize_mask_backward)>(
      "aimet::_quantize_dequantize_mask_backward");
  return op.call(grad, mask);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> quantize_dequantize_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale,
    const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
    at::OptionalIntArrayRef block_size, std::array<bool, 3> output_mask) {
  static const auto op = ops::find_operator<decltype(quantize_dequantize_backward)>(
      "aimet::_quantize_dequantize_backward");
  return op.call(grad, input, scale, offset, qmin, qmax, block_size, output_mask);
}

namespace {

at::Tensor quantize_meta(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& offset,
                         std::int64_t qmin, std::int64_t qmax, at::OptionalIntArrayRef block_size) {
  ops::check_affine("quantize", input, scale, offset, block_size);
  ops::check_grid("quantize", qmin, qmax);
  return at::empty_like(input);
}

at::Tensor dequantize_meta(const at::Tensor& input, const at::Tensor& scale,
                           const at::Tensor& offset, at::OptionalIntArrayRef block_size) {
  ops::check_affine("dequantize", input, scale, offset, block_size);
  return at::empty_like(input);
}

at::Tensor quantize_dequantize_meta(const at::Tensor& input, const at::Tensor& scale,
                                    const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
                                    at::OptionalIntArrayRef block_size) {
  ops::check_affine("quantize_dequantize", input, scale, offset, block_size);
  ops::check_grid("quantize_dequantize", qmin, qmax);
  return at::empty_like(input);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> with_limits_meta(
    const at::Tensor& input, const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin,
    std::int64_t qmax, at::OptionalIntArrayRef block_size) {
  ops::check_affine("quantize_dequantize_min_max", input, scale, offset, block_size);
  ops::check_grid("quantize_dequantize_min_max", qmin, qmax);
  const at::TensorOptions options = input.options().dtype(ops::compute_type_of(input));
  return {at::empty_like(input), at::empty_symint(scale.sym_sizes(), options),
          at::empty_symint(scale.sym_sizes(), options)};
}

std::tuple<at::Tensor, at::Tensor> mask_meta(const at::Tensor& input, const at::Tensor& scale,
                                             const at::Tensor& offset, std::int64_t qmin,
                                             std::int64_t qmax,
                                             at::OptionalIntArrayRef block_size) {
  at::Tensor output = quantize_dequantize_meta(input, scale, offset, qmin, qmax, block_size);
  return {output,
          at::empty_symint({(input.sym_numel() + 7) / 8}, input.options().dtype(at::kByte))};
}

at::Tensor mask_backward_meta(const at::Tensor& grad, const at::Tensor&) {
  return at::empty_like(grad);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_meta(
    const at::Tensor&, const at::Tensor& input, const at::Tensor& scale, const at::Tensor& offset,
    std::int64_t qmin, std::int64_t qmax, at::OptionalIntArrayRef block_size,
    std::array<bool, 3> output_mask) {
  ops::check_affine("_quantize_dequantize_backward", input, scale, offset, block_size);
  ops::check_grid("_quantize_dequantize_backward", qmin, qmax);
  const auto wanted = [&](int index, const at::Tensor& like, at::MemoryFormat format) {
    return output_mask[index] ? at::empty_like(like, like.options(), format)
                              : at::empty({0}, like.options());
  };
  return {wanted(0, input, at::MemoryFormat::Preserve),
          wanted(1, scale, at::MemoryFormat::Contiguous),
          wanted(2, offset, at::MemoryFormat::Contiguous)};
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, Meta, m) {
  m.impl("quantize", &aimet::quantize_meta);
  m.impl("dequantize", &aimet::dequantize_meta);
  m.impl("quantize_dequantize", &aimet::quantize_dequantize_meta);
  m.impl("quantize_dequantize_min_max", &aimet::with_limits_meta);
  m.impl("_quantize_dequantize_mask", &aimet::mask_meta);
  m.impl("_quantize_dequantize_mask_backward", &aimet::mask_backward_meta);
  m.impl("_quantize_dequantize_backward", &aimet::backward_meta);
}
