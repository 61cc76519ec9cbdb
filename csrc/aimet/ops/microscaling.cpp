// The C++ API of microscaling (calls through the dispatcher), checks, Meta kernels.
#include "aimet/ops/microscaling.h"

#include "aimet/core/geometry.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/dispatch.h"
#include "aimet/ops/float_format_checks.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

namespace aimet {

std::tuple<at::Tensor, at::Tensor> quantize_dequantize_microscaling(
    const at::Tensor& input, std::string_view element, std::int64_t axis, std::int64_t block_size,
    const std::optional<at::Tensor>& tensor_scale) {
  static const auto op = ops::find_operator<decltype(quantize_dequantize_microscaling)>(
      "aimet::quantize_dequantize_microscaling");
  return op.call(input, element, axis, block_size, tensor_scale);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> quantize_dequantize_microscaling_mask(
    const at::Tensor& input, std::string_view element, std::int64_t axis, std::int64_t block_size,
    const std::optional<at::Tensor>& tensor_scale) {
  static const auto op = ops::find_operator<decltype(quantize_dequantize_microscaling_mask)>(
      "aimet::_quantize_dequantize_microscaling_mask");
  return op.call(input, element, axis, block_size, tensor_scale);
}

namespace ops {
namespace {

struct Element {
  std::string_view name;
  core::FloatGrid grid;
};

// OCP MX 1.0, section 5.1, and its table 5.
const Element kElements[] = {
    {"float8e4m3fn", core::float_grid({4, 3, true, false}, true)},
    {"float8e5m2", core::float_grid({5, 2, false, false}, true)},
    {"float6e3m2", core::float_grid({3, 2, true, false}, true)},
    {"float6e2m3", core::float_grid({2, 3, true, false}, true)},
    {"float4e2m1", core::float_grid({2, 1, true, false}, true)},
    {"int8", core::mx_int8_grid()},
};

const Element& element_of(const char* op, std::string_view name) {
  for (const Element& element : kElements) {
    if (element.name == name) return element;
  }
  TORCH_CHECK_VALUE(false, op,
                    ": `element` must be float8e4m3fn, float8e5m2, float6e3m2, float6e2m3, "
                    "float4e2m1 or int8, got ",
                    name);
}

}  // namespace

BlockFormat check_microscaling(const char* op, const at::Tensor& input, std::string_view element,
                               std::int64_t axis, std::int64_t block_size,
                               const std::optional<at::Tensor>& tensor_scale) {
  check_is_floating(op, "input", input);
  const Element& format = element_of(op, element);
  TORCH_CHECK_VALUE(input.dim() > 0, op,
                    ": `input` must have a dimension to divide into blocks, got one number; "
                    "reshape it to (1,)");
  TORCH_CHECK_VALUE(axis >= -input.dim() && axis < input.dim(), op,
                    ": `axis` must be a dimension of `input`, got axis=", axis,
                    " and input of shape ", input.sym_sizes());
  // A block must fit the kernels' buffers.
  TORCH_CHECK_VALUE(block_size >= 1 && block_size <= core::kChunk, op,
                    ": `block_size` must be 1 to ", core::kChunk, ", got ", block_size);
  if (tensor_scale.has_value()) {
    check_is_floating(op, "tensor_scale", *tensor_scale);
    TORCH_CHECK_VALUE(tensor_scale->sym_numel() == 1, op,
                      ": `tensor_scale` must have one element, got shape ",
                      tensor_scale->sym_sizes());
    TORCH_CHECK_VALUE(format.name == "float4e2m1", op,
                      ": with `tensor_scale` (NVFP4), `element` must be float4e2m1, got ", element);
  }
  return {format.grid, axis < 0 ? axis + input.dim() : axis};
}

}  // namespace ops

namespace {

std::tuple<at::Tensor, at::Tensor> microscaling_meta(
    const at::Tensor& input, std::string_view element, std::int64_t axis, std::int64_t block_size,
    const std::optional<at::Tensor>& tensor_scale) {
  const ops::BlockFormat format =
      ops::check_microscaling("quantize_dequantize_microscaling", input, element, axis, block_size,
                              tensor_scale);
  std::vector<c10::SymInt> sizes = input.sym_sizes().vec();
  sizes[format.axis] = (sizes[format.axis] + (block_size - 1)) / block_size;
  const at::ScalarType type = input.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return {at::empty_like(input), at::empty_symint(sizes, input.options().dtype(type))};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> microscaling_mask_meta(
    const at::Tensor& input, std::string_view element, std::int64_t axis, std::int64_t block_size,
    const std::optional<at::Tensor>& tensor_scale) {
  auto [output, scale] = microscaling_meta(input, element, axis, block_size, tensor_scale);
  return {output, scale,
          at::empty_symint({(input.sym_numel() + 7) / 8}, input.options().dtype(at::kByte))};
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, Meta, m) {
  m.impl("quantize_dequantize_microscaling", &aimet::microscaling_meta);
  m.impl("_quantize_dequantize_microscaling_mask", &aimet::microscaling_mask_meta);
}
