// Searches the range of a grid by a cost of its own. Internal.
#pragma once

#include "aimet/core/affine.h"
#include "aimet/core/encoding.h"

#include <cstdint>
#include <limits>

namespace aimet {

// Candidates are pairs of raster points, of which kRaster stands for the whole limit. Symmetric:
// 256 fractions. Asymmetric: 16 by 16, then around the best, halving the raster down to one point.
// Of equal candidates the first, which is the widest, is taken.
template <typename Cost>
class RangeRaster {
 public:
  // `limits` hold zero. `cost(grid)` gives a double for core::AffineParams<float>.
  RangeRaster(core::Range<float> limits, std::int64_t qmin, std::int64_t qmax, bool symmetric,
              Cost cost)
      : limits_(limits), qmin_(qmin), qmax_(qmax), symmetric_(symmetric), cost_(cost) {}

  core::Range<float> run() {
    if (symmetric_) {
      for (std::int64_t part = kRaster; part > 0; part -= kRaster / 256) try_range(part, part);
      return best_;
    }
    constexpr std::int64_t kFirst = kRaster / 16;
    // A limit of zero has one point only.
    const std::int64_t last_low = limits_.min < 0 ? kFirst : kRaster;
    const std::int64_t last_high = limits_.max > 0 ? kFirst : kRaster;
    for (std::int64_t low = kRaster; low >= last_low; low -= kFirst) {
      for (std::int64_t high = kRaster; high >= last_high; high -= kFirst) try_range(low, high);
    }
    for (std::int64_t step = kFirst / 2; step > 0; step /= 2) {
      const std::int64_t low = best_low_;
      const std::int64_t high = best_high_;
      for (const std::int64_t i : {1, 0, -1}) {
        for (const std::int64_t j : {1, 0, -1}) {
          if (i != 0 || j != 0) try_range(low + i * step, high + j * step);
        }
      }
    }
    return best_;
  }

 private:
  static constexpr std::int64_t kRaster = 2048;

  void try_range(std::int64_t low, std::int64_t high) {
    if (low < 1 || high < 1 || low > kRaster || high > kRaster) return;
    const core::Range<float> range = core::range_from_min_max<float>(
        limits_.min * float(low) / float(kRaster), limits_.max * float(high) / float(kRaster),
        qmax_ - qmin_, symmetric_);
    const core::Encoding<float> encoding =
        core::encoding_from_range<float>(range, qmin_, qmax_, symmetric_);
    const double cost = cost_(core::AffineParams<float>{encoding.scale, encoding.offset,
                                                        float(qmin_), float(qmax_)});
    if (!(cost < best_cost_)) return;
    best_cost_ = cost;
    best_ = range;
    best_low_ = low;
    best_high_ = high;
  }

  core::Range<float> limits_;
  std::int64_t qmin_;
  std::int64_t qmax_;
  bool symmetric_;
  Cost cost_;
  double best_cost_ = std::numeric_limits<double>::infinity();
  std::int64_t best_low_ = kRaster;
  std::int64_t best_high_ = kRaster;
  core::Range<float> best_{0, 0};
};

}  // namespace aimet
