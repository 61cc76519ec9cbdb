#include "aimet/algorithms/integer_layers.h"

#include "aimet/ops/dispatch.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/matmul.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

namespace aimet {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

constexpr double kExact = 0x1p53;  // float64 holds every integer up to here

void check_is_integer(const char* op, const char* argument, const at::Tensor& tensor) {
  TORCH_CHECK_TYPE(at::isIntegralType(tensor.scalar_type(), /*includeBool=*/false), op, ": `",
                   argument, "` must have an integer dtype, got ", tensor.scalar_type());
}

double largest_magnitude(const at::Tensor& values) {
  return values.numel() == 0 ? 0.0 : values.abs().max().item<double>();
}

// Sums of `terms` products and a bias must be exact.
void check_is_exact(const char* op, const at::Tensor& input, const at::Tensor& weight,
                    const OptionalTensor& bias, std::int64_t terms) {
  const double limit = static_cast<double>(terms) * largest_magnitude(input) *
                           largest_magnitude(weight) +
                       (bias ? largest_magnitude(bias->to(at::kDouble)) : 0.0);
  TORCH_CHECK_VALUE(limit < kExact, op, ": the sums could reach ", limit,
                    ", and beyond 2**53 they are not exact; `input` and `weight` must be codes of "
                    "at most 16 bits");
}

void check_geometry(const char* op, const at::Tensor& input, const at::Tensor& weight,
                    at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                    std::int64_t groups, bool transposed, at::IntArrayRef output_padding) {
  const std::int64_t dims = input.dim() - 2;
  TORCH_CHECK_VALUE(dims >= 1 && dims <= 3, op,
                    ": `input` must be (N, channels, *size) with one to three dimensions of size, "
                    "got shape ",
                    input.sym_sizes());
  TORCH_CHECK_VALUE(weight.dim() == input.dim(), op, ": `weight` must have the dimensions of ",
                    "`input`, ", input.dim(), ", got shape ", weight.sym_sizes());
  const auto count = static_cast<std::size_t>(dims);
  TORCH_CHECK_VALUE(stride.size() == count && dilation.size() == count &&
                        padding.size() == 2 * count,
                    op, ": `stride` and `dilation` must have ", dims, " entries and `padding` ",
                    2 * dims, ", got ", stride, ", ", dilation, " and ", padding);
  TORCH_CHECK_VALUE(output_padding.empty() || (transposed && output_padding.size() == count), op,
                    ": `output_padding` is for transposed convolutions, with ", dims,
                    " entries, got ", output_padding);
  const c10::SymInt channels = input.sym_size(1);
  const c10::SymInt wanted = transposed ? weight.sym_size(0) : weight.sym_size(1) * groups;
  TORCH_CHECK_VALUE(groups >= 1 && channels == wanted, op, ": `weight` of shape ",
                    weight.sym_sizes(), " with groups=", groups, " takes ", wanted,
                    " channels, and `input` has ", channels);
}

void check_bias(const char* op, const OptionalTensor& bias, const c10::SymInt& channels) {
  if (!bias) return;
  check_is_integer(op, "bias", *bias);
  TORCH_CHECK_VALUE(bias->dim() == 1 && bias->sym_size(0) == channels, op,
                    ": `bias` must have shape (", channels, "), got ", bias->sym_sizes());
}

// constant_pad_nd takes the last dimension first.
at::Tensor padded(const at::Tensor& input, at::IntArrayRef padding) {
  const std::size_t dims = padding.size() / 2;
  std::vector<std::int64_t> pads;
  for (std::size_t i = dims; i-- > 0;) {
    pads.push_back(padding[i]);
    pads.push_back(padding[dims + i]);
  }
  return at::constant_pad_nd(input, pads, 0);
}

at::Tensor cropped(at::Tensor output, at::IntArrayRef padding) {
  const std::size_t dims = padding.size() / 2;
  for (std::size_t i = 0; i < dims; ++i) {
    const auto axis = static_cast<std::int64_t>(i) + 2;
    output = output.slice_symint(axis, padding[i], output.sym_size(axis) - padding[dims + i]);
  }
  return output;
}

at::Tensor centered(const at::Tensor& codes, const at::Tensor& zero_point) {
  return codes.to(at::kDouble) - zero_point.to(at::kDouble);
}

// HasData: of tensors with values, the magnitudes are checked.
template <bool HasData>
at::Tensor convolve(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                    std::int64_t input_zero_point, const at::Tensor& weight_zero_point,
                    at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                    std::int64_t groups, bool transposed, at::IntArrayRef output_padding) {
  const char* op = "integer_convolution";
  check_is_integer(op, "input", input);
  check_is_integer(op, "weight", weight);
  check_is_integer(op, "weight_zero_point", weight_zero_point);
  check_geometry(op, input, weight, stride, padding, dilation, groups, transposed, output_padding);
  check_bias(op, bias, transposed ? weight.sym_size(1) * groups : weight.sym_size(0));
  const at::Tensor values = input.to(at::kDouble) - input_zero_point;
  const at::Tensor taps = centered(weight, weight_zero_point);
  if constexpr (HasData) {
    const std::int64_t channels = transposed ? taps.size(1) * groups : taps.size(0);
    check_is_exact(op, values, taps, bias, taps.numel() / std::max<std::int64_t>(1, channels));
  }
  const std::vector<std::int64_t> none(stride.size(), 0);
  const OptionalTensor offset = bias ? OptionalTensor(bias->to(at::kDouble)) : std::nullopt;
  const at::Tensor sums = at::convolution(
      transposed ? values : padded(values, padding), taps, offset, stride, none, dilation,
      transposed, output_padding.empty() ? at::IntArrayRef(none) : output_padding, groups);
  return (transposed ? cropped(sums, padding) : sums).to(at::kLong);
}

template <bool HasData>
at::Tensor multiply(const at::Tensor& input, const at::Tensor& other, const OptionalTensor& bias,
                    std::int64_t input_zero_point, const at::Tensor& other_zero_point) {
  const char* op = "integer_matmul";
  check_is_integer(op, "input", input);
  check_is_integer(op, "other", other);
  check_is_integer(op, "other_zero_point", other_zero_point);
  if (bias) check_is_integer(op, "bias", *bias);
  TORCH_CHECK_VALUE(input.dim() > 0 && other.dim() > 0, op,
                    ": `input` and `other` must have a dimension at least, got shapes ",
                    input.sym_sizes(), " and ", other.sym_sizes());
  const c10::SymInt rows = other.sym_size(other.dim() == 1 ? 0 : -2);
  TORCH_CHECK_VALUE(input.sym_size(-1) == rows, op, ": the last dimension of `input`, ",
                    input.sym_size(-1), ", must be that of the rows of `other`, ", rows);
  const at::Tensor values = input.to(at::kDouble) - input_zero_point;
  const at::Tensor taps = centered(other, other_zero_point);
  if constexpr (HasData) check_is_exact(op, values, taps, bias, values.size(-1));
  const at::Tensor product = at::matmul(values, taps);
  return (bias ? product + bias->to(at::kDouble) : product).to(at::kLong);
}

}  // namespace

