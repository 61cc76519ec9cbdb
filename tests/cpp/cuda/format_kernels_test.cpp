// The CUDA kernels of floating-point formats and of microscaling, emulated on the CPU, against the
// CPU kernels: the same bits.
#include "aimet/core/microscaling.h"
#include "aimet/cuda/kernels.h"

#include "buffers.h"

#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <vector>

namespace aimet {
namespace {

using core::ElementType;
using core::FloatGrid;
using core::Reduction;
using core::Shape;
using cuda_test::are_equal_sums;
using cuda_test::Buffer;
using cuda_test::cpu_kernels;
using cuda_test::element_size;
using cuda_test::per_channel;
using cuda_test::random_values;

const ElementType kTypes[] = {ElementType::kFloat32, ElementType::kFloat64, ElementType::kFloat16,
                              ElementType::kBFloat16};
const char* const kTypeNames[] = {"float32", "float64", "float16", "bfloat16"};

const FloatGrid kGrids[] = {
    core::float_grid({4, 3, true, false}, true), core::float_grid({5, 2, false, false}, false),
    core::float_grid({4, 3, true, true}, false), core::float_grid({8, 7, false, false}, true),
    core::float_grid({2, 1, true, false}, true)};

std::size_t compute_size(ElementType type) {
  return type == ElementType::kFloat64 ? 8 : 4;
}

// Bits that agree; NaN agrees with NaN.
template <typename T>
bool are_equal(T a, T b) {
  return std::memcmp(&a, &b, sizeof(T)) == 0 || (a != a && b != b);
}

bool are_equal_values(ElementType type, Buffer& a, Buffer& b, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    bool equal = true;
    if (type == ElementType::kFloat64) equal = are_equal(a.as<double>()[i], b.as<double>()[i]);
    if (type == ElementType::kFloat32) equal = are_equal(a.as<float>()[i], b.as<float>()[i]);
    if (type == ElementType::kFloat16)
      equal = are_equal(core::to_float(a.as<core::Half>()[i]),
                        core::to_float(b.as<core::Half>()[i]));
    if (type == ElementType::kBFloat16)
      equal = are_equal(core::to_float(a.as<core::BFloat16>()[i]),
                        core::to_float(b.as<core::BFloat16>()[i]));
    if (!equal) return false;
  }
  return true;
}

class CudaFloatFormats
    : public ::testing::TestWithParam<std::tuple<ElementType, Shape, std::int64_t>> {
 protected:
  const ElementType type_ = std::get<0>(GetParam());
  const Shape shape_ = std::get<1>(GetParam());
  const std::int64_t offset_ = std::get<2>(GetParam());
  const std::int64_t count_ = shape_.outer * shape_.channels * shape_.inner;
  Buffer input_ = random_values(type_, count_, offset_, 1);
  Buffer scale_ = per_channel(type_, shape_.channels, 0.25, 0.1);
};

TEST_P(CudaFloatFormats, ForwardEqualsTheCpu) {
  const std::size_t size = element_size(type_);
  for (const FloatGrid& grid : kGrids) {
    for (const bool with_mask : {false, true}) {
      Buffer expected(size, count_), actual(size, count_, offset_);
      Buffer expected_mask(1, (count_ + 7) / 8), actual_mask(1, (count_ + 7) / 8);
      core::FloatFormatArguments arguments{input_.data(),
                                           expected.data(),
                                           with_mask ? expected_mask.as<std::uint8_t>() : nullptr,
                                           scale_.data(),
                                           shape_,
                                           grid};
      if (count_ > 0) cpu_kernels().float_format(type_, arguments, 0, count_);
      arguments.output = actual.data();
      arguments.mask = with_mask ? actual_mask.as<std::uint8_t>() : nullptr;
      ASSERT_EQ(cuda::launch_float_format(type_, arguments, count_, nullptr), 0);
      EXPECT_TRUE(are_equal_values(type_, actual, expected, count_)) << grid.largest;
      EXPECT_TRUE(actual_mask == expected_mask);
      EXPECT_TRUE(actual.has_guards() && actual_mask.has_guards());
    }
  }
}

TEST_P(CudaFloatFormats, BackwardEqualsTheCpu) {
  const std::size_t size = element_size(type_);
  const Reduction reduction{shape_};
  const std::int64_t partials = reduction.partial_count();
  Buffer grad = random_values(type_, count_, 0, 3, /*is_finite=*/true);
  for (const bool with_input : {true, false}) {
    Buffer expected(size, count_), actual(size, count_, offset_);
    Buffer expected_sums(8, partials), actual_sums(8, partials);
    core::FloatFormatBackwardArguments arguments{
        grad.data(),   input_.data(),           with_input ? expected.data() : nullptr,
        scale_.data(), expected_sums.as<double>(), reduction,
        kGrids[0]};
    cpu_kernels().float_format_backward(type_, arguments, 0, reduction.task_count());
    arguments.grad_input = with_input ? actual.data() : nullptr;
    arguments.partial_scale = actual_sums.as<double>();
    ASSERT_EQ(cuda::launch_float_format_backward(type_, arguments, nullptr), 0);
    EXPECT_TRUE(actual == expected);
    EXPECT_TRUE(are_equal_sums(actual_sums, expected_sums, partials));
    EXPECT_TRUE(actual.has_guards() && actual_sums.has_guards());
  }
}

const Shape kShapes[] = {{1, 1, 0},  {1, 1, 7},   {1, 1, 5005}, {1, 3, 2500}, {2, 5, 49},
                         {1, 40, 1}, {600, 3, 1}, {300, 2, 9},  {5, 1, 33}};

INSTANTIATE_TEST_SUITE_P(
    Geometries, CudaFloatFormats,
    ::testing::Combine(::testing::ValuesIn(kTypes), ::testing::ValuesIn(kShapes),
                       ::testing::Values(std::int64_t{0}, std::int64_t{1})),
    [](const auto& test) {
      const Shape shape = std::get<1>(test.param);
      return std::string(kTypeNames[static_cast<int>(std::get<0>(test.param))]) + "_" +
             std::to_string(shape.outer) + "x" + std::to_string(shape.channels) + "x" +
             std::to_string(shape.inner) + (std::get<2>(test.param) != 0 ? "_unaligned" : "");
    });

struct BlockShape {
  std::int64_t outer;
  std::int64_t length;
  std::int64_t inner;
  std::int64_t block;
};

class CudaMicroscaling : public ::testing::TestWithParam<std::tuple<ElementType, BlockShape>> {};

TEST_P(CudaMicroscaling, EqualsTheCpu) {
  const auto [type, shape] = GetParam();
  const std::int64_t count = shape.outer * shape.length * shape.inner;
  const std::size_t size = element_size(type);
  Buffer input = random_values(type, count, 0, 5);
  Buffer tensor_scale = per_channel(type, 1, 0.013, 0.0);
  const FloatGrid elements[] = {core::float_grid({4, 3, true, false}, true),
                                core::float_grid({2, 1, true, false}, true), core::mx_int8_grid()};
  for (const FloatGrid& element : elements) {
    for (const bool is_nvfp4 : {false, true}) {
      for (const bool with_mask : {false, true}) {
        core::MicroscalingArguments arguments{input.data(),
                                              nullptr,
                                              nullptr,
                                              nullptr,
                                              is_nvfp4 ? tensor_scale.data() : nullptr,
                                              shape.outer,
                                              shape.length,
                                              shape.inner,
                                              shape.block,
                                              element};
        const std::int64_t scales = shape.outer * arguments.blocks() * shape.inner;
        Buffer expected(size, count), actual(size, count);
        Buffer expected_scale(compute_size(type), scales), actual_scale(compute_size(type), scales);
        Buffer expected_mask(1, (count + 7) / 8), actual_mask(1, (count + 7) / 8);
        std::memset(expected_mask.data(), 0, static_cast<std::size_t>((count + 7) / 8));
        arguments.output = expected.data();
        arguments.scale = expected_scale.data();
        arguments.mask = with_mask ? expected_mask.as<std::uint8_t>() : nullptr;
        cpu_kernels().microscaling(type, arguments, 0, arguments.units());
        arguments.output = actual.data();
        arguments.scale = actual_scale.data();
        arguments.mask = with_mask ? actual_mask.as<std::uint8_t>() : nullptr;
        ASSERT_EQ(cuda::launch_microscaling(type, arguments, nullptr), 0);
        EXPECT_TRUE(are_equal_values(type, actual, expected, count)) << element.largest;
        EXPECT_TRUE(actual_scale == expected_scale);
        EXPECT_TRUE(!with_mask || actual_mask == expected_mask);
        EXPECT_TRUE(actual.has_guards() && actual_scale.has_guards() && actual_mask.has_guards());
      }
    }
  }
}

// Whole and partial blocks, bytes of the mask that blocks share, blocks beside each other, long ones.
const BlockShape kBlockShapes[] = {{1, 64, 1, 32},  {3, 45, 1, 32},  {5, 48, 1, 16},
                                   {2, 7, 1, 3},    {0, 32, 1, 32},  {1, 70, 3, 32},
                                   {2, 40, 9, 16},  {1, 33, 200, 32}, {2, 300, 1, 128},
                                   {70, 32, 1, 32}, {4, 64, 1, 8}};

INSTANTIATE_TEST_SUITE_P(
    Geometries, CudaMicroscaling,
    ::testing::Combine(::testing::ValuesIn(kTypes), ::testing::ValuesIn(kBlockShapes)),
    [](const auto& test) {
      const BlockShape shape = std::get<1>(test.param);
      return std::string(kTypeNames[static_cast<int>(std::get<0>(test.param))]) + "_" +
             std::to_string(shape.outer) + "x" + std::to_string(shape.length) + "x" +
             std::to_string(shape.inner) + "_by_" + std::to_string(shape.block);
    });

}  // namespace
}  // namespace aimet
