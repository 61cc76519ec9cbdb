// C++ API and kernels of requantization.h. The arithmetic is 64-bit integers, which only the CPU
// computes here: tensors of other devices go through it, as a reference may.
#include "aimet/ops/requantization.h"

#include "aimet/core/requantization.h"
#include "aimet/core/rounding.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/dispatch.h"
#include "aimet/ops/kernel_choice.h"

#include <ATen/ExpandUtils.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace aimet {

std::tuple<at::Tensor, at::Tensor> requantization_multiplier(const at::Tensor& ratio) {
  static const auto op =
      ops::find_operator<decltype(requantization_multiplier)>("aimet::requantization_multiplier");
  return op.call(ratio);
}

at::Tensor requantize(const at::Tensor& accumulator, const at::Tensor& multiplier,
                      const at::Tensor& shift, std::int64_t zero_point, std::int64_t qmin,
                      std::int64_t qmax, std::string_view rounding) {
  static const auto op = ops::find_operator<decltype(requantize)>("aimet::requantize");
  return op.call(accumulator, multiplier, shift, zero_point, qmin, qmax, rounding);
}

at::Tensor integer_add(const at::Tensor& input, const at::Tensor& other, double input_scale,
                       std::int64_t input_zero_point, double other_scale,
                       std::int64_t other_zero_point, double output_scale,
                       std::int64_t output_zero_point, std::int64_t qmin, std::int64_t qmax,
                       std::string_view rounding, std::int64_t left_shift) {
  static const auto op = ops::find_operator<decltype(integer_add)>("aimet::integer_add");
  return op.call(input, other, input_scale, input_zero_point, other_scale, other_zero_point,
                 output_scale, output_zero_point, qmin, qmax, rounding, left_shift);
}

