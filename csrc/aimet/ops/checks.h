// What operators demand of their arguments; one message each. Every backend's kernel calls these
// before it allocates anything, so CPU, CUDA, Meta and the fallback agree. Sizes are SymInt:
// torch.compile checks too.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymIntArrayRef.h>
#include <c10/util/OptionalArrayRef.h>

#include <cstdint>

namespace aimet::ops {

// Largest number of scales whose values are read. Reading that many on the CPU costs less than one
// microsecond; scales on other devices are never read, since that would make the device wait.
inline constexpr std::int64_t kCheckedScaleCount = 1024;

// TypeError unless float16, bfloat16, float32 or float64.
void check_is_floating(const char* op, const char* argument, const at::Tensor& tensor);

// ValueError unless qmin < qmax and both fit into 32 bits (signed or unsigned).
void check_grid(const char* op, std::int64_t qmin, std::int64_t qmax);

// ValueError unless a parameter of shape `sizes` broadcasts against `input_sizes` or, with
// `block_size`, tiles it.
void check_granularity(const char* op, const char* argument, c10::SymIntArrayRef sizes,
                       c10::SymIntArrayRef input_sizes, at::OptionalIntArrayRef block_size);

// All of the above for the arguments that the affine operators share; `offset` has the shape of
// `scale` or one element.
void check_affine(const char* op, const at::Tensor& input, const at::Tensor& scale,
                  const at::Tensor& offset, at::OptionalIntArrayRef block_size);

// ValueError for a scale <= 0, NaN or infinite. `scale`: CPU, contiguous, float or double; its name
// is `argument`.
void check_scale_values(const char* op, const at::Tensor& scale, const char* argument = "scale");

// `min` and `max` have the same shape and floating dtype.
void check_range(const char* op, const at::Tensor& min, const at::Tensor& max);

// `histogram` is int64 (*min.sizes(), bins) with at least one bin; `min` and `max` as in
// check_range.
void check_histogram(const char* op, const at::Tensor& histogram, const at::Tensor& min,
                     const at::Tensor& max);

}  // namespace aimet::ops
