// From (min, max) to (scale, offset), element by element: runs in every forward of a quantizer that
// learns its range.
#include "aimet/core/encoding.h"
#include "aimet/cuda/kernels.h"
#include "aimet/cuda/launch.cuh"

#include <cuda_runtime.h>

namespace aimet::cuda {
namespace {

template <typename T>
__global__ void encoding_kernel(const T* min, const T* max, std::int64_t count, std::int64_t qmin,
                                std::int64_t qmax, bool is_symmetric, T* scale, T* offset) {
  for (std::int64_t i = thread_index(); i < count; i += thread_total()) {
    const core::Encoding<T> encoding =
        core::encoding_from_range(core::Range<T>{min[i], max[i]}, qmin, qmax, is_symmetric);
    scale[i] = encoding.scale;
    offset[i] = encoding.offset;
  }
}

template <typename T>
int enqueue_encoding(const void* min, const void* max, std::int64_t count, std::int64_t qmin,
                     std::int64_t qmax, bool is_symmetric, void* scale, void* offset,
                     void* stream) {
  return enqueue(encoding_kernel<T>, count, stream, static_cast<const T*>(min),
                 static_cast<const T*>(max), count, qmin, qmax, is_symmetric,
                 static_cast<T*>(scale), static_cast<T*>(offset));
}

}  // namespace

int launch_encoding_from_range(bool is_double, const void* min, const void* max, std::int64_t count,
                               std::int64_t qmin, std::int64_t qmax, bool is_symmetric, void* scale,
                               void* offset, void* stream) {
  if (count == 0) return 0;
  return is_double ? enqueue_encoding<double>(min, max, count, qmin, qmax, is_symmetric, scale,
                                              offset, stream)
                   : enqueue_encoding<float>(min, max, count, qmin, qmax, is_symmetric, scale,
                                             offset, stream);
}

}  // namespace aimet::cuda
