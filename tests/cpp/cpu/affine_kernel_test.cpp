// Kernels against the formulas of core, element by element and bit by bit.
#include "aimet/core/affine.h"
#include "aimet/core/half.h"

#include "each_capability.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace aimet::cpu {
namespace {

using AffineKernel = EachCapability;
AIMET_FOR_EACH_CAPABILITY(AffineKernel);

struct Problem {
  explicit Problem(Shape tensor_shape) : shape(tensor_shape), x(normal(count_of(shape), 1, 3.0f)) {
    for (std::int64_t c = 0; c < shape.channels; ++c) {
      scale.push_back(0.05f + 0.01f * static_cast<float>(c % 7));
      offset.push_back(static_cast<float>(c % 5) - 2.0f);
    }
    const float specials[] = {std::numeric_limits<float>::quiet_NaN(),
                              std::numeric_limits<float>::infinity(),
                              -std::numeric_limits<float>::infinity(),
                              0.0f,
                              -0.0f,
                              0.075f,
                              std::numeric_limits<float>::denorm_min(),
                              std::numeric_limits<float>::max()};
    for (std::size_t i = 0; i < x.size() && i < std::size(specials); ++i)
      x[i * 37 % x.size()] = specials[i];
  }
  core::AffineParams<float> params(std::int64_t element) const {
    const auto c = static_cast<std::size_t>(channel_of(element, shape));
    return {scale[c], offset[c], -8, 7};
  }
  AffineArguments arguments(void* output, std::uint8_t* mask) const {
    return {x.data(), output, mask, scale.data(), offset.data(), shape, -8, 7};
  }
  Shape shape;
  std::vector<float> x;
  std::vector<float> scale;
  std::vector<float> offset;
};

bool same_bits(float a, float b) {
  return std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b));
}

TEST_P(AffineKernel, EqualsTheFormulaOnEveryShape) {
  for (const Shape shape : kShapes) {
    const Problem problem(shape);
    std::vector<float> y(problem.x.size());
    const AffineArguments arguments = problem.arguments(y.data(), nullptr);
    for (const AffineMode mode :
         {AffineMode::kQuantize, AffineMode::kDequantize, AffineMode::kQuantizeDequantize}) {
      kernels().affine(ElementType::kFloat32, mode, arguments, 0, count_of(shape));
      for (std::size_t i = 0; i < y.size(); ++i) {
        const core::AffineParams<float> params = problem.params(static_cast<std::int64_t>(i));
        const float expected = mode == AffineMode::kQuantize ? core::quantize(problem.x[i], params)
                               : mode == AffineMode::kDequantize
                                   ? core::dequantize(problem.x[i], params)
                                   : core::quantize_dequantize(problem.x[i], params);
        ASSERT_TRUE(same_bits(y[i], expected)) << i << ": " << y[i] << " instead of " << expected;
      }
    }
  }
}

TEST_P(AffineKernel, GivesTheSameInParts) {
  const Problem problem({2, 3, 1100});
  std::vector<float> whole(problem.x.size());
  std::vector<float> parts(problem.x.size());
  const std::int64_t count = count_of(problem.shape);
  kernels().affine(ElementType::kFloat32, AffineMode::kQuantizeDequantize,
                   problem.arguments(whole.data(), nullptr), 0, count);
  for (std::int64_t begin = 0; begin < count; begin += kChunk) {
    const std::int64_t end = std::min(begin + kChunk, count);
    kernels().affine(ElementType::kFloat32, AffineMode::kQuantizeDequantize,
                     problem.arguments(parts.data(), nullptr), begin, end);
  }
  EXPECT_EQ(std::memcmp(whole.data(), parts.data(), whole.size() * sizeof(float)), 0);
}

// Past the caches or through them, aligned or not.
TEST_P(AffineKernel, StreamsTheSameBits) {
  for (const Shape shape : kShapes) {
    const Problem problem(shape);
    const std::size_t count = problem.x.size();
    const std::vector<float> grad = normal(count_of(shape), 2);
    const Reduction reduction{shape};
    std::vector<double> sums(2 * static_cast<std::size_t>(reduction.partial_count()) + 1);
    for (const ElementType type : {ElementType::kFloat32, ElementType::kBFloat16}) {
      std::vector<float> results[2];
      for (const bool is_streamed : {false, true}) {
        std::vector<float> storage(2 * count + 1);  // y, dx; four bytes off the alignment of vectors
        float* y = storage.data() + 1;
        AffineArguments arguments = problem.arguments(y, nullptr);
        arguments.is_streamed = is_streamed;
        kernels().affine(type, AffineMode::kQuantizeDequantize, arguments, 0, count_of(shape));
        const AffineBackwardArguments backward{grad.data(),
                                               problem.x.data(),
                                               y + count,
                                               problem.scale.data(),
                                               problem.offset.data(),
                                               sums.data(),
                                               sums.data() + reduction.partial_count(),
                                               reduction,
                                               -8,
                                               7,
                                               is_streamed};
        kernels().affine_backward(type, backward, 0, reduction.task_count());
        results[is_streamed ? 1 : 0] = storage;
      }
      ASSERT_EQ(std::memcmp(results[0].data(), results[1].data(), results[0].size() * 4), 0);
    }
  }
}

