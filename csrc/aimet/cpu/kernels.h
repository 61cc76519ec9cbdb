// The CPU kernels as the operators see them: raw pointers, counts, a table of functions per
// instruction set. No Tensor, no allocation, no exception, no threads: operators split the work and
// call from many threads.
//
// Every tensor is (outer, channels, inner) in memory order; channel c has its own scale and offset.
// The element type of data is `ElementType`; scales, limits and partial sums are of the compute
// type (double for kFloat64, else float) unless said otherwise. Results are the same bits for every
// instruction set and every split.
#pragma once

#include "aimet/core/arguments.h"
#include "aimet/core/range_search.h"
#include "aimet/cpu/rounding.h"

#include <cstdint>

namespace aimet::cpu {

using core::AffineArguments;
using core::AffineBackwardArguments;
using core::AffineMode;
using core::ElementType;
using core::FloatFormatArguments;
using core::FloatFormatBackwardArguments;
using core::HistogramArguments;
using core::kChunk;
using core::kShortRun;
using core::MicroscalingArguments;
using core::MinMaxArguments;
using core::QuantizationErrorArguments;
using core::Reduction;
using core::Shape;

// A part of a tensor.
struct Box {
  std::int64_t outer_begin, outer_end;
  std::int64_t channel_begin, channel_end;
  std::int64_t inner_begin, inner_end;
};

enum class RangeMethod { kPercentile, kSqnr, kMse, kEntropy };

struct RangeSearchArguments {
  RangeMethod method;
  const std::int64_t* counts;  // (channels, bin_count)
  const float* min;            // (channels): the observed limits that the bins divide
  const float* max;
  std::int64_t bin_count;
  std::int64_t qmin;
  std::int64_t qmax;
  bool is_symmetric;
  double percentile;
  core::SqnrSearch sqnr;
  float* range_min;  // (channels)
  float* range_max;
  // kMse: (channels, bin_count) values to search on instead of a histogram; `counts`, `min` and
  // `max` are not read then.
  const float* values = nullptr;
};

struct KernelTable {
  const char* name;
  // Elements [begin, end) of the flattened tensor; `begin` is a multiple of kChunk (bytes of the
  // mask are not shared).
  void (*affine)(ElementType, AffineMode, const AffineArguments&, std::int64_t begin,
                 std::int64_t end);
  // output[i] = bit i of mask ? grad[i] : 0, for elements of 2, 4 or 8 bytes.
  void (*select_by_mask)(int element_size, const void* grad, const std::uint8_t* mask, void* output,
                         std::int64_t begin, std::int64_t end);
  // Tasks [begin, end) of the reduction.
  void (*affine_backward)(ElementType, const AffineBackwardArguments&, std::int64_t begin,
                          std::int64_t end);
  // As `affine`, for floating-point formats.
  void (*float_format)(ElementType, const FloatFormatArguments&, std::int64_t begin,
                       std::int64_t end);
  void (*float_format_backward)(ElementType, const FloatFormatBackwardArguments&,
                                std::int64_t begin, std::int64_t end);
  // Units [begin, end) of the arguments: each block's scale, then its elements.
  void (*microscaling)(ElementType, const MicroscalingArguments&, std::int64_t begin,
                       std::int64_t end);
  // `affine` without a mask or a clamp in kQuantizeDequantize and `min_max` in one: the elements of
  // the tasks [begin, end) of the reduction, which is not by columns.
  void (*affine_limits)(ElementType, const AffineArguments&, const MinMaxArguments&,
                        std::int64_t begin, std::int64_t end);
  // Minimum and maximum of the finite values; +inf/-inf where there is none. Of the tasks of one
  // run in [begin, end), the first gets the limits of all, the others +inf/-inf.
  void (*min_max)(ElementType, const MinMaxArguments&, std::int64_t begin, std::int64_t end);
  // Tasks [begin, end) of the rows.
  void (*quantization_errors)(ElementType, const QuantizationErrorArguments&, std::int64_t begin,
                              std::int64_t end);
  // Adds the finite values of the box to `counts` (channels, bin_count); bins: core/histogram.h.
  void (*histogram)(ElementType, const HistogramArguments&, const Box&, std::int64_t* counts);
  // Channels [begin, end). `scratch`: 2 * bin_count doubles, not shared between threads.
  void (*range_search)(const RangeSearchArguments&, double* scratch, std::int64_t begin,
                       std::int64_t end);
  // Rows [begin, end), at most kRoundingRows; `scratch`: rounding_scratch_size() doubles. First
  // codes and `error`; then, from `image`, better codes, scales and `objective`.
  void (*start_rows)(const RoundingArguments&, double* scratch, std::int64_t begin,
                     std::int64_t end);
  void (*improve_rows)(const RoundingArguments&, double* scratch, std::int64_t begin,
                       std::int64_t end);
  // rows (count, size) := rows (L L^T)^-1; `factor` is L, `transposed` L^T, both (size, size).
  void (*solve_rows)(const double* factor, const double* transposed, std::int64_t size,
                     double* rows, std::int64_t count);
  void (*search_scale)(const ScaleSearchArguments&);
  // `scratch`: `length` floats where there is an importance.
  void (*add_moments)(const MomentsArguments&, float* scratch);
};

}  // namespace aimet::cpu
