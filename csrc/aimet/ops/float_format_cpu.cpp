// CPU kernels of the floating-point formats: checks, layout, threads; the loops are in
// cpu/float_format*_kernel.cpp.
#include "aimet/ops/checks.h"
#include "aimet/ops/float_format_checks.h"
#include "aimet/ops/kernel_choice.h"
#include "aimet/ops/layout.h"
#include "aimet/ops/output_memory.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <tuple>

namespace aimet {
namespace {

struct Scale {
  ops::ChannelLayout layout;
  at::Tensor values;  // (channels), compute type
};

Scale scale_of(const char* op, const at::Tensor& input, const at::Tensor& scale,
               at::OptionalIntArrayRef block_size) {
  const at::ScalarType type = ops::compute_type(input);
  Scale result{ops::channel_layout(input, scale.sizes(), block_size), {}};
  ops::check_scale_values(op, ops::contiguous_as(scale, type));
  result.values = ops::channel_values(scale, result.layout, type);
  return result;
}

at::Tensor apply(const char* op, const at::Tensor& input, const at::Tensor& scale,
                 const core::FloatGrid& grid, at::OptionalIntArrayRef block_size,
                 std::uint8_t* mask) {
  const at::Tensor x = ops::dense(input);
  const Scale scales = scale_of(op, x, scale, block_size);
  at::Tensor output = ops::empty_output(x);
  const cpu::FloatFormatArguments arguments{x.const_data_ptr(),
                                            output.mutable_data_ptr(),
                                            mask,
                                            scales.values.const_data_ptr(),
                                            scales.layout.shape,
                                            grid,
                                            ops::is_streamed(output)};
  const cpu::ElementType type = ops::element_type(x);
  const cpu::KernelTable& kernels = ops::kernels();
  const std::int64_t count = x.numel();
  at::parallel_for(0, (count + cpu::kChunk - 1) / cpu::kChunk, ops::task_grain(cpu::kChunk),
                   [&](std::int64_t begin, std::int64_t end) {
                     kernels.float_format(type, arguments, begin * cpu::kChunk,
                                          std::min(end * cpu::kChunk, count));
                   });
  return output;
}

at::Tensor float_cpu(const at::Tensor& input, const at::Tensor& scale, std::int64_t exponent_bits,
                     std::int64_t mantissa_bits, bool finite, bool unsigned_zero, bool saturate,
                     at::OptionalIntArrayRef block_size) {
  constexpr const char* kOp = "quantize_dequantize_float";
  const core::FloatGrid grid =
      ops::check_float(kOp, input, scale, exponent_bits, mantissa_bits, finite, unsigned_zero,
                       saturate, block_size);
  return apply(kOp, input, scale, grid, block_size, nullptr);
}

std::tuple<at::Tensor, at::Tensor> float_mask_cpu(const at::Tensor& input, const at::Tensor& scale,
                                                  std::int64_t exponent_bits,
                                                  std::int64_t mantissa_bits, bool finite,
                                                  bool unsigned_zero, bool saturate,
                                                  at::OptionalIntArrayRef block_size) {
  constexpr const char* kOp = "quantize_dequantize_float";
  const core::FloatGrid grid =
      ops::check_float(kOp, input, scale, exponent_bits, mantissa_bits, finite, unsigned_zero,
                       saturate, block_size);
  at::Tensor mask = at::empty({(input.numel() + 7) / 8}, input.options().dtype(at::kByte));
  at::Tensor output =
      apply(kOp, input, scale, grid, block_size, mask.mutable_data_ptr<std::uint8_t>());
  return {output, mask};
}

std::tuple<at::Tensor, at::Tensor> float_backward_cpu(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale,
    std::int64_t exponent_bits, std::int64_t mantissa_bits, bool finite, bool unsigned_zero,
    bool saturate, at::OptionalIntArrayRef block_size, std::array<bool, 2> output_mask) {
  constexpr const char* kOp = "_quantize_dequantize_float_backward";
  const core::FloatGrid grid =
      ops::check_float(kOp, input, scale, exponent_bits, mantissa_bits, finite, unsigned_zero,
                       saturate, block_size);
  TORCH_CHECK_VALUE(grad.sizes() == input.sizes(), kOp,
                    ": `grad` must have the shape of `input`, got ", grad.sizes(), " and ",
                    input.sizes());
  const at::Tensor x = ops::dense(input);
  const at::Tensor g = ops::in_layout_of(grad, x);
  const Scale scales = scale_of(kOp, x, scale, block_size);
  const cpu::Reduction reduction{scales.layout.shape};
  at::Tensor grad_input = output_mask[0] ? ops::empty_output(x) : at::empty({0}, input.options());
  at::Tensor partials =
      at::empty({reduction.partial_count()}, scale.options().dtype(at::kDouble));
  const cpu::FloatFormatBackwardArguments arguments{
      g.const_data_ptr(),
      x.const_data_ptr(),
      output_mask[0] ? grad_input.mutable_data_ptr() : nullptr,
      scales.values.const_data_ptr(),
      partials.mutable_data_ptr<double>(),
      reduction,
      grid,
      output_mask[0] && ops::is_streamed(grad_input)};
  const cpu::ElementType type = ops::element_type(x);
  const cpu::KernelTable& kernels = ops::kernels();
  at::parallel_for(0, reduction.task_count(), ops::task_grain(reduction.task_size()),
                   [&](std::int64_t begin, std::int64_t end) {
                     kernels.float_format_backward(type, arguments, begin, end);
                   });
  if (!output_mask[1]) return {grad_input, at::empty({0}, scale.options())};
  const at::Tensor sums =
      ops::sum_to_parameter(ops::sum_partials(partials, reduction), scales.layout, scale.sizes());
  return {grad_input, sums.to(scale.scalar_type())};
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, CPU, m) {
  m.impl("quantize_dequantize_float", &aimet::float_cpu);
  m.impl("_quantize_dequantize_float_mask", &aimet::float_mask_cpu);
  m.impl("_quantize_dequantize_float_backward", &aimet::float_backward_cpu);
}