TEST_P(AffineKernel, PacksTheMask) {
  for (const Shape shape : kShapes) {
    const Problem problem(shape);
    std::vector<float> y(problem.x.size());
    std::vector<std::uint8_t> mask((problem.x.size() + 7) / 8, 0xff);
    kernels().affine(ElementType::kFloat32, AffineMode::kQuantizeDequantize,
                     problem.arguments(y.data(), mask.data()), 0, count_of(shape));
    for (std::size_t i = 0; i < mask.size() * 8; ++i) {
      bool inside = false;  // also for the unused bits of the last byte
      if (i < problem.x.size()) {
        const core::AffineParams<float> params = problem.params(static_cast<std::int64_t>(i));
        inside = core::is_inside_grid(core::unclamped_code(problem.x[i], params), params);
      }
      ASSERT_EQ((mask[i / 8] >> (i % 8)) & 1, inside ? 1 : 0) << i;
    }
  }
}

TEST_P(AffineKernel, ConvertsHalves) {
  const Problem problem({3, 5, 101});
  const std::size_t count = problem.x.size();
  std::vector<core::Half> half(count);
  std::vector<core::BFloat16> brain(count);
  for (std::size_t i = 0; i < count; ++i) {
    half[i] = core::to_half(problem.x[i]);
    brain[i] = core::to_bfloat16(problem.x[i]);
  }
  std::vector<core::Half> half_output(count);
  std::vector<core::BFloat16> brain_output(count);
  AffineArguments arguments = problem.arguments(half_output.data(), nullptr);
  arguments.input = half.data();
  kernels().affine(ElementType::kFloat16, AffineMode::kQuantizeDequantize, arguments, 0,
                   count_of(problem.shape));
  arguments.input = brain.data();
  arguments.output = brain_output.data();
  kernels().affine(ElementType::kBFloat16, AffineMode::kQuantizeDequantize, arguments, 0,
                   count_of(problem.shape));
  for (std::size_t i = 0; i < count; ++i) {
    const core::AffineParams<float> params = problem.params(static_cast<std::int64_t>(i));
    ASSERT_EQ(half_output[i].bits,
              core::to_half(core::quantize_dequantize(core::to_float(half[i]), params)).bits)
        << i;
    ASSERT_EQ(brain_output[i].bits,
              core::to_bfloat16(core::quantize_dequantize(core::to_float(brain[i]), params)).bits)
        << i;
  }
}

TEST_P(AffineKernel, SelectsByTheMask) {
  const std::vector<float> grad = normal(1003, 3);
  std::vector<std::uint8_t> mask(126);
  for (std::size_t i = 0; i < mask.size(); ++i) mask[i] = static_cast<std::uint8_t>(i * 37 + 11);
  std::vector<float> output(grad.size(), -1.0f);
  kernels().select_by_mask(4, grad.data(), mask.data(), output.data(), 0, 1003);
  for (std::size_t i = 0; i < grad.size(); ++i) {
    const bool inside = (mask[i / 8] >> (i % 8)) & 1;
    ASSERT_EQ(output[i], inside ? grad[i] : 0.0f) << i;
  }
}

// Sums of a backward pass: bits equal to those of the baseline, and close to a sum in double.
TEST_P(AffineKernel, BackwardAddsInTheSameOrderEverywhere) {
  for (const Shape shape : kShapes) {
    const Problem problem(shape);
    const std::vector<float> grad = normal(count_of(shape), 5);
    const Reduction reduction{shape};
    const auto partial_count = static_cast<std::size_t>(reduction.partial_count());
    std::vector<float> x = problem.x;
    for (float& value : x) value = std::isfinite(value) ? std::fmin(value, 100.0f) : 0.5f;

    const auto run = [&](const KernelTable& table, std::vector<float>& dx, std::vector<double>& ds,
                         std::vector<double>& d_offset) {
      dx.assign(x.size(), -1.0f);
      ds.assign(partial_count, 0.0);
      d_offset.assign(partial_count, 0.0);
      const AffineBackwardArguments arguments{grad.data(),
                                              x.data(),
                                              dx.data(),
                                              problem.scale.data(),
                                              problem.offset.data(),
                                              ds.data(),
                                              d_offset.data(),
                                              reduction,
                                              -8,
                                              7};
      table.affine_backward(ElementType::kFloat32, arguments, 0, reduction.task_count());
    };
    std::vector<float> dx, baseline_dx;
    std::vector<double> ds, baseline_ds, d_offset, baseline_d_offset;
    run(kernels(), dx, ds, d_offset);
    run(*kernel_table(Capability::kBaseline), baseline_dx, baseline_ds, baseline_d_offset);
    EXPECT_EQ(dx, baseline_dx);
    EXPECT_EQ(ds, baseline_ds);
    EXPECT_EQ(d_offset, baseline_d_offset);

    double total_ds = 0, total_offset = 0, expected_ds = 0, expected_offset = 0, magnitude = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const core::AffineGradient<float> d = core::quantize_dequantize_gradient(
          grad[i], x[i], problem.params(static_cast<std::int64_t>(i)));
      EXPECT_EQ(dx[i], d.input);
      expected_ds += d.scale;
      expected_offset += d.offset;
      magnitude += std::fabs(d.scale) + std::fabs(d.offset);
    }
    for (std::size_t i = 0; i < partial_count; ++i) {
      total_ds += ds[i];
      total_offset += d_offset[i];
    }
    // A float sum of at most 256 terms per lane: error below 256 * 2^-24 of the sum of magnitudes.
    EXPECT_NEAR(total_ds, expected_ds, magnitude * 256 * 0x1p-24);
    EXPECT_NEAR(total_offset, expected_offset, magnitude * 256 * 0x1p-24);
  }
}

}  // namespace
}  // namespace aimet::cpu
