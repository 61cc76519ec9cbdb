// What the CUDA operators share: device and stream of a launch, errors, and the device's side of
// layout.h. Written against c10's device-neutral interface, so that the library needs no CUDA
// headers of torch and links no libtorch_cuda.
#pragma once

#include "aimet/ops/layout.h"

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>

namespace aimet::ops {

// Makes `device` current while it lives, and knows torch's current stream on it.
class CudaLaunch {
 public:
  CudaLaunch(const char* op, c10::Device device);

  void* stream() const { return stream_; }
  // RuntimeError when a launch function returned an error.
  void check(int code) const;

 private:
  const char* op_;
  c10::DeviceGuard guard_;
  void* stream_;
};

// ValueError unless `tensor` is on `device`; a tensor without dimensions may stay on the CPU, as in
// torch's operators.
void check_device(const char* op, const char* argument, const at::Tensor& tensor,
                  c10::Device device);

// channel_values() on `device`.
at::Tensor channel_values_cuda(const at::Tensor& parameter, const ChannelLayout& layout,
                               at::ScalarType type, c10::Device device);

// The channels of each parameter, in ascending order: int64 (parameters, channels per parameter) on
// `device`. Only for layouts whose `parameter_of` is not empty.
at::Tensor members_of_parameters(const ChannelLayout& layout, std::int64_t parameter_count,
                                 c10::Device device);

// sum_partials() on the device.
at::Tensor sum_partials_cuda(const at::Tensor& partials, const core::Reduction& reduction,
                             const CudaLaunch& launch);

// The gradient of a parameter from its channels' sums, or, for a parameter of one element, the sum
// over all of them.
at::Tensor sum_to_parameter_cuda(const at::Tensor& channel_sums, const ChannelLayout& layout,
                                 at::IntArrayRef scale_sizes, const at::Tensor& parameter,
                                 const CudaLaunch& launch);

}  // namespace aimet::ops