namespace {

core::RequantizationRule rule_of(const char* op, std::string_view rounding) {
  if (rounding == "gemmlowp") return core::RequantizationRule::kGemmlowp;
  if (rounding == "single") return core::RequantizationRule::kSingle;
  TORCH_CHECK_VALUE(rounding == "half_even", op,
                    ": `rounding` must be gemmlowp, single or half_even, got ", rounding);
  return core::RequantizationRule::kHalfEven;
}

void check_is_integer(const char* op, const char* argument, const at::Tensor& tensor) {
  TORCH_CHECK_TYPE(at::isIntegralType(tensor.scalar_type(), /*includeBool=*/false), op, ": `",
                   argument, "` must have an integer dtype, got ", tensor.scalar_type());
}

void check_is_ratio(const char* op, const at::Tensor& accumulator, const at::Tensor& multiplier,
                    const at::Tensor& shift) {
  TORCH_CHECK_TYPE(
      multiplier.scalar_type() == at::kInt && shift.scalar_type() == at::kInt, op,
      ": `multiplier` and `shift` must be int32, as requantization_multiplier gives them, got ",
      multiplier.scalar_type(), " and ", shift.scalar_type());
  ops::check_granularity(op, "multiplier", multiplier.sym_sizes(), accumulator.sym_sizes(),
                         std::nullopt);
  TORCH_CHECK_VALUE(shift.sym_sizes() == multiplier.sym_sizes(), op,
                    ": `shift` must have the shape of `multiplier`, ", multiplier.sym_sizes(),
                    ", got ", shift.sym_sizes());
}

void check_scale(const char* op, const char* argument, double scale) {
  TORCH_CHECK_VALUE(scale > 0 && std::isfinite(scale), op, ": `", argument,
                    "` must be positive and finite, got ", scale);
}

// -- requantization_multiplier -------------------------------------------------------------------

std::tuple<at::Tensor, at::Tensor> multiplier_meta(const at::Tensor& ratio) {
  ops::check_is_floating("requantization_multiplier", "ratio", ratio);
  const at::TensorOptions options = ratio.options().dtype(at::kInt);
  return {at::empty_symint(ratio.sym_sizes(), options),
          at::empty_symint(ratio.sym_sizes(), options)};
}

std::tuple<at::Tensor, at::Tensor> multiplier_cpu(const at::Tensor& ratio) {
  const char* op = "requantization_multiplier";
  ops::check_is_floating(op, "ratio", ratio);
  const at::Tensor ratios = ratio.detach().to(at::kCPU, at::kDouble).contiguous();
  at::Tensor multiplier = at::empty(ratios.sizes(), ratios.options().dtype(at::kInt));
  at::Tensor shift = at::empty(ratios.sizes(), multiplier.options());
  const double* from = ratios.const_data_ptr<double>();
  auto* to_multiplier = multiplier.mutable_data_ptr<std::int32_t>();
  auto* to_shift = shift.mutable_data_ptr<std::int32_t>();
  for (std::int64_t i = 0; i < ratios.numel(); ++i) {
    TORCH_CHECK_VALUE(from[i] >= 0 && from[i] < core::kRatioLimit, op,
                      ": `ratio` must not be negative and be less than 2**30, got ", from[i],
                      "; it is (input scale * weight scale / output scale)");
    const core::FixedPoint point = core::fixed_point(from[i]);
    to_multiplier[i] = point.multiplier;
    to_shift[i] = point.shift;
  }
  return {multiplier.to(ratio.device()), shift.to(ratio.device())};
}

// -- requantize ----------------------------------------------------------------------------------

at::Tensor requantize_meta(const at::Tensor& accumulator, const at::Tensor& multiplier,
                           const at::Tensor& shift, std::int64_t, std::int64_t qmin,
                           std::int64_t qmax, std::string_view rounding) {
  const char* op = "requantize";
  check_is_integer(op, "accumulator", accumulator);
  check_is_ratio(op, accumulator, multiplier, shift);
  ops::check_grid(op, qmin, qmax);
  rule_of(op, rounding);
  return at::empty_symint(accumulator.sym_sizes(), accumulator.options().dtype(at::kInt));
}

at::Tensor requantize_cpu(const at::Tensor& accumulator, const at::Tensor& multiplier,
                          const at::Tensor& shift, std::int64_t zero_point, std::int64_t qmin,
                          std::int64_t qmax, std::string_view rounding) {
  const char* op = "requantize";
  check_is_integer(op, "accumulator", accumulator);
  check_is_ratio(op, accumulator, multiplier, shift);
  ops::check_grid(op, qmin, qmax);
  TORCH_CHECK_VALUE(qmax <= std::int64_t{0x7fffffff}, op,
                    ": `qmax` must fit the result's int32, got ", qmax);
  const core::RequantizationRule rule = rule_of(op, rounding);
  const at::Tensor sums = accumulator.to(at::kCPU, at::kLong).contiguous();
  const at::Tensor multipliers = multiplier.to(at::kCPU).expand_as(sums).contiguous();
  const at::Tensor shifts = shift.to(at::kCPU).expand_as(sums).contiguous();
  at::Tensor result = at::empty(sums.sizes(), sums.options().dtype(at::kInt));
  const auto* from = sums.const_data_ptr<std::int64_t>();
  const auto* factors = multipliers.const_data_ptr<std::int32_t>();
  const auto* exponents = shifts.const_data_ptr<std::int32_t>();
  auto* to = result.mutable_data_ptr<std::int32_t>();
  at::parallel_for(0, sums.numel(), ops::kGrainSize, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      TORCH_CHECK_VALUE(factors[i] >= 0 && exponents[i] >= -31 && exponents[i] <= 30, op,
                        ": `multiplier` must not be negative and `shift` lie in [-31, 30], got ",
                        factors[i], " and ", exponents[i]);
      to[i] = static_cast<std::int32_t>(core::requantized_code(
          from[i], {factors[i], exponents[i]}, zero_point, qmin, qmax, rule));
    }
  });
  return result.to(accumulator.device());
}

// -- integer_add ---------------------------------------------------------------------------------

