// CUDA kernel of update_histogram_: checks, layout, launch; the loop is in
// cuda/histogram_kernel.cu.
#include "aimet/cuda/kernels.h"
#include "aimet/ops/affine_composite.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/launch_cuda.h"
#include "aimet/ops/layout.h"

#include <torch/library.h>

namespace aimet {
namespace {

void update_histogram_cuda(at::Tensor histogram, const at::Tensor& input, const at::Tensor& min,
                           const at::Tensor& max, at::OptionalIntArrayRef block_size) {
  constexpr const char* kOp = "update_histogram_";
  ops::check_is_floating(kOp, "input", input);
  ops::check_histogram(kOp, histogram, min, max);
  ops::check_granularity(kOp, "min", min.sym_sizes(), input.sym_sizes(), block_size);
  const ops::CudaLaunch launch(kOp, input.device());
  TORCH_CHECK_VALUE(histogram.device() == input.device(), kOp,
                    ": `histogram` must be on the device of `input`, got ", histogram.device(),
                    " and ", input.device());
  ops::check_device(kOp, "min", min, input.device());
  ops::check_device(kOp, "max", max, input.device());
  if (input.numel() == 0) return;
  at::Tensor x = ops::dense(input.detach());
  ops::ChannelLayout layout = ops::channel_layout(x, min.sizes(), block_size);
  if (!layout.parameter_of.empty()) {
    // Several channels share a histogram; bring each parameter's elements together instead.
    x = ops::by_parameter(x, min.sym_sizes()).contiguous();
    layout = {{1, x.size(0), x.size(1)}, {}};
  }
  const at::ScalarType compute_type = ops::compute_type(x);
  const at::Tensor low = ops::channel_values_cuda(min, layout, compute_type, input.device());
  const at::Tensor high = ops::channel_values_cuda(max, layout, compute_type, input.device());
  at::Tensor counts = histogram.contiguous();
  const core::HistogramArguments arguments{x.const_data_ptr(), low.const_data_ptr(),
                                           high.const_data_ptr(), layout.shape, histogram.size(-1)};
  launch.check(cuda::launch_histogram(ops::element_type(x), arguments,
                                      counts.mutable_data_ptr<std::int64_t>(), launch.stream()));
  if (!histogram.is_contiguous()) histogram.copy_(counts);
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, CUDA, m) {
  m.impl("update_histogram_", &aimet::update_histogram_cuda);
}
