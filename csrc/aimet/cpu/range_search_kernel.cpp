// Searches on a histogram for the range with the least error, one channel at a time.
#include "aimet/core/histogram.h"
#include "aimet/core/range_search.h"
#include "aimet/cpu/functions.h"
#include "aimet/cpu/lanes.h"

namespace aimet::cpu::AIMET_SIMD_NAMESPACE {
namespace {

using Encoding = core::Encoding<float>;
using Range = core::Range<float>;

// The bins that hold something, by their centers.
struct Bins {
  const float* center;
  const float* count;
  const double* log_term;  // count * log(count); kEntropy only
  std::int64_t size;
  // The last size % kLanes of them, filled up with counts of 0: a channel of a depthwise convolution
  // has few values, and hundreds of candidates look at them.
  const float* tail_center;
  const float* tail_count;
};

struct Search {
  const RangeSearchArguments& a;
  Bins bins;
  Range bin_range;     // what the bins divide
  Range data;          // observed limits, with zero
  std::int64_t steps;  // n; codes are 0 .. n
};

// Sum over the bins of count * weighted squared error, in the fixed order of lanes.h. It may stop
// as soon as the sum exceeds `enough`, and returns what it has: no term is negative and rounding is
// monotone, so the whole sum exceeds it too.
double square_error(const Bins& bins, Encoding encoding, std::int64_t step_count, float gamma,
                    double enough) {
  constexpr std::int64_t kAsked = 4 * kLanes;  // how many bins between two looks at the sum
  const float steps = static_cast<float>(step_count);
  double total = 0;
  for (std::int64_t start = 0; start < bins.size; start += kChunk) {
    const std::int64_t count = bins.size - start < kChunk ? bins.size - start : kChunk;
    const float* center = bins.center + start;
    const float* weight = bins.count + start;
    alignas(64) float lanes[kLanes] = {};
    std::int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      for (int j = 0; j < kLanes; ++j) {
        lanes[j] +=
            weight[i + j] * core::weighted_square_error(center[i + j], encoding, steps, gamma);
      }
      if (i % kAsked == kAsked - kLanes) {
        alignas(64) float so_far[kLanes];  // adding up destroys the lanes
        for (int j = 0; j < kLanes; ++j) so_far[j] = lanes[j];
        const double sum = total + static_cast<double>(add_lanes(so_far));
        if (sum > enough) return sum;
      }
    }
    if (i < count) {
      for (int j = 0; j < kLanes; ++j) {
        const float term =
            bins.tail_count[j] *
            core::weighted_square_error(bins.tail_center[j], encoding, steps, gamma);
        lanes[j] += bins.tail_count[j] > 0 ? term : 0.0f;  // 0 times an infinite square is no 0
      }
    }
    total += static_cast<double>(add_lanes(lanes));
  }
  return total;
}

// As many candidates as there are lanes, and their costs.
struct Candidates {
  alignas(64) float scale[kLanes];
  alignas(64) float offset[kLanes];
  alignas(64) float cost[kLanes];
};

// `square_error` of several candidates at once, with the same sums, for at most kChunk bins. It may
// stop as soon as all of them exceed `enough`. A single candidate has to wait for its division and
// for the tree at the end; where there are few bins, nothing else is left to do meanwhile.
void square_errors(const Bins& bins, std::int64_t step_count, float gamma, double enough,
                   Candidates* candidates) {
  const float steps = static_cast<float>(step_count);
  alignas(64) float lanes[kLanes][kLanes] = {};  // of the sum; of the candidates
  float* cost = candidates->cost;
  const auto add_up = [&] {
    alignas(64) float tree[kLanes / 2][kLanes];
    for (int j = 0; j < kLanes / 2; ++j) {
      for (int c = 0; c < kLanes; ++c) tree[j][c] = lanes[j][c] + lanes[j + kLanes / 2][c];
    }
    for (int width = kLanes / 4; width > 0; width /= 2) {
      for (int j = 0; j < width; ++j) {
        for (int c = 0; c < kLanes; ++c) tree[j][c] += tree[j + width][c];
      }
    }
    for (int c = 0; c < kLanes; ++c) cost[c] = tree[0][c];
  };
  for (std::int64_t i = 0; i < bins.size; ++i) {
    float* lane = lanes[i % kLanes];
    for (int c = 0; c < kLanes; ++c) {
      const Encoding encoding{candidates->scale[c], candidates->offset[c]};
      lane[c] += bins.count[i] * core::weighted_square_error(bins.center[i], encoding, steps, gamma);
    }
    if (i % kLanes == kLanes - 1) {
      add_up();
      int exceeding = 0;
      for (int c = 0; c < kLanes; ++c) exceeding += static_cast<double>(cost[c]) > enough ? 1 : 0;
      if (exceeding == kLanes) return;
    }
  }
  add_up();
}

// Kullback-Leibler divergence of the quantized from the original distribution, times the number of
// values, less a constant. Original: the histogram with clipped counts moved to the edges.
// Quantized: what falls on one code, spread evenly over the occupied bins of that code; clipped
// counts are missing, so clipping costs. Source: 8-bit calibration of TensorRT (Migacz, GTC 2017),
// with the affine grid in place of equal groups of bins.
double divergence(const Bins& bins, Encoding encoding, std::int64_t step_count) {
  constexpr double kEmptyShare = 1e-9;  // for edge codes that hold clipped counts alone
  const core::AffineParams<float> params{encoding.scale, encoding.offset, 0.0f,
                                         static_cast<float>(step_count)};
  // A sum over codes of `log_terms - counts * log(inside / occupied / inside_total)`; the total is
  // known only at the end.
  double inside_total = 0;
  double clipped_total = 0;
  double result = 0;
  std::int64_t i = 0;
  float next = core::unclamped_code(bins.center[0], params);
  while (i < bins.size) {
    const float code = core::clamp(next, params.qmin, params.qmax);
    double inside = 0;    // counts that are not clipped
    double occupied = 0;  // their bins
    double clipped = 0;
    double log_terms = 0;
    double edge = 0;  // counts of the bin that receives the clipped ones, and its log term
    double edge_term = 0;
    do {
      const double count = static_cast<double>(bins.count[i]);
      if (core::is_inside_grid(next, params)) {
        inside += count;
        occupied += 1;
        log_terms += bins.log_term[i];
        // The lowest code's first bin, or the highest code's last one.
        if (edge == 0 || code > 0) {
          edge = count;
          edge_term = bins.log_term[i];
        }
      } else {
        clipped += count;
      }
      if (++i < bins.size) next = core::unclamped_code(bins.center[i], params);
    } while (i < bins.size && core::clamp(next, params.qmin, params.qmax) == code);
    if (clipped > 0) log_terms += (edge + clipped) * __builtin_log(edge + clipped) - edge_term;
    const double share = occupied > 0 ? inside / occupied : kEmptyShare;
    result += log_terms - (inside + clipped) * __builtin_log(share);
    inside_total += inside;
    clipped_total += clipped;
  }
  if (inside_total == 0) return __builtin_inf();
  return result + (inside_total + clipped_total) * __builtin_log(inside_total);
}

double cost_of(const Search& s, Encoding encoding, double enough) {
  return s.a.method == RangeMethod::kEntropy ? divergence(s.bins, encoding, s.steps)
                                             : square_error(s.bins, encoding, s.steps, 1.0f, enough);
}

// Keeps the first of equal candidates, and `encoding` as it was if every cost is infinite: when all
// values are clipped, or their squares overflow.
struct Best {
  Encoding encoding;
  double cost = __builtin_inf();
  bool offer(double candidate_cost, Encoding candidate) {
    if (!(candidate_cost < cost)) return false;
    cost = candidate_cost;
    encoding = candidate;
    return true;
  }
};

Range sqnr(const Search& s) {
  const float gamma = static_cast<float>(s.a.sqnr.gamma);
  Best best{core::covering_encoding(s.data, s.steps, s.a.is_symmetric)};
  // From the widest candidates down: the best is among them as a rule, and the narrow ones, which
  // clip, exceed it after a few bins. Of equal candidates the narrowest counts, then the first.
  const std::int64_t deltas =
      s.a.is_symmetric ? s.a.sqnr.symmetric_deltas : s.a.sqnr.asymmetric_deltas;
  const std::int64_t offsets =
      s.a.is_symmetric ? 1 : core::offset_candidate_count(s.steps, s.a.sqnr);
  bool is_first = true;  // of equal candidates of this scale; further ones come later
  const auto offer = [&](double cost, Encoding candidate) {
    const bool is_equal = is_first && cost == best.cost && cost < __builtin_inf();
    if (best.offer(cost, candidate) || is_equal) {
      best.encoding = candidate;
      is_first = false;
    }
  };
  if (s.a.is_symmetric && s.bins.size <= kChunk) {
    Candidates candidates;
    for (std::int64_t k = deltas; k >= 1; k -= kLanes) {
      for (std::int64_t c = 0; c < kLanes; ++c) {
        const Encoding candidate = core::symmetric_candidate(s.data, s.steps, s.a.sqnr, k - c);
        candidates.scale[c] = candidate.scale;
        candidates.offset[c] = candidate.offset;
      }
      square_errors(s.bins, s.steps, gamma, best.cost, &candidates);
      for (std::int64_t c = 0; c < kLanes && c < k; ++c) {
        is_first = true;
        offer(static_cast<double>(candidates.cost[c]),
              {candidates.scale[c], candidates.offset[c]});
      }
    }
    return core::range_of(best.encoding, s.steps);
  }
  for (std::int64_t k = deltas; k >= 1; --k) {
    is_first = true;
    for (std::int64_t j = 0; j < offsets; ++j) {
      const Encoding candidate =
          s.a.is_symmetric ? core::symmetric_candidate(s.data, s.steps, s.a.sqnr, k)
                           : core::asymmetric_candidate(s.data, s.steps, s.a.sqnr, k, j);
      offer(square_error(s.bins, candidate, s.steps, gamma, best.cost), candidate);
    }
  }
  return core::range_of(best.encoding, s.steps);
}

// The grid that covers the data between two fractions (in 1/kFinest) of the observed range. Zero is
// always in it.
constexpr std::int64_t kFinest = 2048;

Encoding encoding_between(const Search& s, std::int64_t low, std::int64_t high) {
  const float width = s.bin_range.max - s.bin_range.min;
  const float fraction = 1.0f / static_cast<float>(kFinest);
  const Range part{s.bin_range.min + width * static_cast<float>(low) * fraction,
                   s.bin_range.min + width * static_cast<float>(high) * fraction};
  return core::covering_encoding(part, s.steps, s.a.is_symmetric);
}

// Both limits are searched together, on a coarse raster first, then around the best on ever finer
// ones. Ties keep the wider.
Range both_limits(const Search& s) {
  constexpr std::int64_t kCoarsest = kFinest / 16;
  Best best{encoding_between(s, 0, kFinest)};
  std::int64_t low = 0;
  std::int64_t high = kFinest;
  for (std::int64_t i = 0; i < kFinest; i += kCoarsest) {
    for (std::int64_t j = kFinest; j > i; j -= kCoarsest) {
      const Encoding candidate = encoding_between(s, i, j);
      if (best.offer(cost_of(s, candidate, best.cost), candidate)) {
        low = i;
        high = j;
      }
    }
  }
  for (std::int64_t step = kCoarsest / 2; step > 0; step /= 2) {
    const std::int64_t center_low = low;
    const std::int64_t center_high = high;
    for (std::int64_t i = center_low - 2 * step; i <= center_low + 2 * step; i += step) {
      for (std::int64_t j = center_high + 2 * step; j >= center_high - 2 * step; j -= step) {
        if (i < 0 || j > kFinest || i >= j) continue;
        const Encoding candidate = encoding_between(s, i, j);
        if (best.offer(cost_of(s, candidate, best.cost), candidate)) {
          low = i;
          high = j;
        }
      }
    }
  }
  return core::range_of(best.encoding, s.steps);
}

// A symmetric range has one limit: every fraction of the widest one is tried, from the widest down.
Range one_limit(const Search& s) {
  constexpr std::int64_t kLimits = 256;
  const Encoding widest = core::covering_encoding(s.data, s.steps, true);
  Best best{widest};
  for (std::int64_t k = kLimits; k >= 1; --k) {
    const float fraction = static_cast<float>(k) / static_cast<float>(kLimits);
    const Encoding candidate = core::symmetric_encoding(widest.scale * fraction, s.steps);
    best.offer(cost_of(s, candidate, best.cost), candidate);
  }
  return core::range_of(best.encoding, s.steps);
}

// The scale with the least error for the codes that the values have now is a quotient of sums:
// steps of that kind, as long as they gain.
Range refined_limit(const Search& s) {
  constexpr int kMostSteps = 16;
  const core::Range<float> range = one_limit(s);
  Best best{core::symmetric_encoding((range.max - range.min) / static_cast<float>(s.steps), s.steps)};
  best.cost = cost_of(s, best.encoding, __builtin_inf());
  const float last_code = static_cast<float>(s.steps);
  for (int step = 0; step < kMostSteps; ++step) {
    const core::AffineParams<float> params{best.encoding.scale, best.encoding.offset, 0.0f,
                                           last_code};
    double products = 0;
    double squares = 0;
    for (std::int64_t i = 0; i < s.bins.size; ++i) {
      const float unclamped = core::unclamped_code(s.bins.center[i], params);
      const float code = core::clamp(unclamped, params.qmin, params.qmax) + best.encoding.offset;
      products += static_cast<double>(s.bins.center[i] * code);
      squares += static_cast<double>(code * code);
    }
    if (!(squares > 0)) break;
    const Encoding candidate =
        core::symmetric_encoding(static_cast<float>(products / squares), s.steps);
    if (!best.offer(cost_of(s, candidate, best.cost), candidate)) break;
  }
  return core::range_of(best.encoding, s.steps);
}

Range percentile(const RangeSearchArguments& a, const std::int64_t* counts, Range observed,
                 std::int64_t total) {
  if (a.percentile >= 100)
    return core::range_from_min_max(observed.min, observed.max, a.qmax - a.qmin, a.is_symmetric);
  const Range bins = core::bin_range(observed);
  const float width = core::bin_width(bins, a.bin_count);
  // The left edge of the bin in which the cumulative count reaches the target.
  const auto edge_at = [&](double target) {
    std::int64_t sum = 0;
    std::int64_t bin = 0;
    for (; bin + 1 < a.bin_count; ++bin) {
      sum += counts[bin];
      if (static_cast<double>(sum) >= target) break;
    }
    return bins.min + width * static_cast<float>(bin);
  };
  const double below = static_cast<double>(total) * (a.percentile / 100);
  const Range part{edge_at(static_cast<double>(total) - below), edge_at(below)};
  return core::range_from_min_max(part.min, part.max, a.qmax - a.qmin, a.is_symmetric);
}

// `bins` without its tail; `observed`: what they divide, or their limits.
Range search_bins(const RangeSearchArguments& a, Bins bins, Range observed) {
  const Range data{core::minimum(observed.min, 0.0f), core::maximum(observed.max, 0.0f)};
  alignas(64) float tail_center[kLanes] = {};
  alignas(64) float tail_count[kLanes] = {};
  const std::int64_t whole = bins.size - bins.size % kLanes;
  for (std::int64_t i = whole; i < bins.size; ++i) {
    tail_center[i - whole] = bins.center[i];
    tail_count[i - whole] = bins.count[i];
  }
  bins.tail_center = tail_center;
  bins.tail_count = tail_count;
  const Search search{a, bins, observed, data, a.qmax - a.qmin};
  if (a.method == RangeMethod::kSqnr) return sqnr(search);
  if (!a.is_symmetric) return both_limits(search);
  return a.values != nullptr ? refined_limit(search) : one_limit(search);
}

// Every finite value is a bin of its own.
Range search_values(const RangeSearchArguments& a, std::int64_t channel, double* scratch) {
  const float* values = a.values + channel * a.bin_count;
  const float infinity = __builtin_inff();
  float* center = reinterpret_cast<float*>(scratch + a.bin_count);
  float* count = center + a.bin_count;
  Range observed{infinity, -infinity};
  std::int64_t size = 0;
  for (std::int64_t i = 0; i < a.bin_count; ++i) {
    if (!core::is_finite(values[i])) continue;
    observed.min = core::minimum(observed.min, values[i]);
    observed.max = core::maximum(observed.max, values[i]);
    center[size] = values[i];
    count[size] = 1;
    ++size;
  }
  if (size == 0 || (observed.min == 0 && observed.max == 0))
    return core::range_from_min_max(observed.min, observed.max, a.qmax - a.qmin, a.is_symmetric);
  return search_bins(a, {center, count, nullptr, size, nullptr, nullptr}, observed);
}

Range search_channel(const RangeSearchArguments& a, std::int64_t channel, double* scratch) {
  if (a.values != nullptr) return search_values(a, channel, scratch);
  const std::int64_t* counts = a.counts + channel * a.bin_count;
  const Range observed{a.min[channel], a.max[channel]};
  const std::int64_t steps = a.qmax - a.qmin;
  std::int64_t total = 0;
  for (std::int64_t bin = 0; bin < a.bin_count; ++bin) total += counts[bin];
  if (total == 0 || !core::is_observed(observed)) {
    const float infinity = __builtin_inff();
    return core::range_from_min_max(infinity, -infinity, steps, a.is_symmetric);
  }
  if (a.method == RangeMethod::kPercentile) return percentile(a, counts, observed, total);

  const Range bins = core::bin_range(observed);
  const float width = core::bin_width(bins, a.bin_count);
  double* log_term = scratch;
  float* center = reinterpret_cast<float*>(scratch + a.bin_count);
  float* count = center + a.bin_count;
  std::int64_t size = 0;
  for (std::int64_t start = 0; start < a.bin_count; start += kLanes) {
    const std::int64_t left = a.bin_count - start;
    const std::int64_t stop = start + (left < kLanes ? left : kLanes);
    std::int64_t any = 0;  // of few values most bins are empty
    for (std::int64_t bin = start; bin < stop; ++bin) any |= counts[bin];
    if (any == 0) continue;
    for (std::int64_t bin = start; bin < stop; ++bin) {
      center[size] = (bins.min + width * static_cast<float>(bin)) + width / 2;
      count[size] = static_cast<float>(counts[bin]);
      size += counts[bin] != 0 ? 1 : 0;  // the next one overwrites it
    }
  }
  for (std::int64_t i = 0; i < size; ++i) {
    const double exact = static_cast<double>(count[i]);
    log_term[i] = a.method == RangeMethod::kEntropy ? exact * __builtin_log(exact) : 0;
  }
  return search_bins(a, {center, count, log_term, size, nullptr, nullptr}, bins);
}

}  // namespace

void range_search(const RangeSearchArguments& arguments, double* scratch, std::int64_t begin,
                  std::int64_t end) {
  for (std::int64_t channel = begin; channel < end; ++channel) {
    const Range range = search_channel(arguments, channel, scratch);
    arguments.range_min[channel] = range.min;
    arguments.range_max[channel] = range.max;
  }
}

}  // namespace aimet::cpu::AIMET_SIMD_NAMESPACE
