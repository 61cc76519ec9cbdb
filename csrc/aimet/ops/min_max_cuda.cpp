// CUDA kernel of min_max: checks, layout, launches; the loops are in cuda/min_max_kernel.cu.
#include "aimet/cuda/kernels.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/launch_cuda.h"
#include "aimet/ops/layout.h"

#include <ATen/ops/amax.h>
#include <ATen/ops/amin.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <torch/library.h>

namespace aimet {
namespace {

std::tuple<at::Tensor, at::Tensor> min_max_cuda(const at::Tensor& input,
                                                at::SymIntArrayRef symbolic_shape,
                                                at::OptionalIntArrayRef block_size) {
  ops::check_is_floating("min_max", "input", input);
  ops::check_granularity("min_max", "shape", symbolic_shape, input.sym_sizes(), block_size);
  const at::IntArrayRef shape = C10_AS_INTARRAYREF_SLOW(symbolic_shape);
  const ops::CudaLaunch launch("min_max", input.device());
  const at::Tensor x = ops::dense(input.detach());
  const ops::ChannelLayout layout = ops::channel_layout(x, shape, block_size);
  const core::Reduction reduction{layout.shape};
  const at::TensorOptions options = input.options().dtype(ops::compute_type(x));
  at::Tensor partial_low = at::empty({reduction.partial_count()}, options);
  at::Tensor partial_high = at::empty({reduction.partial_count()}, options);
  const core::MinMaxArguments arguments{x.const_data_ptr(), partial_low.mutable_data_ptr(),
                                        partial_high.mutable_data_ptr(), reduction};
  launch.check(cuda::launch_min_max(ops::element_type(x), arguments, launch.stream()));

  at::Tensor low = at::empty({layout.shape.channels}, options);
  at::Tensor high = at::empty({layout.shape.channels}, options);
  launch.check(cuda::launch_combine_min_max(
      low.scalar_type() == at::kDouble, partial_low.const_data_ptr(), partial_high.const_data_ptr(),
      reduction, low.mutable_data_ptr(), high.mutable_data_ptr(), launch.stream()));
  if (!layout.parameter_of.empty()) {
    const at::Tensor members =
        ops::members_of_parameters(layout, c10::multiply_integers(shape), x.device());
    low = at::amin(at::index_select(low, 0, members.flatten()).reshape(members.sizes()), {1});
    high = at::amax(at::index_select(high, 0, members.flatten()).reshape(members.sizes()), {1});
  }
  // -0 becomes +0: which one comes first depends on the split.
  return {low.reshape(shape).add_(0.0), high.reshape(shape).add_(0.0)};
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, CUDA, m) {
  m.impl("min_max", &aimet::min_max_cuda);
}
