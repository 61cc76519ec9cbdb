#include "aimet/simulation/fake_quantize.h"

#include "aimet/encodings/float_formats.h"
#include "aimet/ops/affine.h"
#include "aimet/ops/float_format.h"

#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <c10/util/Exception.h>

#include <algorithm>

namespace aimet::simulation {
namespace {

using Sizes = std::vector<std::int64_t>;
using encodings::TensorEncoding;

std::int64_t count_of(const TensorEncoding& encoding) {
  return static_cast<std::int64_t>(!encoding.has_two_levels() ? encoding.scale.size()
                                   : encoding.is_lpbq() ? encoding.per_block_int_scale.size()
                                                        : encoding.per_block_float_scale.size());
}

constexpr core::FloatFormat kFloat16 = {5, 10, false, false};

core::FloatFormat format_of(const TensorEncoding& encoding) {
  if (!encoding.has_scale()) return kFloat16;
  const core::FloatFormat* format = encodings::find_float_format(encoding.float_format);
  TORCH_CHECK_VALUE(format != nullptr, "QuantSim: the entry of `", encoding.name,
                    "` has the unknown format `", encoding.float_format, "`");
  return *format;
}

// Scales in float32, as Python holds them: of two levels their products.
std::vector<float> scales_of(const TensorEncoding& encoding) {
  std::vector<float> scales;
  const auto count = static_cast<size_t>(count_of(encoding));
  const size_t blocks = count / encoding.scale.size();
  for (size_t i = 0; i < count; ++i) {
    auto scale = static_cast<float>(encoding.scale[i / blocks]);
    if (encoding.is_lpbq()) {
      scale *= static_cast<float>(encoding.per_block_int_scale[i]);
    } else if (encoding.has_two_levels()) {
      scale *= static_cast<float>(encoding.per_block_float_scale[i]);
    }
    scales.push_back(scale);
  }
  return scales;
}

// Whether `shape` is aligned to the tensor's, and not just a count (document.h).
bool tells_axes(const TensorEncoding& encoding) {
  return encoding.shape.size() > 1 || encoding.channel_axis.has_value();
}

std::int64_t from_front(std::int64_t axis, std::int64_t rank) {
  return axis < 0 ? axis + rank : axis;
}

// The axis of `sizes` that has one scale for each position.
std::int64_t channel_axis_of(const TensorEncoding& encoding, c10::IntArrayRef sizes,
                             const ScaleAxes& axes) {
  const auto rank = static_cast<std::int64_t>(sizes.size());
  const std::int64_t count = count_of(encoding);
  if (encoding.channel_axis.has_value()) return from_front(*encoding.channel_axis, rank);
  if (axes.channel < rank && sizes[static_cast<size_t>(axes.channel)] == count) return axes.channel;
  TORCH_CHECK_VALUE(std::count(sizes.begin(), sizes.end(), count) == 1,
                    "QuantSim: the entry of `", encoding.name, "` has ", count,
                    " scales and tells no axis, and the tensor of shape ", sizes,
                    " does not either; write the encodings as version 2.0.0 or later");
  return std::find(sizes.begin(), sizes.end(), count) - sizes.begin();
}

// The shape of the scales, with as many axes as the tensor.
Sizes shape_for(const TensorEncoding& encoding, c10::IntArrayRef sizes, const ScaleAxes& axes) {
  const std::int64_t count = count_of(encoding);
  const auto rank = static_cast<std::int64_t>(sizes.size());
  Sizes shape(sizes.size(), 1);
  // LPBQ of version 1.0.0 on a matrix is (channels, blocks) without saying so.
  const bool is_aligned = encoding.shape.size() == sizes.size() && sizes.size() > 1;
  if (is_aligned && (tells_axes(encoding) || !encoding.block_size.has_value())) {
    return encoding.shape;
  }
  if (!encoding.block_size.has_value()) {
    const std::int64_t axis = channel_axis_of(encoding, sizes, axes);
    TORCH_CHECK_VALUE(axis >= 0 && axis < rank, "QuantSim: the entry of `", encoding.name,
                      "` has `channel_axis` ", axis, ", its tensor the shape ", sizes);
    shape[static_cast<size_t>(axis)] = count;
    return shape;
  }
  const std::int64_t channel = from_front(encoding.channel_axis.value_or(axes.channel), rank);
  const std::int64_t block =
      encoding.block_axis.has_value() && tells_axes(encoding)
          ? *encoding.block_axis + rank - static_cast<std::int64_t>(encoding.shape.size())
      : channel == axes.channel ? axes.block
                                : axes.channel;
  const bool is_there = channel >= 0 && channel < rank && block >= 0 && block < rank;
  TORCH_CHECK_VALUE(is_there && channel != block, "QuantSim: the entry of `", encoding.name,
                    "` has blocks, its tensor the shape ", sizes);
  const std::int64_t length = sizes[static_cast<size_t>(block)];
  shape[static_cast<size_t>(channel)] = sizes[static_cast<size_t>(channel)];
  shape[static_cast<size_t>(block)] =
      (length + *encoding.block_size - 1) / *encoding.block_size;
  return shape;
}

std::int64_t product(const Sizes& sizes) {
  std::int64_t result = 1;
  for (const std::int64_t size : sizes) result *= size;
  return result;
}

void check_shape(const TensorEncoding& encoding, const Sizes& shape, c10::IntArrayRef sizes) {
  bool fits = product(shape) == count_of(encoding) && shape.size() == sizes.size();
  for (size_t axis = 0; fits && axis < shape.size(); ++axis) {
    const bool is_divided = encoding.block_size.has_value() && sizes[axis] % shape[axis] == 0;
    fits = shape[axis] == 1 || shape[axis] == sizes[axis] || is_divided;
  }
  TORCH_CHECK_VALUE(fits, "QuantSim: the entry of `", encoding.name, "` has ", count_of(encoding),
                    " scales, which do not divide a tensor of shape ", sizes);
}

}  // namespace

at::Tensor FakeQuantize::operator()(const at::Tensor& input) const {
  const at::Tensor on_device = scale.to(input.device());
  const at::OptionalIntArrayRef blocks =
      block_size.empty() ? at::OptionalIntArrayRef() : at::OptionalIntArrayRef(block_size);
  if (format.has_value()) {
    return quantize_dequantize_float(input, on_device, format->exponent_bits, format->mantissa_bits,
                                     format->is_finite, format->is_zero_unsigned,
                                     /*saturate=*/true, blocks);
  }
  return quantize_dequantize(input, on_device, offset.to(input.device()), qmin, qmax, blocks);
}

std::string find_obstacle(const TensorEncoding& encoding) {
  if (encoding.slot.has_value()) return "names a module's input or output, not a tensor";
  const bool is_float = encoding.dtype == encodings::DataType::kFloat;
  if (is_float && (encoding.has_scale() || encoding.bitwidth == 16 || encoding.bitwidth == 32)) {
    return "";
  }
  if (!encoding.has_scale()) return "has no scale: the tensor was not calibrated";
  if (encoding.zero_point_shift != 0.0) return "has a grid shifted by half a step";
  return "";
}

std::optional<FakeQuantize> make_fake_quantize(const TensorEncoding& encoding,
                                               std::optional<c10::IntArrayRef> sizes,
                                               const ScaleAxes& axes) {
  FakeQuantize result;
  if (encoding.dtype == encodings::DataType::kFloat) {
    if (!encoding.has_scale() && encoding.bitwidth == 32) return std::nullopt;
    result.format = format_of(encoding);
    if (!encoding.has_scale()) {
      result.scale = at::ones({});
      return result;
    }
  }
  const std::int64_t half = encodings::half_level_count(encoding.bitwidth);
  result.qmin = encoding.is_signed ? -half : 0;
  result.qmax = encoding.is_signed ? half - 1 : 2 * half - 1;
  if (encoding.is_strict_symmetric) ++result.qmin;
  const std::vector<float> scales = scales_of(encoding);
  std::vector<float> offsets(encoding.offset.begin(), encoding.offset.end());
  offsets.resize(scales.size(), 0.0F);  // blocks of two levels: symmetric, one entry a channel
  Sizes shape;
  if (scales.size() > 1 && sizes.has_value()) {
    shape = shape_for(encoding, *sizes, axes);
    check_shape(encoding, shape, *sizes);
    if (encoding.block_size.has_value()) {
      for (size_t axis = 0; axis < shape.size(); ++axis) {
        result.block_size.push_back((*sizes)[axis] / shape[axis]);
      }
    }
  } else if (scales.size() > 1) {
    TORCH_CHECK_VALUE(encoding.shape.size() > 1 && !encoding.block_size.has_value(),
                      "QuantSim: the entry of the activation `", encoding.name, "` has ",
                      scales.size(), " scales and tells no axis");
    shape = encoding.shape;
  }
  result.scale = at::tensor(scales).reshape(shape);
  result.offset = at::tensor(offsets).reshape(shape);
  return result;
}

}  // namespace aimet::simulation
