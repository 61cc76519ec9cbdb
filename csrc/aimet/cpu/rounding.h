// Arguments of the kernels that choose integers for the weights of a layer, and of the one that
// gathers the second moments on which they choose.
#pragma once

#include <cstdint>

namespace aimet::cpu {

// Rows of a layer share one Gram matrix H. Row r wants the real numbers `target[r]` and gets codes
// q such that, with x = (q + offset) * scale, the error e = target - x has a small e H e^T.
struct RoundingArguments {
  const double* gram;          // (size, size), symmetric, positive definite
  const double* factor;        // (size, size): L, lower triangular, H = L L^T
  const double* target;        // (rows, size)
  const double* wanted_image;  // (rows, size): target H
  const double* offset;        // (rows, blocks)
  double* scale;               // (rows, blocks); refined in place
  double* codes;               // (rows, size)
  double* error;               // (rows, size): e
  double* image;               // (rows, size): e H, between the two kernels computed by the caller
  double* objective;           // (rows): e H e^T
  const std::int32_t* block;   // (size): the block of a column
  std::int64_t size;
  std::int64_t block_count;
  double qmin;
  double qmax;
  bool has_feedback;  // start: nearest plane; otherwise nearest
  bool refines_scale;
  std::int64_t max_sweeps;  // of the descent
};

// Rows that one call of the kernel works on together: a row of H is read once for all of them.
constexpr std::int64_t kRoundingRows = 8;

// Doubles of scratch that kRoundingRows rows need.
constexpr std::int64_t rounding_scratch_size(std::int64_t size, std::int64_t rows) {
  return rows * size;
}

// The grid of a few weights with the least sum_j h_j (w_j - x_j)^2 of rounding to nearest.
struct ScaleSearchArguments {
  const double* weight;      // (length)
  const double* importance;  // (length): h
  std::int64_t length;
  std::int64_t qmin;
  std::int64_t qmax;
  bool is_symmetric;
  double* scale;  // one each
  double* offset;
};

// A layer with few inputs to each output: for each group, adds to `gram` (inputs, inputs), `cross`
// (outputs, inputs), `input_sum` and `output_sum` the moments of the columns of `input` (inputs,
// length) and `output` (outputs, length). `importance` (length) or null: weight of each column.
struct MomentsArguments {
  const float* input;
  const float* output;
  const float* importance;
  double* gram;
  double* cross;
  double* input_sum;
  double* output_sum;
  double* importance_sum;
  std::int64_t inputs;
  std::int64_t outputs;
  std::int64_t input_stride;  // from row to row
  std::int64_t output_stride;
  std::int64_t length;
};

}  // namespace aimet::cpu
