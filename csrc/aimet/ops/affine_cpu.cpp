// CPU kernels of the affine operators: checks, layout, threads; the loops are in
// cpu/affine*_kernel.cpp.
#include "aimet/ops/affine.h"
#include "aimet/ops/clamped_affine.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/kernel_choice.h"
#include "aimet/ops/layout.h"
#include "aimet/ops/limits_reduction.h"
#include "aimet/ops/output_memory.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <optional>

namespace aimet {
namespace {

core::ClampFirst clamp_first(std::optional<double> low, std::optional<double> high) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  return {low.has_value() || high.has_value(), low.value_or(-kInfinity), high.value_or(kInfinity)};
}

struct Parameters {
  ops::ChannelLayout layout;
  at::Tensor scale;   // (channels), compute type
  at::Tensor offset;  // (channels), compute type
};

Parameters parameters_of(const char* op, const at::Tensor& input, const at::Tensor& scale,
                         const at::Tensor& offset, at::OptionalIntArrayRef block_size) {
  const at::ScalarType type = ops::compute_type(input);
  Parameters result{ops::channel_layout(input, scale.sizes(), block_size), {}, {}};
  ops::check_scale_values(op, ops::contiguous_as(scale, type));
  result.scale = ops::channel_values(scale, result.layout, type);
  result.offset = ops::channel_values(offset, result.layout, type);
  return result;
}

// Runs body(begin, end) over the elements [0, count), cut at multiples of kChunk.
template <typename Body>
void for_each_chunk(std::int64_t count, const Body& body) {
  if (count <= ops::kGrainSize) return body(0, count);  // the way to threads costs something too
  const std::int64_t chunk_count = (count + cpu::kChunk - 1) / cpu::kChunk;
  at::parallel_for(0, chunk_count, ops::task_grain(cpu::kChunk),
                   [&](std::int64_t begin, std::int64_t end) {
                     body(begin * cpu::kChunk, std::min(end * cpu::kChunk, count));
                   });
}

// What all forward operators do before they compute: memory order, parameters, output.
struct Forward {
  Forward(const char* op, cpu::AffineMode affine_mode, const at::Tensor& input,
          const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
          at::OptionalIntArrayRef block_size, std::uint8_t* mask,
          const core::ClampFirst& clamp = {})
      : mode(affine_mode),
        x(ops::dense(input)),
        parameters(parameters_of(op, x, scale, offset, block_size)),
        output(ops::empty_output(x)),
        type(ops::element_type(x)),
        arguments{x.const_data_ptr(),
                  output.mutable_data_ptr(),
                  mask,
                  parameters.scale.const_data_ptr(),
                  parameters.offset.const_data_ptr(),
                  parameters.layout.shape,
                  static_cast<double>(qmin),
                  static_cast<double>(qmax),
                  ops::is_streamed(output),
                  clamp} {}

  void run(std::int64_t begin, std::int64_t end) const {
    ops::kernels().affine(type, mode, arguments, begin, end);
  }

