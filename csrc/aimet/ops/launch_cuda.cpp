#include "aimet/ops/launch_cuda.h"

#include "aimet/cuda/kernels.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <vector>

namespace aimet::ops {

namespace {

// Reached when another argument is on a CUDA device.
c10::Device expect_cuda(const char* op, c10::Device device) {
  TORCH_CHECK_VALUE(device.is_cuda(), op,
                    ": `input` must be on the CUDA device of the other arguments, got ", device,
                    "; move it with .to()");
  return device;
}

}  // namespace

CudaLaunch::CudaLaunch(const char* op, c10::Device device)
    : op_(op),
      guard_(expect_cuda(op, device)),
      stream_(c10::impl::VirtualGuardImpl(device.type()).getStream(device).native_handle()) {}

void CudaLaunch::check(int code) const {
  TORCH_CHECK(code == 0, op_, ": CUDA launch failed with error ", code, ": ",
              cuda::error_text(code));
}

void check_device(const char* op, const char* argument, const at::Tensor& tensor,
                  c10::Device device) {
  const bool is_host_scalar = tensor.dim() == 0 && tensor.device().is_cpu();
  TORCH_CHECK_VALUE(tensor.device() == device || is_host_scalar, op, ": `", argument,
                    "` must be on the device of `input`, got ", tensor.device(), " and ", device,
                    "; move it with .to()");
}

at::Tensor channel_values_cuda(const at::Tensor& parameter, const ChannelLayout& layout,
                               at::ScalarType type, c10::Device device) {
  const at::Tensor values = parameter.detach().to(device, type).contiguous();
  if (parameter.numel() == 1)
    return values.reshape({1}).expand({layout.shape.channels}).contiguous();
  if (layout.parameter_of.empty()) return values;
  return at::index_select(values.flatten(), 0,
                          at::tensor(layout.parameter_of, at::kLong).to(device));
}

at::Tensor members_of_parameters(const ChannelLayout& layout, std::int64_t parameter_count,
                                 c10::Device device) {
  const auto channel_count = static_cast<std::int64_t>(layout.parameter_of.size());
  const std::int64_t per_parameter = parameter_count == 0 ? 0 : channel_count / parameter_count;
  std::vector<std::int64_t> members(channel_count);
  std::vector<std::int64_t> found(parameter_count, 0);
  for (std::int64_t channel = 0; channel < channel_count; ++channel) {
    const std::int64_t parameter = layout.parameter_of[channel];
    members[parameter * per_parameter + found[parameter]++] = channel;
  }
  return at::tensor(members, at::kLong).reshape({parameter_count, per_parameter}).to(device);
}

at::Tensor sum_partials_cuda(const at::Tensor& partials, const core::Reduction& reduction,
                        const CudaLaunch& launch) {
  at::Tensor sums = at::empty({reduction.shape.channels}, partials.options());
  launch.check(cuda::launch_sum_partials(partials.const_data_ptr<double>(), reduction,
                                         sums.mutable_data_ptr<double>(), launch.stream()));
  return sums;
}

at::Tensor sum_to_parameter_cuda(const at::Tensor& channel_sums, const ChannelLayout& layout,
                            at::IntArrayRef scale_sizes, const at::Tensor& parameter,
                            const CudaLaunch& launch) {
  at::Tensor sums = channel_sums;
  if (!layout.parameter_of.empty()) {
    const std::int64_t count = c10::multiply_integers(scale_sizes);
    const at::Tensor members = members_of_parameters(layout, count, channel_sums.device());
    sums = at::empty({count}, channel_sums.options());
    launch.check(cuda::launch_sum_members(
        channel_sums.const_data_ptr<double>(), members.const_data_ptr<std::int64_t>(), count,
        members.size(1), sums.mutable_data_ptr<double>(), launch.stream()));
  }
  if (parameter.numel() == 1)
    sums = sum_partials_cuda(sums, {{1, 1, sums.numel() * core::kChunk}}, launch);
  return sums.reshape(parameter.sizes()).to(parameter.options());
}

}  // namespace aimet::ops
