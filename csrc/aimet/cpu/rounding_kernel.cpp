// Integers for the weights of a layer: rounding with error feedback, then coordinate descent. No
// sum is split: every element of H e is updated by one multiplication and one addition at a time,
// in the order of the columns, so the results are the same for every instruction set.
//
// Source: error feedback: Frantar et al. 2023 (GPTQ, arXiv 2210.17323), in the form of Babai's
// nearest plane (Babai 1986), which needs the Cholesky factor of H alone and no inverse.
#include "aimet/core/affine.h"
#include "aimet/core/range_search.h"
#include "aimet/cpu/functions.h"
#include "aimet/cpu/rounding.h"

namespace aimet::cpu::AIMET_SIMD_NAMESPACE {
namespace {

using Params = core::AffineParams<double>;

// y += a * x
void add_scaled(double a, const double* __restrict x, double* __restrict y, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) y[i] += a * x[i];
}

// A band of rows and their scratch.
struct Band {
  const RoundingArguments& a;
  std::int64_t first;  // row
  std::int64_t count;  // <= kRoundingRows
  double* error;       // (count, size): e
  double* image;       // (count, size): H e
  double* direction;   // (count, size): H v of one block, while a scale is refined

  Params params(std::int64_t row, std::int64_t column) const {
    const std::int64_t index = (first + row) * a.block_count + a.block[column];
    return {a.scale[index], a.offset[index], a.qmin, a.qmax};
  }
  double target(std::int64_t row, std::int64_t column) const {
    return a.target[(first + row) * a.size + column];
  }
  double& code(std::int64_t row, std::int64_t column) const {
    return a.codes[(first + row) * a.size + column];
  }
};

// The first choice of a code, for a value that the errors so far have moved to `value`.
void choose(const Band& band, std::int64_t row, std::int64_t column, double value) {
  const Params params = band.params(row, column);
  const double code = core::quantize(value, params);
  band.code(row, column) = code;
  band.error[row * band.a.size + column] =
      band.target(row, column) - core::dequantize(code, params);
}

// From the last column to the first: the best code of a column, when those behind it are fixed and
// those before it may still take any real value. |L^T e|^2 is the objective.
void round_with_feedback(const Band& band) {
  const std::int64_t size = band.a.size;
  for (std::int64_t i = 0; i < band.count * size; ++i) band.direction[i] = 0;
  for (std::int64_t column = size - 1; column >= 0; --column) {
    const double* factor = band.a.factor + column * size;
    for (std::int64_t row = 0; row < band.count; ++row) {
      double* carried = band.direction + row * size;
      choose(band, row, column, band.target(row, column) + carried[column] / factor[column]);
      add_scaled(band.error[row * size + column], factor, carried, column);
    }
  }
}

void round_to_nearest(const Band& band) {
  for (std::int64_t row = 0; row < band.count; ++row) {
    for (std::int64_t column = 0; column < band.a.size; ++column)
      choose(band, row, column, band.target(row, column));
  }
}

double dot(const double* a, const double* b, std::int64_t count) {
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

// H v of a block, v = q + offset there. With one block to a row it follows from what is known:
// H v = (H target - H e) / scale.
void point_along_block(const Band& band, std::int64_t block) {
  const std::int64_t size = band.a.size;
  if (band.a.block_count == 1) {
    for (std::int64_t row = 0; row < band.count; ++row) {
      const double scale = band.a.scale[band.first + row];
      const double* wanted = band.a.wanted_image + (band.first + row) * size;
      for (std::int64_t i = 0; i < size; ++i) {
        band.direction[row * size + i] = (wanted[i] - band.image[row * size + i]) / scale;
      }
    }
    return;
  }
  for (std::int64_t i = 0; i < band.count * size; ++i) band.direction[i] = 0;
  for (std::int64_t column = 0; column < size; ++column) {
    if (band.a.block[column] != block) continue;
    for (std::int64_t row = 0; row < band.count; ++row) {
      const double value = band.code(row, column) + band.params(row, column).offset;
      if (value != 0)
        add_scaled(value, band.a.gram + column * size, band.direction + row * size, size);
    }
  }
}

// The best scale of each block for the codes as they are: along v = q + offset the objective is a
// parabola.
void refine_scales(const Band& band) {
  const std::int64_t size = band.a.size;
  for (std::int64_t block = 0; block < band.a.block_count; ++block) {
    point_along_block(band, block);
    for (std::int64_t row = 0; row < band.count; ++row) {
      double* error = band.error + row * size;
      double* image = band.image + row * size;
      const double* direction = band.direction + row * size;
      double slope = 0;
      double curvature = 0;
      for (std::int64_t column = 0; column < size; ++column) {
        if (band.a.block[column] != block) continue;
        const double value = band.code(row, column) + band.params(row, column).offset;
        slope += value * image[column];
        curvature += value * direction[column];
      }
      double& scale = band.a.scale[(band.first + row) * band.a.block_count + block];
      if (!(curvature > 0)) continue;
      const double change = slope / curvature;
      // A step that turns the sign or collapses the grid is no refinement.
      if (!(scale + change > 0.25 * scale) || !(scale + change < 4 * scale)) continue;
      scale += change;
      add_scaled(-change, direction, image, size);
      for (std::int64_t column = 0; column < size; ++column) {
        if (band.a.block[column] != block) continue;
        error[column] -= change * (band.code(row, column) + band.params(row, column).offset);
      }
    }
  }
}

// Moves single codes by whole steps to where the objective is least, until no move helps. Returns
// whether any moved.
bool descend(const Band& band) {
  const std::int64_t size = band.a.size;
  bool is_active[kRoundingRows];
  for (std::int64_t row = 0; row < band.count; ++row) is_active[row] = true;
  bool moved_ever = false;
  for (std::int64_t sweep = 0; sweep < band.a.max_sweeps; ++sweep) {
    bool has_moved[kRoundingRows] = {};
    for (std::int64_t column = 0; column < size; ++column) {
      const double* gram = band.a.gram + column * size;
      const double curvature = gram[column];
      if (!(curvature > 0)) continue;
      for (std::int64_t row = 0; row < band.count; ++row) {
        if (!is_active[row]) continue;
        const Params params = band.params(row, column);
        double* image = band.image + row * size;
        const double steps = core::round_half_even(image[column] / (curvature * params.scale));
        if (steps == 0) continue;
        double& code = band.code(row, column);
        const double next = core::clamp(code + steps, params.qmin, params.qmax);
        const double change = (next - code) * params.scale;
        // Gain of the move; rounding errors must not keep two codes swapping for ever.
        const double gain = change * (2 * image[column] - change * curvature);
        if (!(gain > 1e-12 * change * change * curvature)) continue;
        code = next;
        band.error[row * size + column] -= change;
        add_scaled(-change, gram, image, size);
        has_moved[row] = true;
      }
    }
    bool any = false;
    for (std::int64_t row = 0; row < band.count; ++row) {
      is_active[row] = has_moved[row];
      any = any || has_moved[row];
    }
    moved_ever = moved_ever || any;
    if (!any) break;
  }
  return moved_ever;
}

double weighted_error(const ScaleSearchArguments& a, const Params& params) {
  double sum = 0;
  for (std::int64_t i = 0; i < a.length; ++i) {
    const double error = a.weight[i] - core::quantize_dequantize(a.weight[i], params);
    sum += a.importance[i] * error * error;
  }
  return sum;
}

// A sum in lanes, then in double: float would lose what the many positions of an image add up to.
double dot_of_floats(const float* __restrict a, const float* __restrict b, std::int64_t count) {
  double total = 0;
  for (std::int64_t start = 0; start < count; start += kChunk) {
    const std::int64_t length = count - start < kChunk ? count - start : kChunk;
    alignas(64) float lanes[core::kLanes] = {};
    std::int64_t i = 0;
    for (; i + core::kLanes <= length; i += core::kLanes) {
      for (int j = 0; j < core::kLanes; ++j) lanes[j] += a[start + i + j] * b[start + i + j];
    }
    for (int j = 0; i + j < length; ++j) lanes[j] += a[start + i + j] * b[start + i + j];
    total += static_cast<double>(core::add_lanes(lanes));
  }
  return total;
}

double sum_of_floats(const float* a, std::int64_t count) {
  double total = 0;
  for (std::int64_t start = 0; start < count; start += kChunk) {
    const std::int64_t length = count - start < kChunk ? count - start : kChunk;
    alignas(64) float lanes[core::kLanes] = {};
    std::int64_t i = 0;
    for (; i + core::kLanes <= length; i += core::kLanes) {
      for (int j = 0; j < core::kLanes; ++j) lanes[j] += a[start + i + j];
    }
    for (int j = 0; i + j < length; ++j) lanes[j] += a[start + i + j];
    total += static_cast<double>(core::add_lanes(lanes));
  }
  return total;
}

}  // namespace

void start_rows(const RoundingArguments& a, double* scratch, std::int64_t begin, std::int64_t end) {
  const std::int64_t start = begin * a.size;
  const Band band{a, begin, end - begin, a.error + start, a.image + start, scratch};
  if (a.has_feedback) {
    round_with_feedback(band);
  } else {
    round_to_nearest(band);
  }
}

void improve_rows(const RoundingArguments& a, double* scratch, std::int64_t begin,
                  std::int64_t end) {
  const std::int64_t start = begin * a.size;
  const Band band{a, begin, end - begin, a.error + start, a.image + start, scratch};
  // A refined scale moves the best codes, and these the best scale.
  constexpr int kRounds = 8;
  for (int round = 0; round < kRounds; ++round) {
    if (a.refines_scale) refine_scales(band);
    if (!descend(band) || !a.refines_scale) break;
  }
  for (std::int64_t row = 0; row < band.count; ++row)
    a.objective[begin + row] = dot(band.error + row * a.size, band.image + row * a.size, a.size);
}

void solve_rows(const double* factor, const double* transposed, std::int64_t size, double* rows,
                std::int64_t count) {
  for (std::int64_t k = 0; k < size; ++k) {
    const double* below = transposed + k * size;  // column k of L
    for (std::int64_t row = 0; row < count; ++row) {
      double* values = rows + row * size;
      values[k] /= below[k];
      add_scaled(-values[k], below + k + 1, values + k + 1, size - k - 1);
    }
  }
  for (std::int64_t k = size - 1; k >= 0; --k) {
    const double* before = factor + k * size;
    for (std::int64_t row = 0; row < count; ++row) {
      double* values = rows + row * size;
      values[k] /= before[k];
      add_scaled(-values[k], before, values, k);
    }
  }
}

void search_scale(const ScaleSearchArguments& a) {
  constexpr int kCandidates = 100;
  constexpr int kRefinements = 4;
  const std::int64_t steps = a.qmax - a.qmin;
  const double qmin = static_cast<double>(a.qmin);
  const double qmax = static_cast<double>(a.qmax);
  core::Range<double> range{0, 0};
  for (std::int64_t i = 0; i < a.length; ++i) {
    range.min = core::minimum(range.min, a.weight[i]);
    range.max = core::maximum(range.max, a.weight[i]);
  }
  Params best{1, 0, qmin, qmax};
  double least = __builtin_inf();
  for (int k = kCandidates; k >= 1; --k) {
    const double fraction = static_cast<double>(k) / kCandidates;
    const core::Range<double> part{range.min * fraction, range.max * fraction};
    const core::Encoding<double> encoding = core::covering_encoding(part, steps, a.is_symmetric);
    const Params params{encoding.scale, encoding.offset - qmin, qmin, qmax};
    const double error = weighted_error(a, params);
    if (error < least) {
      least = error;
      best = params;
    }
  }
  for (int k = 0; k < kRefinements; ++k) {
    double product = 0;
    double square = 0;
    for (std::int64_t i = 0; i < a.length; ++i) {
      const double value = core::quantize(a.weight[i], best) + best.offset;
      product += a.importance[i] * value * a.weight[i];
      square += a.importance[i] * value * value;
    }
    if (!(product > 0)) break;
    const Params params{product / square, best.offset, qmin, qmax};
    const double error = weighted_error(a, params);
    if (!(error < least)) break;
    least = error;
    best = params;
  }
  *a.scale = best.scale;
  *a.offset = best.offset;
}

void add_moments(const MomentsArguments& a, float* scratch) {
  if (a.importance) a.importance_sum[0] += sum_of_floats(a.importance, a.length);
  for (std::int64_t i = 0; i < a.inputs; ++i) {
    const float* row = a.input + i * a.input_stride;
    if (a.importance) {
      for (std::int64_t k = 0; k < a.length; ++k) scratch[k] = row[k] * a.importance[k];
      row = scratch;
    }
    a.input_sum[i] += sum_of_floats(row, a.length);
    for (std::int64_t j = 0; j <= i; ++j) {
      const double product = dot_of_floats(row, a.input + j * a.input_stride, a.length);
      a.gram[i * a.inputs + j] += product;
      if (j < i) a.gram[j * a.inputs + i] += product;
    }
    for (std::int64_t o = 0; o < a.outputs; ++o)
      a.cross[o * a.inputs + i] += dot_of_floats(row, a.output + o * a.output_stride, a.length);
  }
  for (std::int64_t o = 0; o < a.outputs; ++o) {
    const float* row = a.output + o * a.output_stride;
    if (a.importance) {
      for (std::int64_t k = 0; k < a.length; ++k) scratch[k] = row[k] * a.importance[k];
      row = scratch;
    }
    a.output_sum[o] += sum_of_floats(row, a.length);
  }
}

}  // namespace aimet::cpu::AIMET_SIMD_NAMESPACE