  cpu::AffineMode mode;
  at::Tensor x;
  Parameters parameters;
  at::Tensor output;
  cpu::ElementType type;
  cpu::AffineArguments arguments;
};

at::Tensor apply(const char* op, cpu::AffineMode mode, const at::Tensor& input,
                 const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin,
                 std::int64_t qmax, at::OptionalIntArrayRef block_size, std::uint8_t* mask,
                 const core::ClampFirst& clamp = {}) {
  const Forward forward(op, mode, input, scale, offset, qmin, qmax, block_size, mask, clamp);
  for_each_chunk(forward.x.numel(),
                 [&](std::int64_t begin, std::int64_t end) { forward.run(begin, end); });
  return forward.output;
}

// Long runs: limits and codes in one loop. Runs that begin within a line of the cache would not be
// streamed well.
bool is_one_loop(const cpu::Reduction& reduction) {
  constexpr std::int64_t kLine = 64;
  const std::int64_t runs = reduction.shape.outer * reduction.shape.channels;
  return !reduction.is_by_columns() && reduction.shape.inner >= cpu::kChunk &&
         (runs == 1 || reduction.shape.inner % kLine == 0);
}

// Otherwise the limits of a few chunks, then their codes, while they are in the cache. Tasks of the
// reduction that follow each other cover elements that follow each other, if whole blocks of rows
// are taken.
std::tuple<at::Tensor, at::Tensor, at::Tensor> with_limits_cpu(
    const at::Tensor& input, const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin,
    std::int64_t qmax, at::OptionalIntArrayRef block_size) {
  constexpr const char* kOp = "quantize_dequantize_min_max";
  constexpr std::int64_t kUnit = 8 * cpu::kChunk;
  ops::check_affine(kOp, input, scale, offset, block_size);
  ops::check_grid(kOp, qmin, qmax);
  const Forward forward(kOp, cpu::AffineMode::kQuantizeDequantize, input, scale, offset, qmin, qmax,
                        block_size, nullptr);
  const ops::LimitsReduction limits(forward.x, forward.parameters.layout);
  const cpu::Reduction& reduction = limits.reduction();
  if (is_one_loop(reduction)) {
    at::parallel_for(0, reduction.task_count(), ops::task_grain(reduction.task_size()),
                     [&](std::int64_t begin, std::int64_t end) {
                       ops::kernels().affine_limits(forward.type, forward.arguments,
                                                    limits.arguments(), begin, end);
                     });
    auto [low, high] = limits.result(scale.sizes());
    return {forward.output, low, high};
  }
  const std::int64_t per_unit =
      reduction.is_by_columns()
          ? std::max<std::int64_t>(1, reduction.column_tiles())
          : kUnit / std::clamp<std::int64_t>(reduction.shape.inner, 1, cpu::kChunk);
  const std::int64_t units = (reduction.task_count() + per_unit - 1) / per_unit;
  at::parallel_for(
      0, units, ops::task_grain(reduction.task_size() * per_unit),
      [&](std::int64_t first_unit, std::int64_t last_unit) {
        for (std::int64_t unit = first_unit; unit < last_unit; ++unit) {
          const std::int64_t begin = unit * per_unit;
          const std::int64_t end = std::min(begin + per_unit, reduction.task_count());
          limits.run(begin, end);
          forward.run(reduction.first_element(begin), reduction.first_element(end));
        }
      });
  auto [low, high] = limits.result(scale.sizes());
  return {forward.output, low, high};
}

at::Tensor quantize_cpu(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& offset,
                        std::int64_t qmin, std::int64_t qmax, at::OptionalIntArrayRef block_size) {
  ops::check_affine("quantize", input, scale, offset, block_size);
  ops::check_grid("quantize", qmin, qmax);
  return apply("quantize", cpu::AffineMode::kQuantize, input, scale, offset, qmin, qmax, block_size,
               nullptr);
}

at::Tensor dequantize_cpu(const at::Tensor& input, const at::Tensor& scale,
                          const at::Tensor& offset, at::OptionalIntArrayRef block_size) {
  ops::check_affine("dequantize", input, scale, offset, block_size);
  return apply("dequantize", cpu::AffineMode::kDequantize, input, scale, offset, 0, 0, block_size,
               nullptr);
}

at::Tensor quantize_dequantize_cpu(const at::Tensor& input, const at::Tensor& scale,
                                   const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
                                   at::OptionalIntArrayRef block_size) {
  ops::check_affine("quantize_dequantize", input, scale, offset, block_size);
  ops::check_grid("quantize_dequantize", qmin, qmax);
  return apply("quantize_dequantize", cpu::AffineMode::kQuantizeDequantize, input, scale, offset,
               qmin, qmax, block_size, nullptr);
}

std::tuple<at::Tensor, at::Tensor> mask_cpu(const at::Tensor& input, const at::Tensor& scale,
                                            const at::Tensor& offset, std::int64_t qmin,
                                            std::int64_t qmax, at::OptionalIntArrayRef block_size) {
  ops::check_affine("quantize_dequantize", input, scale, offset, block_size);
  ops::check_grid("quantize_dequantize", qmin, qmax);
  at::Tensor mask = at::empty({(input.numel() + 7) / 8}, input.options().dtype(at::kByte));
  at::Tensor output =
      apply("quantize_dequantize", cpu::AffineMode::kQuantizeDequantize, input, scale, offset, qmin,
            qmax, block_size, mask.mutable_data_ptr<std::uint8_t>());
  return {output, mask};
}

at::Tensor clamped_cpu(const at::Tensor& input, std::optional<double> clamp_min,
                       std::optional<double> clamp_max, const at::Tensor& scale,
                       const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
                       at::OptionalIntArrayRef block_size) {
  ops::check_clamped(ops::kClamped, input, clamp_min, clamp_max, scale, offset, qmin, qmax,
                     block_size);
  return apply(ops::kClamped, cpu::AffineMode::kQuantizeDequantize, input, scale, offset, qmin,
               qmax, block_size, nullptr, clamp_first(clamp_min, clamp_max));
}

std::tuple<at::Tensor, at::Tensor> clamped_mask_cpu(
    const at::Tensor& input, std::optional<double> clamp_min, std::optional<double> clamp_max,
    const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
    at::OptionalIntArrayRef block_size) {
  ops::check_clamped(ops::kClamped, input, clamp_min, clamp_max, scale, offset, qmin, qmax,
                     block_size);
  at::Tensor mask = at::empty({(input.numel() + 7) / 8}, input.options().dtype(at::kByte));
  at::Tensor output =
      apply(ops::kClamped, cpu::AffineMode::kQuantizeDequantize, input, scale, offset, qmin, qmax,
            block_size, mask.mutable_data_ptr<std::uint8_t>(), clamp_first(clamp_min, clamp_max));
  return {output, mask};
}

at::Tensor mask_backward_cpu(const at::Tensor& grad, const at::Tensor& mask) {
  const at::Tensor g = ops::dense(grad);
  TORCH_CHECK_VALUE(mask.scalar_type() == at::kByte && mask.numel() == (g.numel() + 7) / 8,
                    "_quantize_dequantize_mask_backward: `mask` must be uint8 with one bit for "
                    "each element of `grad`, got ",
                    mask.numel(), " elements of ", mask.scalar_type(), " for grad of shape ",
                    g.sizes());
  at::Tensor output = ops::empty_output(g);
  const at::Tensor bits = mask.contiguous();
  const cpu::KernelTable& kernels = ops::kernels();
  for_each_chunk(g.numel(), [&](std::int64_t begin, std::int64_t end) {
    kernels.select_by_mask(static_cast<int>(g.element_size()), g.const_data_ptr(),
                           bits.const_data_ptr<std::uint8_t>(), output.mutable_data_ptr(), begin,
                           end);
  });
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> gradients(
    const char* op, const at::Tensor& grad, const at::Tensor& input, const core::ClampFirst& clamp,
    const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
    at::OptionalIntArrayRef block_size, std::array<bool, 3> output_mask) {
  ops::check_affine(op, input, scale, offset, block_size);
  ops::check_grid(op, qmin, qmax);
  TORCH_CHECK_VALUE(grad.sizes() == input.sizes(), op,
                    ": `grad` must have the shape of `input`, got ", grad.sizes(), " and ",
                    input.sizes());
  const at::Tensor x = ops::dense(input);
  const at::Tensor g = ops::in_layout_of(grad, x);
  const Parameters parameters = parameters_of(op, x, scale, offset, block_size);
  const cpu::Reduction reduction{parameters.layout.shape};
  at::Tensor grad_input = output_mask[0] ? ops::empty_output(x) : at::empty({0}, input.options());
  const at::TensorOptions double_options = scale.options().dtype(at::kDouble);
  at::Tensor partial_scale = at::empty({reduction.partial_count()}, double_options);
  at::Tensor partial_offset = at::empty({reduction.partial_count()}, double_options);
  const cpu::AffineBackwardArguments arguments{
      g.const_data_ptr(),
      x.const_data_ptr(),
      output_mask[0] ? grad_input.mutable_data_ptr() : nullptr,
      parameters.scale.const_data_ptr(),
      parameters.offset.const_data_ptr(),
      partial_scale.mutable_data_ptr<double>(),
      partial_offset.mutable_data_ptr<double>(),
      reduction,
      static_cast<double>(qmin),
      static_cast<double>(qmax),
      output_mask[0] && ops::is_streamed(grad_input),
      clamp};
  const cpu::ElementType type = ops::element_type(x);
  const cpu::KernelTable& kernels = ops::kernels();
  at::parallel_for(0, reduction.task_count(), ops::task_grain(reduction.task_size()),
                   [&](std::int64_t begin, std::int64_t end) {
                     kernels.affine_backward(type, arguments, begin, end);
                   });

  const auto reduced = [&](bool is_wanted, const at::Tensor& partials,
                           const at::Tensor& parameter) {
    if (!is_wanted) return at::empty({0}, parameter.options());
    at::Tensor sums =
        ops::sum_to_parameter(ops::sum_partials(partials, reduction), parameters.layout, scale.sizes());
    if (parameter.numel() == 1) {
      sums = ops::sum_partials(sums.flatten(), {{1, 1, sums.numel() * cpu::kChunk}})
                 .reshape(parameter.sizes());
    }
    return sums.to(parameter.scalar_type());
  };
  return {grad_input, reduced(output_mask[1], partial_scale, scale),
          reduced(output_mask[2], partial_offset, offset)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_cpu(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale,
    const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
    at::OptionalIntArrayRef block_size, std::array<bool, 3> output_mask) {
  return gradients("_quantize_dequantize_backward", grad, input, {}, scale, offset, qmin, qmax,
                   block_size, output_mask);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> clamped_backward_cpu(
    const at::Tensor& grad, const at::Tensor& input, std::optional<double> clamp_min,
    std::optional<double> clamp_max, const at::Tensor& scale, const at::Tensor& offset,
    std::int64_t qmin, std::int64_t qmax, at::OptionalIntArrayRef block_size,
    std::array<bool, 3> output_mask) {
  ops::check_clamped(ops::kClampedBackward, input, clamp_min, clamp_max, scale, offset, qmin, qmax,
                     block_size);
  return gradients(ops::kClampedBackward, grad, input, clamp_first(clamp_min, clamp_max), scale,
                   offset, qmin, qmax, block_size, output_mask);
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, CPU, m) {
  m.impl("quantize", &aimet::quantize_cpu);
  m.impl("dequantize", &aimet::dequantize_cpu);
  m.impl("quantize_dequantize", &aimet::quantize_dequantize_cpu);
  m.impl("quantize_dequantize_min_max", &aimet::with_limits_cpu);
  m.impl("_quantize_dequantize_mask", &aimet::mask_cpu);
  m.impl("_quantize_dequantize_mask_backward", &aimet::mask_backward_cpu);
  m.impl("_quantize_dequantize_backward", &aimet::backward_cpu);
  m.impl("clamp_quantize_dequantize", &aimet::clamped_cpu);
  m.impl("_clamp_quantize_dequantize_mask", &aimet::clamped_mask_cpu);
  m.impl("_clamp_quantize_dequantize_backward", &aimet::clamped_backward_cpu);
}
