// The kernels behind the rounding solver: the same bits for every instruction set, and what they
// promise.
#include "aimet/cpu/rounding.h"

#include "each_capability.h"

#include <algorithm>
#include <cmath>

namespace aimet::cpu {
namespace {

using RoundingKernel = EachCapability;
AIMET_FOR_EACH_CAPABILITY(RoundingKernel);

constexpr std::int64_t kSize = 37;
constexpr std::int64_t kRowCount = 8;
constexpr std::int64_t kBlockCount = 1;

std::vector<double> doubles(std::int64_t count, unsigned seed) {
  const std::vector<float> values = normal(count, seed);
  return {values.begin(), values.end()};
}

// A lower triangular factor and the matrix that it makes.
struct Matrix {
  std::vector<double> factor = std::vector<double>(kSize * kSize);
  std::vector<double> transposed = std::vector<double>(kSize * kSize);
  std::vector<double> gram = std::vector<double>(kSize * kSize);

  Matrix() {
    const std::vector<double> random = doubles(kSize * kSize, 3);
    for (std::int64_t i = 0; i < kSize; ++i) {
      for (std::int64_t j = 0; j <= i; ++j) {
        const double value = i == j ? 1 + std::fabs(random[i * kSize + j]) : random[i * kSize + j];
        factor[i * kSize + j] = transposed[j * kSize + i] = value;
      }
    }
    for (std::int64_t i = 0; i < kSize; ++i) {
      for (std::int64_t j = 0; j < kSize; ++j) {
        for (std::int64_t k = 0; k < kSize; ++k)
          gram[i * kSize + j] += factor[i * kSize + k] * factor[j * kSize + k];
      }
    }
  }
};

std::vector<double> times_gram(const std::vector<double>& rows, const Matrix& matrix) {
  std::vector<double> result(rows.size());
  for (std::int64_t row = 0; row < kRowCount; ++row) {
    for (std::int64_t j = 0; j < kSize; ++j) {
      for (std::int64_t k = 0; k < kSize; ++k)
        result[row * kSize + j] += rows[row * kSize + k] * matrix.gram[k * kSize + j];
    }
  }
  return result;
}

struct Result {
  std::vector<double> codes = std::vector<double>(kRowCount * kSize);
  std::vector<double> objective = std::vector<double>(kRowCount);
  std::vector<double> scale = std::vector<double>(kRowCount * kBlockCount, 0.4);
  bool operator==(const Result& other) const {
    return codes == other.codes && objective == other.objective && scale == other.scale;
  }
};

Result round(const KernelTable& kernels, std::int64_t sweeps, bool refines) {
  const Matrix matrix;
  const std::vector<double> target = doubles(kRowCount * kSize, 5);
  const std::vector<double> offset(kRowCount * kBlockCount, 0.0);
  const std::vector<std::int32_t> block(kSize, 0);
  std::vector<double> scratch(
      static_cast<std::size_t>(rounding_scratch_size(kSize, kRoundingRows)));
  const std::vector<double> wanted = times_gram(target, matrix);
  std::vector<double> error(kRowCount * kSize), image(kRowCount * kSize);
  Result result;
  const RoundingArguments arguments{matrix.gram.data(),
                                    matrix.factor.data(),
                                    target.data(),
                                    wanted.data(),
                                    offset.data(),
                                    result.scale.data(),
                                    result.codes.data(),
                                    error.data(),
                                    image.data(),
                                    result.objective.data(),
                                    block.data(),
                                    kSize,
                                    kBlockCount,
                                    -4,
                                    3,
                                    true,
                                    refines,
                                    sweeps};
  kernels.start_rows(arguments, scratch.data(), 0, 5);
  kernels.start_rows(arguments, scratch.data(), 5, kRowCount);
  const std::vector<double> product = times_gram(error, matrix);
  std::copy(product.begin(), product.end(), image.begin());
  kernels.improve_rows(arguments, scratch.data(), 0, 5);
  kernels.improve_rows(arguments, scratch.data(), 5, kRowCount);
  return result;
}

TEST_P(RoundingKernel, GivesTheBitsOfTheBaseline) {
  const KernelTable& baseline = *kernel_table(Capability::kBaseline);
  for (const bool refines : {false, true})
    EXPECT_TRUE(round(kernels(), 100, refines) == round(baseline, 100, refines));
}

TEST_P(RoundingKernel, DescendsFromTheFirstRounding) {
  const Result first = round(kernels(), 0, false);
  const Result last = round(kernels(), 100, false);
  double sum_of_first = 0, sum_of_last = 0;
  for (std::int64_t row = 0; row < kRowCount; ++row) {
    EXPECT_LE(last.objective[row], first.objective[row]);
    sum_of_first += first.objective[row];
    sum_of_last += last.objective[row];
  }
  EXPECT_LT(sum_of_last, sum_of_first);
}

TEST_P(RoundingKernel, SolvesRows) {
  const Matrix matrix;
  const std::vector<double> wanted = doubles(kRowCount * kSize, 7);
  std::vector<double> rows = times_gram(wanted, matrix);
  std::vector<double> of_baseline = rows;
  kernels().solve_rows(matrix.factor.data(), matrix.transposed.data(), kSize, rows.data(),
                       kRowCount);
  kernel_table(Capability::kBaseline)
      ->solve_rows(matrix.factor.data(), matrix.transposed.data(), kSize, of_baseline.data(),
                   kRowCount);
  EXPECT_EQ(rows, of_baseline);
  // The matrix's condition number is about 1e6.
  for (std::size_t i = 0; i < rows.size(); ++i) EXPECT_NEAR(rows[i], wanted[i], 1e-7);
}

TEST_P(RoundingKernel, AddsMoments) {
  constexpr std::int64_t kInputs = 3, kOutputs = 2, kLength = 2500;
  const std::vector<float> input = normal(kInputs * kLength, 1);
  const std::vector<float> output = normal(kOutputs * kLength, 2);
  const auto moments = [&](const KernelTable& table) {
    std::vector<double> sums(kInputs * kInputs + kOutputs * kInputs + kInputs + kOutputs + 1);
    double* cross = sums.data() + kInputs * kInputs;
    double* input_sum = cross + kOutputs * kInputs;
    table.add_moments(
        {input.data(), output.data(), nullptr, sums.data(), cross, input_sum, input_sum + kInputs,
         input_sum + kInputs + kOutputs, kInputs, kOutputs, kLength, kLength, kLength},
        nullptr);
    return sums;
  };
  const std::vector<double> sums = moments(kernels());
  EXPECT_EQ(sums, moments(*kernel_table(Capability::kBaseline)));
  double direct = 0;
  for (std::int64_t i = 0; i < kLength; ++i)
    direct += static_cast<double>(output[kLength + i]) * static_cast<double>(input[i]);
  // Sums of 64 products in float32.
  EXPECT_NEAR(sums[kInputs * kInputs + kInputs], direct, 1e-3);
}

}  // namespace
}  // namespace aimet::cpu
