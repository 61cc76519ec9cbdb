#include "aimet/core/range_search.h"

#include <gtest/gtest.h>

namespace aimet::core {
namespace {

constexpr SqnrSearch kSearch{17, 101, 21, 3.0};

TEST(SymmetricCandidate, ScalesTheLargestStep) {
  const Range<float> data{-1.0f, 2.0f};
  EXPECT_FLOAT_EQ(symmetric_candidate(data, 255, kSearch, 100).scale, 4.0f / 255);
  EXPECT_FLOAT_EQ(symmetric_candidate(data, 255, kSearch, 50).scale, 2.0f / 255);
  EXPECT_EQ(symmetric_candidate(data, 255, kSearch, 1).offset, -128.0f);
  EXPECT_EQ(symmetric_candidate(data, 254, kSearch, 1).offset, -127.0f);
}

TEST(AsymmetricCandidate, OffersTheRangeOfTheData) {
  const Range<float> data{-1.0f, 2.0f};
  // The largest but one scale is that of the data, and the last offset is theirs.
  const Encoding<float> candidate = asymmetric_candidate(data, 255, kSearch, 16, 20);
  EXPECT_FLOAT_EQ(candidate.scale, 3.0f / 255);
  EXPECT_EQ(candidate.offset, -85.0f);
}

TEST(AsymmetricCandidate, StaysWithinTheData) {
  const Range<float> data{-1.0f, 2.0f};
  for (std::int64_t k = 1; k <= kSearch.asymmetric_deltas; ++k) {
    for (std::int64_t j = 0; j < offset_candidate_count(255, kSearch); ++j) {
      const Encoding<float> candidate = asymmetric_candidate(data, 255, kSearch, k, j);
      const Range<float> range = range_of(candidate, 255);
      EXPECT_GT(candidate.scale, 0.0f);
      EXPECT_GE(range.min, -1.02f) << k << ' ' << j;
      EXPECT_LE(range.max, 2.02f) << k << ' ' << j;
    }
  }
}

TEST(OffsetCandidateCount, ShrinksWithTheGrid) {
  EXPECT_EQ(offset_candidate_count(255, kSearch), 21);
  EXPECT_EQ(offset_candidate_count(3, kSearch), 5);
}

TEST(WeightedSquareError, PunishesClipping) {
  const Encoding<float> encoding{1.0f, 0.0f};
  EXPECT_FLOAT_EQ(weighted_square_error(2.25f, encoding, 3.0f, 3.0f), 0.0625f);
  EXPECT_FLOAT_EQ(weighted_square_error(5.0f, encoding, 3.0f, 3.0f), 12.0f);
  EXPECT_FLOAT_EQ(weighted_square_error(-1.0f, encoding, 3.0f, 1.0f), 1.0f);
}

TEST(CoveringEncoding, PutsZeroOnACodeOfTheGrid) {
  const Encoding<float> symmetric = covering_encoding(Range<float>{-1.0f, 0.5f}, 255, true);
  EXPECT_EQ(symmetric.offset, -128.0f);
  EXPECT_FLOAT_EQ(range_of(symmetric, 255).min, -1.0f);
  const Encoding<float> one_sided = covering_encoding(Range<float>{0.5f, 2.55f}, 255, false);
  EXPECT_EQ(one_sided.offset, 0.0f);
  EXPECT_FLOAT_EQ(one_sided.scale, 0.01f);
}

}  // namespace
}  // namespace aimet::core
