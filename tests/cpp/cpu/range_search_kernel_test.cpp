#include "aimet/core/histogram.h"
#include "aimet/core/range_search.h"

#include "each_capability.h"

#include <cmath>
#include <limits>

namespace aimet::cpu {
namespace {

using RangeSearchKernel = EachCapability;
AIMET_FOR_EACH_CAPABILITY(RangeSearchKernel);

constexpr std::int64_t kBins = 512;
constexpr double kInfinite = std::numeric_limits<double>::infinity();

struct Histogram {
  std::vector<std::int64_t> counts = std::vector<std::int64_t>(kBins, 0);
  core::Range<float> range{};
};

// 20000 values of a normal distribution, and a few far away.
Histogram with_outliers(float outlier) {
  std::vector<float> x = normal(20000, 13);
  x.push_back(outlier);
  Histogram histogram;
  histogram.range = {x[0], x[0]};
  for (const float value : x) {
    histogram.range.min = std::fmin(histogram.range.min, value);
    histogram.range.max = std::fmax(histogram.range.max, value);
  }
  for (const float value : x)
    ++histogram.counts[static_cast<std::size_t>(core::bin_index(value, histogram.range, kBins))];
  return histogram;
}

core::Range<float> search(const KernelTable& kernels, RangeMethod method,
                          const Histogram& histogram, bool is_symmetric, std::int64_t bits = 4,
                          double percentile = 99.9) {
  core::Range<float> range{};
  const std::int64_t steps = (std::int64_t{1} << bits) - 1;
  const RangeSearchArguments arguments{method,
                                       histogram.counts.data(),
                                       &histogram.range.min,
                                       &histogram.range.max,
                                       kBins,
                                       0,
                                       steps,
                                       is_symmetric,
                                       percentile,
                                       {17, 101, 21, 3.0},
                                       &range.min,
                                       &range.max};
  std::vector<double> scratch(2 * kBins);
  kernels.range_search(arguments, scratch.data(), 0, 1);
  return range;
}

// Mean squared error of the bin centers.
double error_of(const Histogram& histogram, core::Range<float> range, std::int64_t bits) {
  const std::int64_t steps = (std::int64_t{1} << bits) - 1;
  const float scale = (range.max - range.min) / static_cast<float>(steps);
  const core::Encoding<float> encoding{scale, std::nearbyintf(range.min / scale)};
  const float width = core::bin_width(histogram.range, kBins);
  double error = 0;
  for (std::int64_t bin = 0; bin < kBins; ++bin) {
    const float center = histogram.range.min + width * (static_cast<float>(bin) + 0.5f);
    error += static_cast<double>(histogram.counts[static_cast<std::size_t>(bin)]) *
             static_cast<double>(
                 core::weighted_square_error(center, encoding, static_cast<float>(steps), 1.0f));
  }
  return error;
}

TEST_P(RangeSearchKernel, CutsOutliersOff) {
  const Histogram histogram = with_outliers(40.0f);
  for (const RangeMethod method :
       {RangeMethod::kPercentile, RangeMethod::kSqnr, RangeMethod::kMse, RangeMethod::kEntropy}) {
    for (const bool is_symmetric : {false, true}) {
      const core::Range<float> range = search(kernels(), method, histogram, is_symmetric);
      EXPECT_LT(range.max, 20.0f) << static_cast<int>(method);
      EXPECT_GT(range.max, 1.5f) << static_cast<int>(method);
      EXPECT_LT(range.min, -1.5f) << static_cast<int>(method);
    }
  }
}

TEST_P(RangeSearchKernel, FindsNoWorseRangeByMseThanTheOtherMethods) {
  for (const float outlier : {4.0f, 12.0f, 40.0f}) {
    const Histogram histogram = with_outliers(outlier);
    for (const bool is_symmetric : {false, true}) {
      const double best =
          error_of(histogram, search(kernels(), RangeMethod::kMse, histogram, is_symmetric), 4);
      for (const RangeMethod method :
           {RangeMethod::kSqnr, RangeMethod::kPercentile, RangeMethod::kEntropy}) {
        const double other =
            error_of(histogram, search(kernels(), method, histogram, is_symmetric), 4);
        EXPECT_LE(best, other * 1.01) << static_cast<int>(method) << ' ' << outlier;
      }
    }
  }
}

TEST_P(RangeSearchKernel, GivesTheSameBitsAsTheBaseline) {
  const Histogram histogram = with_outliers(9.0f);
  for (const RangeMethod method :
       {RangeMethod::kPercentile, RangeMethod::kSqnr, RangeMethod::kMse, RangeMethod::kEntropy}) {
    for (const bool is_symmetric : {false, true}) {
      const core::Range<float> range = search(kernels(), method, histogram, is_symmetric, 8);
      const core::Range<float> expected =
          search(*kernel_table(Capability::kBaseline), method, histogram, is_symmetric, 8);
      EXPECT_EQ(range.min, expected.min);
      EXPECT_EQ(range.max, expected.max);
    }
  }
}

// Channels with few values and with more bins than a chunk take different ways through the search.
TEST_P(RangeSearchKernel, FindsTheLeastErrorOfAllSymmetricCandidates) {
  for (const std::int64_t bins : {512, 4096}) {
    for (const std::size_t size : {1, 9, 17, 64, 300, 60000}) {
      const std::vector<float> x = normal(size, 14);
      core::Range<float> observed{x[0], x[0]};
      for (const float value : x) {
        observed.min = std::fmin(observed.min, value);
        observed.max = std::fmax(observed.max, value);
      }
      const core::Range<float> limits = core::bin_range(observed);
      std::vector<std::int64_t> counts(static_cast<std::size_t>(bins), 0);
      for (const float value : x)
        ++counts[static_cast<std::size_t>(core::bin_index(value, limits, bins))];
      const auto found_by = [&](const KernelTable& table) {
        core::Range<float> range{};
        std::vector<double> scratch(static_cast<std::size_t>(2 * bins));
        table.range_search({RangeMethod::kSqnr, counts.data(), &observed.min, &observed.max, bins,
                            -128, 127, true, 100, {17, 101, 21, 3.0}, &range.min, &range.max},
                           scratch.data(), 0, 1);
        return range;
      };
      const core::Range<float> found = found_by(kernels());
      const core::Range<float> expected = found_by(*kernel_table(Capability::kBaseline));
      EXPECT_EQ(found.min, expected.min);
      EXPECT_EQ(found.max, expected.max);

      const core::Range<float> data{std::fmin(limits.min, 0.0f), std::fmax(limits.max, 0.0f)};
      const float width = core::bin_width(limits, bins);
      const auto error = [&](core::Encoding<float> encoding) {
        double sum = 0;
        for (std::int64_t bin = 0; bin < bins; ++bin) {
          const float center = (limits.min + width * static_cast<float>(bin)) + width / 2;
          sum += static_cast<double>(counts[static_cast<std::size_t>(bin)]) *
                 static_cast<double>(
                     core::weighted_square_error(center, encoding, 255.0f, 3.0f));
        }
        return sum;
      };
      double least = kInfinite;
      for (std::int64_t k = 1; k <= 101; ++k)
        least = std::fmin(
            least, error(core::symmetric_candidate<float>(data, 255, {17, 101, 21, 3.0}, k)));
      EXPECT_LE(error({(found.max - found.min) / 255.0f, -128.0f}), least * 1.0001 + 1e-12)
          << bins << ' ' << size;
    }
  }
}

TEST_P(RangeSearchKernel, KeepsTheWholeRangeOfAFineGridByEntropy) {
  // With more codes than bins nothing is lost, so nothing should be cut off.
  const Histogram histogram = with_outliers(6.0f);
  const core::Range<float> range = search(kernels(), RangeMethod::kEntropy, histogram, false, 16);
  EXPECT_NEAR(range.max, histogram.range.max, 0.1f);
  EXPECT_NEAR(range.min, histogram.range.min, 0.1f);
}

TEST_P(RangeSearchKernel, KeepsTheObservedLimitsAtTheHundredthPercentile) {
  const Histogram histogram = with_outliers(40.0f);
  const core::Range<float> range =
      search(kernels(), RangeMethod::kPercentile, histogram, false, 8, 100.0);
  EXPECT_EQ(range.max, histogram.range.max);
  EXPECT_EQ(range.min, histogram.range.min);
}

TEST_P(RangeSearchKernel, GivesTheMinimalRangeForAnEmptyHistogram) {
  const Histogram empty{std::vector<std::int64_t>(kBins, 0), {1.0f, 2.0f}};
  for (const RangeMethod method :
       {RangeMethod::kPercentile, RangeMethod::kSqnr, RangeMethod::kMse, RangeMethod::kEntropy}) {
    const core::Range<float> range = search(kernels(), method, empty, false, 8);
    const core::Range<float> expected = core::range_from_min_max(0.0f, 0.0f, 255, false);
    EXPECT_EQ(range.min, expected.min);
    EXPECT_EQ(range.max, expected.max);
  }
}

}  // namespace
}  // namespace aimet::cpu
