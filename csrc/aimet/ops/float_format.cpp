// The C++ API of the floating-point formats (calls through the dispatcher), checks, Meta kernels.
#include "aimet/ops/float_format.h"

#include "aimet/ops/checks.h"
#include "aimet/ops/dispatch.h"
#include "aimet/ops/float_format_checks.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

namespace aimet {

at::Tensor quantize_dequantize_float(const at::Tensor& input, const at::Tensor& scale,
                                     std::int64_t exponent_bits, std::int64_t mantissa_bits,
                                     bool finite, bool unsigned_zero, bool saturate,
                                     at::OptionalIntArrayRef block_size) {
  static const auto op =
      ops::find_operator<decltype(quantize_dequantize_float)>("aimet::quantize_dequantize_float");
  return op.call(input, scale, exponent_bits, mantissa_bits, finite, unsigned_zero, saturate,
                 block_size);
}

std::tuple<at::Tensor, at::Tensor> quantize_dequantize_float_mask(
    const at::Tensor& input, const at::Tensor& scale, std::int64_t exponent_bits,
    std::int64_t mantissa_bits, bool finite, bool unsigned_zero, bool saturate,
    at::OptionalIntArrayRef block_size) {
  static const auto op = ops::find_operator<decltype(quantize_dequantize_float_mask)>(
      "aimet::_quantize_dequantize_float_mask");
  return op.call(input, scale, exponent_bits, mantissa_bits, finite, unsigned_zero, saturate,
                 block_size);
}

std::tuple<at::Tensor, at::Tensor> quantize_dequantize_float_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale,
    std::int64_t exponent_bits, std::int64_t mantissa_bits, bool finite, bool unsigned_zero,
    bool saturate, at::OptionalIntArrayRef block_size, std::array<bool, 2> output_mask) {
  static const auto op = ops::find_operator<decltype(quantize_dequantize_float_backward)>(
      "aimet::_quantize_dequantize_float_backward");
  return op.call(grad, input, scale, exponent_bits, mantissa_bits, finite, unsigned_zero, saturate,
                 block_size, output_mask);
}

namespace ops {

core::FloatGrid check_float(const char* op, const at::Tensor& input, const at::Tensor& scale,
                            std::int64_t exponent_bits, std::int64_t mantissa_bits, bool finite,
                            bool unsigned_zero, bool saturate, at::OptionalIntArrayRef block_size) {
  check_is_floating(op, "input", input);
  check_is_floating(op, "scale", scale);
  check_granularity(op, "scale", scale.sym_sizes(), input.sym_sizes(), block_size);
  TORCH_CHECK_VALUE(exponent_bits >= 2 && exponent_bits <= 8, op,
                    ": `exponent_bits` must be 2 to 8, got ", exponent_bits);
  TORCH_CHECK_VALUE(mantissa_bits >= 1 && mantissa_bits <= 23, op,
                    ": `mantissa_bits` must be 1 to 23, got ", mantissa_bits);
  TORCH_CHECK_VALUE(exponent_bits < 8 || (!finite && !unsigned_zero), op,
                    ": with 8 `exponent_bits`, `finite` and `unsigned_zero` must be False: such "
                    "numbers do not fit into float32; use 7 bits or fewer, got finite=",
                    finite, " and unsigned_zero=", unsigned_zero);
  return core::float_grid({static_cast<int>(exponent_bits), static_cast<int>(mantissa_bits), finite,
                           unsigned_zero},
                          saturate);
}

}  // namespace ops

namespace {

at::Tensor float_meta(const at::Tensor& input, const at::Tensor& scale, std::int64_t exponent_bits,
                      std::int64_t mantissa_bits, bool finite, bool unsigned_zero, bool saturate,
                      at::OptionalIntArrayRef block_size) {
  ops::check_float("quantize_dequantize_float", input, scale, exponent_bits, mantissa_bits, finite,
                   unsigned_zero, saturate, block_size);
  return at::empty_like(input);
}

std::tuple<at::Tensor, at::Tensor> float_mask_meta(const at::Tensor& input, const at::Tensor& scale,
                                                   std::int64_t exponent_bits,
                                                   std::int64_t mantissa_bits, bool finite,
                                                   bool unsigned_zero, bool saturate,
                                                   at::OptionalIntArrayRef block_size) {
  at::Tensor output = float_meta(input, scale, exponent_bits, mantissa_bits, finite, unsigned_zero,
                                 saturate, block_size);
  return {output,
          at::empty_symint({(input.sym_numel() + 7) / 8}, input.options().dtype(at::kByte))};
}

std::tuple<at::Tensor, at::Tensor> float_backward_meta(
    const at::Tensor&, const at::Tensor& input, const at::Tensor& scale, std::int64_t exponent_bits,
    std::int64_t mantissa_bits, bool finite, bool unsigned_zero, bool saturate,
    at::OptionalIntArrayRef block_size, std::array<bool, 2> output_mask) {
  ops::check_float("_quantize_dequantize_float_backward", input, scale, exponent_bits,
                   mantissa_bits, finite, unsigned_zero, saturate, block_size);
  return {output_mask[0] ? at::empty_like(input) : at::empty({0}, input.options()),
          output_mask[1] ? at::empty_like(scale, scale.options(), at::MemoryFormat::Contiguous)
                         : at::empty({0}, scale.options())};
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, Meta, m) {
  m.impl("quantize_dequantize_float", &aimet::float_meta);
  m.impl("_quantize_dequantize_float_mask", &aimet::float_mask_meta);
  m.impl("_quantize_dequantize_float_backward", &aimet::float_backward_meta);
}
