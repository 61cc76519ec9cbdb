// The CUDA kernels, emulated on the CPU, against the CPU kernels: the same bits for every element
// type, geometry, alignment and mode.
#include "aimet/cuda/kernels.h"

#include "aimet/core/encoding.h"

#include "buffers.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace aimet {
namespace {

using cuda_test::Buffer;
using cuda_test::are_equal_sums;
using cuda_test::cpu_kernels;
using cuda_test::element_size;
using cuda_test::kInfinity;
using cuda_test::per_channel;
using cuda_test::random_values;

using core::AffineMode;
using core::ElementType;
using core::Reduction;
using core::Shape;

struct Case {
  ElementType type;
  Shape shape;
  std::int64_t offset;  // of the data, in elements, from a 16-byte boundary
};

std::string name_of(const ::testing::TestParamInfo<Case>& info) {
  const char* names[] = {"float32", "float64", "float16", "bfloat16"};
  const Case& c = info.param;
  return std::string(names[static_cast<int>(c.type)]) + "_" + std::to_string(c.shape.outer) + "x" +
         std::to_string(c.shape.channels) + "x" + std::to_string(c.shape.inner) +
         (c.offset != 0 ? "_unaligned" : "");
}

std::vector<Case> cases() {
  // Per tensor; channels in front, in the middle, last; short runs; many rows; chunks that are not
  // full.
  const Shape shapes[] = {{1, 1, 0},   {1, 1, 1},   {1, 1, 7},   {1, 1, 5005}, {1, 3, 2500},
                          {2, 5, 49},  {3, 4, 17},  {2, 3, 5},   {1, 40, 1},   {7, 130, 1},
                          {600, 3, 1}, {300, 2, 9}, {1, 900, 3}, {5, 1, 33}};
  std::vector<Case> all;
  for (const Shape& shape : shapes) {
    for (const ElementType type : {ElementType::kFloat32, ElementType::kFloat64,
                                   ElementType::kFloat16, ElementType::kBFloat16}) {
      all.push_back({type, shape, 0});
      if (shape.outer * shape.channels * shape.inner % 7 == 0) all.push_back({type, shape, 1});
    }
  }
  return all;
}

class CudaKernels : public ::testing::TestWithParam<Case> {
 protected:
  const ElementType type_ = GetParam().type;
  const Shape shape_ = GetParam().shape;
  const std::int64_t count_ = shape_.outer * shape_.channels * shape_.inner;
  const std::int64_t offset_ = GetParam().offset;
  const Reduction reduction_{shape_};
  const std::size_t size_ = element_size(type_);
  const std::size_t compute_size_ = type_ == ElementType::kFloat64 ? 8 : 4;
  Buffer input_ = random_values(type_, count_, offset_, 1);
  Buffer scale_ = per_channel(type_, shape_.channels, 0.25, 0.1);
  Buffer zero_ = per_channel(type_, shape_.channels, -9.0, 2.0);
};

TEST_P(CudaKernels, AffineEqualsTheCpu) {
  for (const AffineMode mode :
       {AffineMode::kQuantize, AffineMode::kDequantize, AffineMode::kQuantizeDequantize}) {
    for (const bool with_mask : {false, true}) {
      if (with_mask && mode != AffineMode::kQuantizeDequantize) continue;
      Buffer expected(size_, count_);
      Buffer expected_mask(1, (count_ + 7) / 8);
      Buffer actual(size_, count_, offset_);
      Buffer actual_mask(1, (count_ + 7) / 8);
      core::AffineArguments arguments{input_.data(),
                                      expected.data(),
                                      with_mask ? expected_mask.as<std::uint8_t>() : nullptr,
                                      scale_.data(),
                                      zero_.data(),
                                      shape_,
                                      -128.0,
                                      127.0};
      if (count_ > 0) cpu_kernels().affine(type_, mode, arguments, 0, count_);
      arguments.output = actual.data();
      arguments.mask = with_mask ? actual_mask.as<std::uint8_t>() : nullptr;
      ASSERT_EQ(cuda::launch_affine(type_, mode, arguments, count_, nullptr), 0);
      EXPECT_TRUE(actual == expected) << static_cast<int>(mode) << " mask " << with_mask;
      EXPECT_TRUE(actual_mask == expected_mask);
      EXPECT_TRUE(actual.has_guards() && actual_mask.has_guards());
    }
  }
}

TEST_P(CudaKernels, SelectByMaskEqualsTheCpu) {
  Buffer mask = random_values(ElementType::kFloat32, (count_ + 31) / 32 + 1, 0, 2);
  Buffer expected(size_, count_);
  Buffer actual(size_, count_, offset_);
  const int size = static_cast<int>(size_);
  cpu_kernels().select_by_mask(size, input_.data(), mask.as<std::uint8_t>(), expected.data(), 0,
                               count_);
  ASSERT_EQ(cuda::launch_select_by_mask(size, input_.data(), mask.as<std::uint8_t>(), actual.data(),
                                        count_, nullptr),
            0);
  EXPECT_TRUE(actual == expected);
  EXPECT_TRUE(actual.has_guards());
}

TEST_P(CudaKernels, BackwardEqualsTheCpu) {
  Buffer grad = random_values(type_, count_, 0, 3, /*is_finite=*/true);
  for (const bool with_input : {true, false}) {
    Buffer expected(size_, count_);
    Buffer actual(size_, count_, offset_);
    const std::int64_t partials = reduction_.partial_count();
    Buffer expected_scale(8, partials), expected_offset(8, partials), actual_scale(8, partials),
        actual_offset(8, partials);
    core::AffineBackwardArguments arguments{grad.data(),
                                            input_.data(),
                                            with_input ? expected.data() : nullptr,
                                            scale_.data(),
                                            zero_.data(),
                                            expected_scale.as<double>(),
                                            expected_offset.as<double>(),
                                            reduction_,
                                            -128.0,
                                            127.0};
    cpu_kernels().affine_backward(type_, arguments, 0, reduction_.task_count());
    arguments.grad_input = with_input ? actual.data() : nullptr;
    arguments.partial_scale = actual_scale.as<double>();
    arguments.partial_offset = actual_offset.as<double>();
    ASSERT_EQ(cuda::launch_affine_backward(type_, arguments, nullptr), 0);
    EXPECT_TRUE(actual == expected);
    EXPECT_TRUE(are_equal_sums(actual_scale, expected_scale, partials));
    EXPECT_TRUE(are_equal_sums(actual_offset, expected_offset, partials));
    EXPECT_TRUE(actual.has_guards() && actual_scale.has_guards() && actual_offset.has_guards());

    Buffer sums(8, shape_.channels);
    ASSERT_EQ(cuda::launch_sum_partials(actual_scale.as<double>(), reduction_, sums.as<double>(),
                                        nullptr),
              0);
    Buffer expected_sums(8, shape_.channels);
    for (std::int64_t c = 0; c < shape_.channels; ++c) {
      expected_sums.as<double>()[c] =
          core::sum_of_channel(expected_scale.as<double>(), reduction_, c);
    }
    EXPECT_TRUE(are_equal_sums(sums, expected_sums, shape_.channels));
    EXPECT_TRUE(sums.has_guards());
  }
}

TEST_P(CudaKernels, MinMaxEqualsTheCpu) {
  const std::int64_t partials = reduction_.partial_count();
  Buffer expected_low(compute_size_, partials), expected_high(compute_size_, partials);
  Buffer actual_low(compute_size_, partials), actual_high(compute_size_, partials);
  core::MinMaxArguments arguments{input_.data(), expected_low.data(), expected_high.data(),
                                  reduction_};
  // One by one: of tasks of one run that it is given together, the first gets the limits of all.
  for (std::int64_t task = 0; task < reduction_.task_count(); ++task)
    cpu_kernels().min_max(type_, arguments, task, task + 1);
  arguments.partial_min = actual_low.data();
  arguments.partial_max = actual_high.data();
  ASSERT_EQ(cuda::launch_min_max(type_, arguments, nullptr), 0);
  const auto value = [&](Buffer& buffer, std::int64_t i) {
    return compute_size_ == 8 ? buffer.as<double>()[i] : static_cast<double>(buffer.as<float>()[i]);
  };
  for (std::int64_t i = 0; i < partials;
       ++i) {  // not the bits: the sign of zero depends on the order
    ASSERT_EQ(value(actual_low, i), value(expected_low, i)) << i;
    ASSERT_EQ(value(actual_high, i), value(expected_high, i)) << i;
  }
  EXPECT_TRUE(actual_low.has_guards() && actual_high.has_guards());

  Buffer low(compute_size_, shape_.channels), high(compute_size_, shape_.channels);
  ASSERT_EQ(cuda::launch_combine_min_max(compute_size_ == 8, actual_low.data(), actual_high.data(),
                                         reduction_, low.data(), high.data(), nullptr),
            0);
  for (std::int64_t c = 0; c < shape_.channels; ++c) {
    double expected_min = kInfinity;
    double expected_max = -kInfinity;
    const std::int64_t per_group = reduction_.partials_per_group();
    for (std::int64_t group = 0; group < reduction_.groups(); ++group) {
      for (std::int64_t i = 0; i < per_group; ++i) {
        const std::int64_t index = (group * shape_.channels + c) * per_group + i;
        expected_min = std::min(expected_min, value(expected_low, index));
        expected_max = std::max(expected_max, value(expected_high, index));
      }
    }
    EXPECT_EQ(value(low, c), expected_min);
    EXPECT_EQ(value(high, c), expected_max);
  }
}

TEST_P(CudaKernels, HistogramEqualsTheCpu) {
  // The second does not fit into shared memory.
  for (const std::int64_t bins : {std::int64_t{50}, std::int64_t{3000}}) {
    Buffer low = per_channel(type_, shape_.channels, -60.0, 7.0);
    Buffer high = per_channel(type_, shape_.channels, 10.0, 3.0);
    if (shape_.channels > 2) {  // a channel that has observed nothing, and one of constants
      std::swap_ranges(low.as<char>(), low.as<char>() + compute_size_, high.as<char>());
      std::copy_n(low.as<char>() + compute_size_, compute_size_, high.as<char>() + compute_size_);
    }
    const core::HistogramArguments arguments{input_.data(), low.data(), high.data(), shape_, bins};
    Buffer expected(8, shape_.channels * bins), actual(8, shape_.channels * bins);
    for (std::int64_t i = 0; i < shape_.channels * bins;
         ++i) {  // counts are added to those that are there
      expected.as<std::int64_t>()[i] = actual.as<std::int64_t>()[i] = i % 3;
    }
    cpu_kernels().histogram(type_, arguments,
                            {0, shape_.outer, 0, shape_.channels, 0, shape_.inner},
                            expected.as<std::int64_t>());
    ASSERT_EQ(cuda::launch_histogram(type_, arguments, actual.as<std::int64_t>(), nullptr), 0);
    EXPECT_TRUE(actual == expected) << bins;
    EXPECT_TRUE(actual.has_guards());
  }
}

INSTANTIATE_TEST_SUITE_P(Geometries, CudaKernels, ::testing::ValuesIn(cases()), name_of);

TEST(CudaSums, AddMembersInOrder) {
  // 1 + 2^53 loses the 1 when the large ones are added first: the order shows.
  const double values[] = {0x1p53, 1.0, 2.0, -0x1p53, 5.0, 1.0};
  const std::int64_t members[] = {0, 1, 3, 4, 2, 5};
  double sums[2];
  ASSERT_EQ(cuda::launch_sum_members(values, members, 2, 3, sums, nullptr), 0);
  EXPECT_EQ(sums[0], (0x1p53 + 1.0) - 0x1p53);
  EXPECT_EQ(sums[1], 8.0);
}

// More parts than the emulated grid has blocks.
TEST(CudaHistogram, CountsLongTensorsInParts) {
  std::vector<float> values(200001, 0.25F);
  values[100000] = 3.5F;
  const float low = 0.0F;
  const float high = 4.0F;
  std::int64_t counts[4] = {};
  const core::HistogramArguments arguments{values.data(), &low, &high, {1, 1, 200001}, 4};
  ASSERT_EQ(cuda::launch_histogram(ElementType::kFloat32, arguments, counts, nullptr), 0);
  EXPECT_EQ(counts[0], 200000);
  EXPECT_EQ(counts[3], 1);
}

TEST(CudaEncoding, EqualsCore) {
  const float low[] = {-1.5F, 0.0F, -1e-9F, -3.0F, std::numeric_limits<float>::quiet_NaN()};
  const float high[] = {0.9F, 6.0F, 0.0F, -1.0F, 1.0F};
  for (const bool is_symmetric : {false, true}) {
    float scale[5];
    float offset[5];
    ASSERT_EQ(cuda::launch_encoding_from_range(false, low, high, 5, -8, 7, is_symmetric, scale,
                                               offset, nullptr),
              0);
    for (int i = 0; i < 5; ++i) {
      const auto expected =
          core::encoding_from_range(core::Range<float>{low[i], high[i]}, -8, 7, is_symmetric);
      EXPECT_TRUE(scale[i] == expected.scale ||
                  (std::isnan(scale[i]) && std::isnan(expected.scale)))
          << i;
      EXPECT_TRUE(offset[i] == expected.offset ||
                  (std::isnan(offset[i]) && std::isnan(expected.offset)))
          << i;
    }
  }
}

TEST(CudaErrors, AreReturnedAndNamed) {
  EXPECT_NE(cuda::launch_select_by_mask(3, nullptr, nullptr, nullptr, 8, nullptr), 0);
  EXPECT_STREQ(cuda::error_text(0), "no error");
}

}  // namespace
}  // namespace aimet
