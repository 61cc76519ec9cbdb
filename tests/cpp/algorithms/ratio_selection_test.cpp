#include "aimet/algorithms/ratio_selection.h"

#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <limits>

namespace {

at::Tensor table(std::initializer_list<double> values, int64_t rows) {
  return at::tensor(at::ArrayRef<double>(values), at::kDouble).reshape({rows, -1});
}

TEST(SelectCandidates, SpendsABudgetWhereItHelpsMost) {
  // The second layer loses ten times as much for the same saving.
  const at::Tensor costs = table({10, 5, 1, 10, 5, 1}, 2);
  const at::Tensor errors = table({0, 1, 3, 0, 10, 30}, 2);
  const auto found =
      aimet::select_candidates(costs, errors, at::tensor({20.0, 15.0, 11.0, 2.0}, at::kDouble), 100);
  const int64_t* choices = found.choices.const_data_ptr<int64_t>();
  const int64_t wanted[] = {0, 0, 1, 0, 2, 0, 2, 2};
  for (int i = 0; i < 8; ++i) EXPECT_EQ(choices[i], wanted[i]) << i;
  const double* sums = found.errors.const_data_ptr<double>();
  EXPECT_EQ(sums[0], 0.0);
  EXPECT_EQ(sums[1], 1.0);
  EXPECT_EQ(sums[2], 3.0);
  EXPECT_EQ(sums[3], 33.0);
  EXPECT_TRUE(found.is_exact);
}

TEST(SelectCandidates, LeavesOutWhatIsNotThere) {
  const double none = std::numeric_limits<double>::infinity();
  const auto found = aimet::select_candidates(table({4, none, 2}, 1), table({0, 0, 7}, 1),
                                              at::tensor({3.0}, at::kDouble), 1);
  EXPECT_EQ(found.choices.item<int64_t>(), 2);
}

}  // namespace
