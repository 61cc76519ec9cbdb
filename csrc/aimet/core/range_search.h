// Candidates and costs of the range searches on histograms. Codes are 0 .. n here, n = qmax - qmin,
// and offset is the code-space position of zero with the sign of x = (q + offset) * scale; a range
// is n whole steps from offset * scale.
//
// Source of the SQNR search: behaviour of AIMET 2.x's SQNR / "TF-enhanced" calibration.
#pragma once

#include "aimet/core/affine.h"
#include "aimet/core/encoding.h"
#include "aimet/core/grid.h"
#include "aimet/core/macros.h"

#include <cstdint>

namespace aimet::core {

template <typename T>
AIMET_HOST_DEVICE Range<T> range_of(Encoding<T> encoding, std::int64_t step_count) {
  const T min = encoding.offset * encoding.scale + T(0);
  return {min, min + T(step_count) * encoding.scale};
}

template <typename T>
AIMET_HOST_DEVICE Encoding<T> symmetric_encoding(T scale, std::int64_t step_count) {
  return {maximum(scale, minimal_scale<T>(step_count)), -T(grid_steps(0, step_count).negative)};
}

// The encoding of an arbitrary range [min, max] of data.
template <typename T>
AIMET_HOST_DEVICE Encoding<T> covering_encoding(Range<T> data, std::int64_t step_count,
                                                bool is_symmetric) {
  const Range<T> range = range_from_min_max(data.min, data.max, step_count, is_symmetric);
  const T scale = scale_from_range(range, 0, step_count);
  if (is_symmetric) return symmetric_encoding(scale, step_count);
  return {scale, round_half_even(range.min / scale)};
}

struct SqnrSearch {
  std::int64_t
      asymmetric_deltas;  // candidates of the scale: k / (count - 1) of the largest, k = 1 .. count
  std::int64_t symmetric_deltas;
  std::int64_t offsets;
  double gamma;  // weight of the error of clipped values
};

// Candidate `k` (from 1) of the symmetric scale. `data` holds zero.
template <typename T>
AIMET_HOST_DEVICE Encoding<T> symmetric_candidate(Range<T> data, std::int64_t step_count,
                                                  const SqnrSearch& search, std::int64_t k) {
  const T largest = T(2) * maximum(data.max, -data.min) / T(step_count);
  return symmetric_encoding(largest * T(k) / T(search.symmetric_deltas - 1), step_count);
}

// Number of offsets that are tried: fewer than asked for on very small grids.
AIMET_HOST_DEVICE std::int64_t offset_candidate_count(std::int64_t step_count,
                                                      const SqnrSearch& search) {
  return search.offsets < step_count + 2 ? search.offsets : step_count + 2;
}

// Candidate `k` (from 1) of the scale and `j` (from 0) of the offset; the last offset is the one
// that the data ask for.
template <typename T>
AIMET_HOST_DEVICE Encoding<T> asymmetric_candidate(Range<T> data, std::int64_t step_count,
                                                   const SqnrSearch& search, std::int64_t k,
                                                   std::int64_t j) {
  const T smallest = minimal_scale<T>(step_count);
  const T steps = T(step_count);
  const T largest = maximum((data.max - data.min) / steps, smallest);
  const T data_offset = round_half_even(data.min / largest);
  const Range<T> limit = range_of(Encoding<T>{largest, data_offset}, step_count);
  const std::int64_t offsets = offset_candidate_count(step_count, search);
  const double stride = static_cast<double>(step_count) / static_cast<double>(offsets - 2);
  const T offset =
      j == offsets - 1
          ? data_offset
          : T(round_half_even(-static_cast<double>(step_count) + static_cast<double>(j) * stride));
  const T scale = largest * T(k) / T(search.asymmetric_deltas - 1);
  // What lies outside the data is cut off, which makes the scale finer.
  const Range<T> wanted = range_of(Encoding<T>{scale, offset}, step_count);
  const Range<T> cut = {maximum(limit.min, wanted.min), minimum(limit.max, wanted.max)};
  const T cut_scale = maximum((cut.max - cut.min) / steps, smallest);
  return {cut_scale, round_half_even(cut.min / cut_scale)};
}

// Squared error of a value under an encoding, times `gamma` if it is clipped.
template <typename T>
AIMET_HOST_DEVICE T weighted_square_error(T x, Encoding<T> encoding, T step_count, T gamma) {
  const AffineParams<T> params{encoding.scale, encoding.offset, T(0), step_count};
  const T unclamped = unclamped_code(x, params);
  const T error = dequantize(clamp(unclamped, params.qmin, params.qmax), params) - x;
  return error * error * (is_inside_grid(unclamped, params) ? T(1) : gamma);
}

}  // namespace aimet::core
