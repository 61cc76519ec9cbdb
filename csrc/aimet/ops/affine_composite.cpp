// Fallback of the affine operators for devices without kernels of ours (MPS, XPU, CUDA when not
// built in).
#include "aimet/ops/affine_composite.h"

#include "aimet/ops/affine.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/min_max.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bitwise_and.h>
#include <ATen/ops/bitwise_right_shift.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <vector>

namespace aimet::ops {

std::vector<c10::SymInt> blocked_sizes(c10::SymIntArrayRef sizes,
                                       c10::SymIntArrayRef parameter_sizes) {
  const std::size_t skipped = sizes.size() - parameter_sizes.size();
  std::vector<c10::SymInt> result(sizes.begin(),
                                  sizes.begin() + static_cast<std::ptrdiff_t>(skipped));
  for (std::size_t dim = 0; dim < parameter_sizes.size(); ++dim) {
    const c10::SymInt& count = parameter_sizes[dim];
    result.push_back(count);
    result.push_back(count == 0 ? c10::SymInt(1) : sizes[skipped + dim] / count);
  }
  return result;
}

std::vector<std::int64_t> shared_dims(std::int64_t input_dim, std::int64_t parameter_dim) {
  const std::int64_t skipped = input_dim - parameter_dim;
  std::vector<std::int64_t> dims;
  for (std::int64_t dim = 0; dim < skipped; ++dim) dims.push_back(dim);
  for (std::int64_t dim = 0; dim < parameter_dim; ++dim) dims.push_back(skipped + 2 * dim + 1);
  return dims;
}

at::Tensor by_parameter(const at::Tensor& input, c10::SymIntArrayRef parameter_sizes) {
  const std::int64_t rank = static_cast<std::int64_t>(parameter_sizes.size());
  const std::int64_t skipped = input.dim() - rank;
  std::vector<std::int64_t> order;
  for (std::int64_t dim = 0; dim < rank; ++dim) order.push_back(skipped + 2 * dim);
  for (const std::int64_t dim : shared_dims(input.dim(), rank)) order.push_back(dim);
  c10::SymInt parameter_count = 1;
  for (const c10::SymInt& size : parameter_sizes) parameter_count = parameter_count * size;
  return input.reshape_symint(blocked_sizes(input.sym_sizes(), parameter_sizes))
      .permute(order)
      .reshape_symint({parameter_count, input.sym_numel() / parameter_count});
}

at::Tensor broadcastable(const at::Tensor& parameter, const at::Tensor& input,
                         c10::SymIntArrayRef parameter_sizes, at::OptionalIntArrayRef block_size) {
  if (!block_size.has_value() || parameter.dim() == 0) return parameter;
  const std::size_t rank = parameter_sizes.size();
  const std::vector<c10::SymInt> all = blocked_sizes(input.sym_sizes(), parameter_sizes);
  const std::vector<c10::SymInt> expanded(all.end() - static_cast<std::ptrdiff_t>(2 * rank),
                                          all.end());
  std::vector<c10::SymInt> split;
  for (std::size_t dim = 0; dim < rank; ++dim) {
    split.push_back(expanded[2 * dim]);
    split.push_back(1);
  }
  const at::Tensor full = parameter.expand_symint(parameter_sizes);
  return full.reshape_symint(split).expand_symint(expanded).reshape_symint(
      input.sym_sizes().slice(input.dim() - static_cast<std::int64_t>(rank)));
}

at::Tensor sum_to_blocks(const at::Tensor& values, c10::SymIntArrayRef parameter_sizes) {
  if (values.dim() == 0) return values;
  const at::Tensor split =
      values.reshape_symint(blocked_sizes(values.sym_sizes(), parameter_sizes));
  return split.sum(shared_dims(values.dim(), static_cast<std::int64_t>(parameter_sizes.size())));
}

at::ScalarType compute_type_of(const at::Tensor& input) {
  return input.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

Affine affine_of(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& offset,
                 at::OptionalIntArrayRef block_size) {
  const at::ScalarType type = compute_type_of(input);
  const at::TensorOptions options = input.options().dtype(type);
  const auto parameter = [&](const at::Tensor& tensor) {
    return broadcastable(tensor.to(options), input, scale.sym_sizes(), block_size);
  };
  return {input.to(type), parameter(scale), parameter(offset)};
}

at::Tensor result_like(const at::Tensor& input, const at::Tensor& values) {
  return at::empty_like(input).copy_(values);
}

namespace {

at::Tensor bit_weights(const at::Tensor& like) {
  return at::arange(8, like.options().dtype(at::kByte));
}

// A one-dimensional view of the elements in memory order; `tensor` has no gaps.
at::Tensor in_memory_order(const at::Tensor& tensor) {
  return tensor.as_strided_symint({tensor.sym_numel()}, {1});
}

}  // namespace

at::Tensor packed_mask(const at::Tensor& output, const at::Tensor& inside) {
  at::Tensor flags = at::empty_like(output, output.options().dtype(at::kByte)).copy_(inside);
  const c10::SymInt missing = (8 - flags.sym_numel() % 8) % 8;
  flags = at::constant_pad_nd_symint(in_memory_order(flags), {0, missing}, 0).view({-1, 8});
  return flags.bitwise_left_shift(bit_weights(flags)).sum({1}, false, at::kByte);
}

at::Tensor gradient_of_parameter(const at::Tensor& values, const at::Tensor& parameter,
                                 c10::SymIntArrayRef scale_sizes) {
  at::Tensor sums = sum_to_blocks(values, scale_sizes);
  if (parameter.sym_sizes() != sums.sym_sizes())
    sums = sums.sum().reshape_symint(parameter.sym_sizes());
  return sums.to(parameter.options());
}

}  // namespace aimet::ops

namespace aimet {
namespace {

// Contract: clamp keeps NaN (at::clamp does), rounding is at::round (ties to even).
at::Tensor codes(const ops::Affine& a) {
  return (a.input / a.scale).round() - a.offset;
}

at::Tensor inside(const at::Tensor& codes, std::int64_t qmin, std::int64_t qmax) {
  return (codes >= qmin).logical_and_(codes <= qmax);
}

at::Tensor quantize_composite(const at::Tensor& input, const at::Tensor& scale,
                              const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
                              at::OptionalIntArrayRef block_size) {
  ops::check_affine("quantize", input, scale, offset, block_size);
  ops::check_grid("quantize", qmin, qmax);
  return ops::result_like(input,
                     codes(ops::affine_of(input, scale, offset, block_size)).clamp_(qmin, qmax));
}

at::Tensor dequantize_composite(const at::Tensor& input, const at::Tensor& scale,
                                const at::Tensor& offset, at::OptionalIntArrayRef block_size) {
  ops::check_affine("dequantize", input, scale, offset, block_size);
  const ops::Affine a = ops::affine_of(input, scale, offset, block_size);
  return ops::result_like(input, (a.input + a.offset) * a.scale);
}

std::tuple<at::Tensor, at::Tensor> values_and_codes(const at::Tensor& input,
                                                    const at::Tensor& scale,
                                                    const at::Tensor& offset, std::int64_t qmin,
                                                    std::int64_t qmax,
                                                    at::OptionalIntArrayRef block_size) {
  ops::check_affine("quantize_dequantize", input, scale, offset, block_size);
  ops::check_grid("quantize_dequantize", qmin, qmax);
  const ops::Affine a = ops::affine_of(input, scale, offset, block_size);
  const at::Tensor unclamped = codes(a);
  return {ops::result_like(input, (unclamped.clamp(qmin, qmax) + a.offset) * a.scale), unclamped};
}

at::Tensor quantize_dequantize_composite(const at::Tensor& input, const at::Tensor& scale,
                                         const at::Tensor& offset, std::int64_t qmin,
                                         std::int64_t qmax, at::OptionalIntArrayRef block_size) {
  return std::get<0>(values_and_codes(input, scale, offset, qmin, qmax, block_size));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> with_limits_composite(
    const at::Tensor& input, const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin,
    std::int64_t qmax, at::OptionalIntArrayRef block_size) {
  at::Tensor output = quantize_dequantize(input, scale, offset, qmin, qmax, block_size);
  auto [low, high] = min_max(input, scale.sym_sizes(), block_size);
  return {output, low, high};
}

std::tuple<at::Tensor, at::Tensor> mask_composite(const at::Tensor& input, const at::Tensor& scale,
                                                  const at::Tensor& offset, std::int64_t qmin,
                                                  std::int64_t qmax,
                                                  at::OptionalIntArrayRef block_size) {
  auto [output, unclamped] = values_and_codes(input, scale, offset, qmin, qmax, block_size);
  at::Tensor mask = ops::packed_mask(output, inside(unclamped, qmin, qmax));
  return {output, mask};
}

at::Tensor mask_backward_composite(const at::Tensor& grad, const at::Tensor& mask) {
  const at::Tensor dense =
      grad.is_non_overlapping_and_dense() ? grad : at::empty_like(grad).copy_(grad);
  const at::Tensor bits =
      at::bitwise_right_shift(mask.unsqueeze(1), ops::bit_weights(mask)).bitwise_and(1).view({-1});
  const at::Tensor flags = bits.narrow_symint(0, 0, dense.sym_numel()).to(at::kBool);
  at::Tensor output = at::empty_like(dense);
  ops::in_memory_order(output).copy_(at::where(flags, ops::in_memory_order(dense), 0));
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_composite(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale,
    const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
    at::OptionalIntArrayRef block_size, std::array<bool, 3> output_mask) {
  ops::check_affine("_quantize_dequantize_backward", input, scale, offset, block_size);
  ops::check_grid("_quantize_dequantize_backward", qmin, qmax);
  const ops::Affine a = ops::affine_of(input, scale, offset, block_size);
  const at::Tensor ratio = a.input / a.scale;
  const at::Tensor rounded = ratio.round();
  const at::Tensor unclamped = rounded - a.offset;
  const at::Tensor mask = inside(unclamped, qmin, qmax);
  const at::Tensor g = grad.to(a.input.scalar_type());
  at::Tensor grad_input =
      output_mask[0] ? ops::result_like(input, at::where(mask, g, 0)) : at::empty({0}, input.options());
  at::Tensor grad_scale = at::empty({0}, scale.options());
  if (output_mask[1]) {
    const at::Tensor limit = unclamped.clamp(qmin, qmax) + a.offset;
    grad_scale = ops::gradient_of_parameter(g * at::where(mask, rounded - ratio, limit), scale,
                                            scale.sym_sizes());
  }
  at::Tensor grad_offset = at::empty({0}, offset.options());
  if (output_mask[2]) {
    grad_offset =
        ops::gradient_of_parameter(at::where(mask, 0, g * a.scale), offset, scale.sym_sizes());
  }
  return {grad_input, grad_scale, grad_offset};
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, CompositeExplicitAutograd, m) {
  m.impl("quantize", &aimet::quantize_composite);
  m.impl("dequantize", &aimet::dequantize_composite);
  m.impl("quantize_dequantize", &aimet::quantize_dequantize_composite);
  m.impl("quantize_dequantize_min_max", &aimet::with_limits_composite);
  m.impl("_quantize_dequantize_mask", &aimet::mask_composite);
  m.impl("_quantize_dequantize_mask_backward", &aimet::mask_backward_composite);
  m.impl("_quantize_dequantize_backward", &aimet::backward_composite);
}
