// CUDA kernel of encoding_from_range: checks, conversion, launch; the loop is in
// cuda/encoding_kernel.cu.
#include "aimet/cuda/kernels.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/launch_cuda.h"
#include "aimet/ops/layout.h"

#include <ATen/ops/empty_like.h>
#include <torch/library.h>

namespace aimet {
namespace {

std::tuple<at::Tensor, at::Tensor> encoding_from_range_cuda(const at::Tensor& min,
                                                            const at::Tensor& max,
                                                            std::int64_t qmin, std::int64_t qmax,
                                                            bool symmetric) {
  constexpr const char* kOp = "encoding_from_range";
  ops::check_range(kOp, min, max);
  ops::check_grid(kOp, qmin, qmax);
  TORCH_CHECK_VALUE(min.device() == max.device(), kOp,
                    ": `min` and `max` must be on one device, got ", min.device(), " and ",
                    max.device());
  const ops::CudaLaunch launch(kOp, min.device());
  const at::ScalarType type = ops::compute_type(min);
  const at::Tensor low = min.detach().to(type).contiguous();
  const at::Tensor high = max.detach().to(type).contiguous();
  at::Tensor scale = at::empty_like(low);
  at::Tensor offset = at::empty_like(low);
  launch.check(cuda::launch_encoding_from_range(
      type == at::kDouble, low.const_data_ptr(), high.const_data_ptr(), low.numel(), qmin, qmax,
      symmetric, scale.mutable_data_ptr(), offset.mutable_data_ptr(), launch.stream()));
  return {scale.to(min.scalar_type()), offset.to(min.scalar_type())};
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, CUDA, m) {
  m.impl("encoding_from_range", &aimet::encoding_from_range_cuda);
}
