// The CUDA kernels as the operators see them: raw device pointers, counts, a stream. No Tensor, no
// allocation.
//
// Arguments and geometry are those of the CPU kernels (core/arguments.h), and so are the results,
// bit for bit: the same formulas, and sums in the same order. (Exception: the bits of a NaN.)
//
// Each function enqueues its work on `stream` (a cudaStream_t) of the current device, does not wait
// for it, and returns a cudaError_t, 0 for success. Zero elements: nothing happens.
#pragma once

#include "aimet/core/arguments.h"

#include <cstdint>

namespace aimet::cuda {

// Elements [0, count).
int launch_affine(core::ElementType type, core::AffineMode mode,
                  const core::AffineArguments& arguments, std::int64_t count, void* stream);

// output[i] = bit i of mask ? grad[i] : 0, for elements of 2, 4 or 8 bytes.
int launch_select_by_mask(int element_size, const void* grad, const std::uint8_t* mask,
                          void* output, std::int64_t count, void* stream);

// grad_input, and the partial sums of the reduction's tasks.
int launch_affine_backward(core::ElementType type, const core::AffineBackwardArguments& arguments,
                           void* stream);

// sums (channels): the partial sums of each channel, added in kPartialLanes lanes.
int launch_sum_partials(const double* partials, const core::Reduction& reduction, double* sums,
                        void* stream);

// sums[p] = values[members[p * size]] + values[members[p * size + 1]] + ..., in this order, for
// `count` values of p.
int launch_sum_members(const double* values, const std::int64_t* members, std::int64_t count,
                       std::int64_t size, double* sums, void* stream);

// Elements [0, count): rounding to floating-point formats.
int launch_float_format(core::ElementType type, const core::FloatFormatArguments& arguments,
                        std::int64_t count, void* stream);

// grad_input, and the partial sums of the reduction's tasks.
int launch_float_format_backward(core::ElementType type,
                                 const core::FloatFormatBackwardArguments& arguments, void* stream);

// Each block's scale, its elements, and the mask; `scale` is wanted.
int launch_microscaling(core::ElementType type, const core::MicroscalingArguments& arguments,
                        void* stream);

// Minimum and maximum of the finite values per task of the reduction; +inf/-inf where there is
// none.
int launch_min_max(core::ElementType type, const core::MinMaxArguments& arguments, void* stream);

// low, high (channels): of the partial results, which are double or float.
int launch_combine_min_max(bool is_double, const void* partial_min, const void* partial_max,
                           const core::Reduction& reduction, void* low, void* high, void* stream);

// Adds the finite values to `histogram` (channels, bin_count); bins: core/histogram.h.
int launch_histogram(core::ElementType type, const core::HistogramArguments& arguments,
                     std::int64_t* histogram, void* stream);

// scale, offset (count) of the ranges min, max (count); all double or all float.
int launch_encoding_from_range(bool is_double, const void* min, const void* max, std::int64_t count,
                               std::int64_t qmin, std::int64_t qmax, bool is_symmetric, void* scale,
                               void* offset, void* stream);

// What a code returned by the functions above means.
const char* error_text(int code);

}  // namespace aimet::cuda
