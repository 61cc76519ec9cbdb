#include "aimet/core/histogram.h"

#include "each_capability.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace aimet::cpu {
namespace {

using StatisticsKernel = EachCapability;
AIMET_FOR_EACH_CAPABILITY(StatisticsKernel);

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST_P(StatisticsKernel, FindsTheLimitsOfFiniteValues) {
  for (const Shape shape : kShapes) {
    std::vector<float> x = normal(count_of(shape), 7);
    for (std::size_t i = 0; i < x.size(); i += 5) {
      const float specials[] = {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()};
      x[i] = specials[i % 3];
    }
    const Reduction reduction{shape};
    const auto partial_count = static_cast<std::size_t>(reduction.partial_count());
    std::vector<float> low(partial_count);
    std::vector<float> high(partial_count);
    const MinMaxArguments arguments{x.data(), low.data(), high.data(), reduction};
    kernels().min_max(ElementType::kFloat32, arguments, 0, reduction.task_count());
    float least = kInfinity;
    float greatest = -kInfinity;
    for (std::size_t i = 0; i < partial_count; ++i) {
      least = std::fmin(least, low[i]);
      greatest = std::fmax(greatest, high[i]);
    }
    float expected_least = kInfinity;
    float expected_greatest = -kInfinity;
    for (const float value : x) {
      if (!std::isfinite(value)) continue;
      expected_least = std::fmin(expected_least, value);
      expected_greatest = std::fmax(expected_greatest, value);
    }
    EXPECT_EQ(least, expected_least);
    EXPECT_EQ(greatest, expected_greatest);
  }
}

TEST_P(StatisticsKernel, FindsTheSameLimitsTaskByTask) {
  for (const Shape shape : kShapes) {
    const std::vector<float> x = normal(count_of(shape), 8);
    const Reduction reduction{shape};
    const auto partial_count = static_cast<std::size_t>(reduction.partial_count());
    std::vector<float> low[2], high[2];
    for (const int at_once : {0, 1}) {
      low[at_once].resize(partial_count);
      high[at_once].resize(partial_count);
      const MinMaxArguments arguments{x.data(), low[at_once].data(), high[at_once].data(),
                                      reduction};
      const std::int64_t tasks = std::max<std::int64_t>(1, reduction.task_count());
      const std::int64_t step = at_once == 1 ? tasks : 1;
      for (std::int64_t task = 0; task < reduction.task_count(); task += step)
        kernels().min_max(ElementType::kFloat32, arguments, task, task + step);
    }
    // Partial results of a channel: those of each of its groups.
    const std::int64_t per_group = reduction.partials_per_group();
    for (std::int64_t row = 0; per_group > 0 && row < reduction.partial_count(); row += per_group) {
      const auto least = [&](const std::vector<float>& values) {
        return *std::min_element(values.begin() + row, values.begin() + row + per_group);
      };
      const auto greatest = [&](const std::vector<float>& values) {
        return *std::max_element(values.begin() + row, values.begin() + row + per_group);
      };
      ASSERT_EQ(least(low[0]), least(low[1]));
      ASSERT_EQ(greatest(high[0]), greatest(high[1]));
    }
  }
}

TEST_P(StatisticsKernel, CountsEveryFiniteValueOnce) {
  constexpr std::int64_t kBins = 64;
  for (const Shape shape : kShapes) {
    std::vector<float> x = normal(count_of(shape), 9);
    if (x.size() > 2) x[1] = std::numeric_limits<float>::quiet_NaN();
    std::vector<float> low, high;
    for (std::int64_t c = 0; c < shape.channels; ++c) {
      low.push_back(-1.0f - 0.1f * static_cast<float>(c % 3));
      high.push_back(1.5f);
    }
    std::vector<std::int64_t> counts(static_cast<std::size_t>(shape.channels * kBins), 0);
    std::vector<std::int64_t> expected = counts;
    const HistogramArguments arguments{x.data(), low.data(), high.data(), shape, kBins};
    kernels().histogram(ElementType::kFloat32, arguments,
                        {0, shape.outer, 0, shape.channels, 0, shape.inner}, counts.data());
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (!std::isfinite(x[i])) continue;
      const auto c = static_cast<std::size_t>(channel_of(static_cast<std::int64_t>(i), shape));
      ++expected[c * kBins + static_cast<std::size_t>(core::bin_index(
                                 x[i], core::Range<float>{low[c], high[c]}, kBins))];
    }
    EXPECT_EQ(counts, expected);
  }
}

// Long runs are counted in several arrays of 16 bits: more equal values than these can hold.
TEST_P(StatisticsKernel, CountsLongRuns) {
  constexpr std::int64_t kSize = 1300001;
  for (const std::int64_t bins : {16, 512, 2048, 2049}) {
    std::vector<float> x = normal(kSize, 10);
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (i % 50 != 0) x[i] = 0.0f;
    }
    x[8] = kInfinity;
    x[kSize - 1] = std::numeric_limits<float>::quiet_NaN();
    const float low = 0.0f;
    const float high = 2.0f;
    constexpr std::int64_t kBegin = 3;
    std::vector<std::int64_t> counts(static_cast<std::size_t>(bins), 7);
    std::vector<std::int64_t> expected = counts;
    for (std::size_t i = kBegin; i < x.size(); ++i) {
      if (!std::isfinite(x[i])) continue;
      ++expected[static_cast<std::size_t>(
          core::bin_index(x[i], core::Range<float>{low, high}, bins))];
    }
    kernels().histogram(ElementType::kFloat32, {x.data(), &low, &high, {1, 1, kSize}, bins},
                        {0, 1, 0, 1, kBegin, kSize}, counts.data());
    EXPECT_EQ(counts, expected);
  }
}

TEST_P(StatisticsKernel, CountsNothingWhereNothingWasObserved) {
  const std::vector<float> x = normal(100, 11);
  const float low = kInfinity;
  const float high = -kInfinity;
  std::vector<std::int64_t> counts(16, 0);
  kernels().histogram(ElementType::kFloat32, {x.data(), &low, &high, {1, 1, 100}, 16},
                      {0, 1, 0, 1, 0, 100}, counts.data());
  EXPECT_EQ(counts, std::vector<std::int64_t>(16, 0));
}

}  // namespace
}  // namespace aimet::cpu