at::Tensor integer_convolution(const at::Tensor& input, const at::Tensor& weight,
                               const OptionalTensor& bias, std::int64_t input_zero_point,
                               const at::Tensor& weight_zero_point, at::IntArrayRef stride,
                               at::IntArrayRef padding, at::IntArrayRef dilation,
                               std::int64_t groups, bool transposed,
                               at::IntArrayRef output_padding) {
  static const auto op =
      ops::find_operator<decltype(integer_convolution)>("aimet::integer_convolution");
  return op.call(input, weight, bias, input_zero_point, weight_zero_point, stride, padding,
                 dilation, groups, transposed, output_padding);
}

at::Tensor integer_matmul(const at::Tensor& input, const at::Tensor& other,
                          const OptionalTensor& bias, std::int64_t input_zero_point,
                          const at::Tensor& other_zero_point) {
  static const auto op = ops::find_operator<decltype(integer_matmul)>("aimet::integer_matmul");
  return op.call(input, other, bias, input_zero_point, other_zero_point);
}

std::tuple<at::Tensor, at::Tensor> accumulator_limits(const at::Tensor& weight,
                                                      const OptionalTensor& bias,
                                                      std::int64_t input_min,
                                                      std::int64_t input_max) {
  const char* op = "accumulator_limits";
  check_is_integer(op, "weight", weight);
  TORCH_CHECK_VALUE(weight.dim() >= 1, op, ": `weight` must be (out, *), got no dimension");
  TORCH_CHECK_VALUE(input_min <= input_max, op,
                    ": `input_min` must not exceed `input_max`, got ", input_min, " and ",
                    input_max);
  check_bias(op, bias, weight.sym_size(0));
  const at::Tensor taps = weight.to(at::kLong).flatten(weight.dim() > 1 ? 1 : 0);
  const at::Tensor rows = weight.dim() > 1 ? taps : taps.unsqueeze(1);
  const at::Tensor positive = rows.clamp_min(0).sum(1);
  const at::Tensor negative = rows.clamp_max(0).sum(1);
  at::Tensor least = positive * input_min + negative * input_max;
  at::Tensor largest = positive * input_max + negative * input_min;
  if (bias) {
    least = least + bias->to(at::kLong);
    largest = largest + bias->to(at::kLong);
  }
  return {least, largest};
}

}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, Meta, m) {
  m.impl("integer_convolution", &aimet::convolve<false>);
  m.impl("integer_matmul", &aimet::multiply<false>);
}
TORCH_LIBRARY_IMPL(aimet, CompositeExplicitAutograd, m) {
  m.impl("integer_convolution", &aimet::convolve<true>);
  m.impl("integer_matmul", &aimet::multiply<true>);
}