core::RequantizationRule check_add(const at::Tensor& input, const at::Tensor& other,
                                   double input_scale, double other_scale, double output_scale,
                                   std::int64_t qmin, std::int64_t qmax, std::string_view rounding,
                                   std::int64_t left_shift) {
  const char* op = "integer_add";
  check_is_integer(op, "input", input);
  check_is_integer(op, "other", other);
  check_scale(op, "input_scale", input_scale);
  check_scale(op, "other_scale", other_scale);
  check_scale(op, "output_scale", output_scale);
  ops::check_grid(op, qmin, qmax);
  TORCH_CHECK_VALUE(qmax <= std::int64_t{0x7fffffff}, op,
                    ": `qmax` must fit the result's int32, got ", qmax);
  TORCH_CHECK_VALUE(left_shift >= 0 && left_shift <= 30, op,
                    ": `left_shift` must lie in [0, 30], got ", left_shift);
  const double largest = 2 * std::max(input_scale, other_scale) / output_scale;
  TORCH_CHECK_VALUE(std::ldexp(largest, -static_cast<int>(left_shift)) < core::kRatioLimit, op,
                    ": `output_scale` is too small beside those of the operands, got ",
                    output_scale, " for ", input_scale, " and ", other_scale);
  return rule_of(op, rounding);
}

at::Tensor add_meta(const at::Tensor& input, const at::Tensor& other, double input_scale,
                    std::int64_t, double other_scale, std::int64_t, double output_scale,
                    std::int64_t, std::int64_t qmin, std::int64_t qmax, std::string_view rounding,
                    std::int64_t left_shift) {
  check_add(input, other, input_scale, other_scale, output_scale, qmin, qmax, rounding, left_shift);
  return at::empty_symint(at::infer_size_symint(input.sym_sizes(), other.sym_sizes()),
                          input.options().dtype(at::kInt));
}

at::Tensor add_cpu(const at::Tensor& input, const at::Tensor& other, double input_scale,
                   std::int64_t input_zero_point, double other_scale, std::int64_t other_zero_point,
                   double output_scale, std::int64_t output_zero_point, std::int64_t qmin,
                   std::int64_t qmax, std::string_view rounding, std::int64_t left_shift) {
  const core::RequantizationRule rule = check_add(
      input, other, input_scale, other_scale, output_scale, qmin, qmax, rounding, left_shift);
  const auto shift = static_cast<int>(left_shift);
  const core::AdditionRatios ratios =
      core::addition_ratios(input_scale, other_scale, output_scale, shift);
  const std::vector<std::int64_t> sizes = at::infer_size(input.sizes(), other.sizes());
  const at::Tensor a = input.to(at::kCPU, at::kLong).expand(sizes).contiguous();
  const at::Tensor b = other.to(at::kCPU, at::kLong).expand(sizes).contiguous();
  at::Tensor result = at::empty(sizes, a.options().dtype(at::kInt));
  const auto* first = a.const_data_ptr<std::int64_t>();
  const auto* second = b.const_data_ptr<std::int64_t>();
  auto* to = result.mutable_data_ptr<std::int32_t>();
  at::parallel_for(0, a.numel(), ops::kGrainSize, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t sum =
          core::requantized_sum(first[i] - input_zero_point, second[i] - other_zero_point, ratios,
                                shift, rule) +
          output_zero_point;
      to[i] = static_cast<std::int32_t>(core::clamp(sum, qmin, qmax));
    }
  });
  return result.to(input.device());
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, CPU, m) {
  m.impl("requantization_multiplier", &aimet::multiplier_cpu);
  m.impl("requantize", &aimet::requantize_cpu);
  m.impl("integer_add", &aimet::add_cpu);
}
TORCH_LIBRARY_IMPL(aimet, Meta, m) {
  m.impl("requantization_multiplier", &aimet::multiplier_meta);
  m.impl("requantize", &aimet::requantize_meta);
  m.impl("integer_add", &aimet::add_meta);
}
TORCH_LIBRARY_IMPL(aimet, CompositeExplicitAutograd, m) {
  m.impl("requantization_multiplier", &aimet::multiplier_cpu);
  m.impl("requantize", &aimet::requantize_cpu);
  m.impl("integer_add", &aimet::add_cpu);
}
