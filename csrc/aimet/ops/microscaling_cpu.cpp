// CPU kernels of microscaling: checks, layout, threads; the loops are in
// cpu/microscaling_kernel.cpp.
#include "aimet/ops/block_layout.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/float_format_checks.h"
#include "aimet/ops/kernel_choice.h"
#include "aimet/ops/layout.h"
#include "aimet/ops/output_memory.h"

#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>

namespace aimet {
namespace {

constexpr const char* kOp = "quantize_dequantize_microscaling";

std::tuple<at::Tensor, at::Tensor> apply(const at::Tensor& input, std::string_view element,
                                         std::int64_t axis, std::int64_t block_size,
                                         const std::optional<at::Tensor>& tensor_scale,
                                         std::uint8_t* mask) {
  const ops::BlockFormat format =
      ops::check_microscaling(kOp, input, element, axis, block_size, tensor_scale);
  const at::Tensor x = ops::dense(input);
  const at::ScalarType type = ops::compute_type(x);
  at::Tensor tensor_value;
  if (tensor_scale.has_value()) {
    tensor_value = ops::contiguous_as(*tensor_scale, type);
    ops::check_scale_values(kOp, tensor_value, "tensor_scale");
  }
  const ops::BlockLayout layout = ops::block_layout(x, format.axis);
  cpu::MicroscalingArguments arguments{x.const_data_ptr(),
                                       nullptr,
                                       mask,
                                       nullptr,
                                       tensor_value.defined() ? tensor_value.const_data_ptr()
                                                              : nullptr,
                                       layout.outer,
                                       layout.length,
                                       layout.inner,
                                       block_size,
                                       format.grid};
  at::Tensor output = ops::empty_output(x);
  at::Tensor scale = ops::empty_block_values(x, format.axis, arguments.blocks(), type);
  arguments.output = output.mutable_data_ptr();
  arguments.scale = scale.mutable_data_ptr();
  arguments.is_streamed = ops::is_streamed(output);
  const cpu::ElementType element_type = ops::element_type(x);
  const cpu::KernelTable& kernels = ops::kernels();
  const std::int64_t unit_size =
      std::min(block_size, layout.length) * std::min(layout.inner, arguments.kColumns);
  at::parallel_for(0, arguments.units(), ops::task_grain(unit_size),
                   [&](std::int64_t begin, std::int64_t end) {
                     kernels.microscaling(element_type, arguments, begin, end);
                   });
  return {output, scale.contiguous()};
}

std::tuple<at::Tensor, at::Tensor> microscaling_cpu(const at::Tensor& input,
                                                    std::string_view element, std::int64_t axis,
                                                    std::int64_t block_size,
                                                    const std::optional<at::Tensor>& tensor_scale) {
  return apply(input, element, axis, block_size, tensor_scale, nullptr);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> microscaling_mask_cpu(
    const at::Tensor& input, std::string_view element, std::int64_t axis, std::int64_t block_size,
    const std::optional<at::Tensor>& tensor_scale) {
  at::Tensor mask = at::zeros({(input.numel() + 7) / 8}, input.options().dtype(at::kByte));
  auto [output, scale] = apply(input, element, axis, block_size, tensor_scale,
                               mask.mutable_data_ptr<std::uint8_t>());
  return {output, scale, mask};
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, CPU, m) {
  m.impl("quantize_dequantize_microscaling", &aimet::microscaling_cpu);
  m.impl("_quantize_dequantize_microscaling_mask", &aimet::microscaling_mask_cpu);
}
