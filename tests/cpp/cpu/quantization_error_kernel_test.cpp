#include "aimet/core/quantization_error.h"

#include "each_capability.h"

#include <cmath>

namespace aimet::cpu {
namespace {

using QuantizationErrorKernel = EachCapability;
AIMET_FOR_EACH_CAPABILITY(QuantizationErrorKernel);

constexpr std::int64_t kSums = QuantizationErrorArguments::kSums;
const double kQmin[] = {-8, 0};
const double kQmax[] = {7, 255};

struct Errors {
  std::vector<double> partial;
  std::vector<double> power;
};

// Two grids on (outer, channels, inner) elements, `outer` samples.
struct Tensor {
  explicit Tensor(Shape s) : shape(s), x(normal(count_of(s), 3)), grad(normal(count_of(s), 4)) {
    for (std::int64_t c = 0; c < shape.channels; ++c) scale.push_back(0.1f + 0.01f * float(c % 7));
    for (std::int64_t c = 0; c < shape.channels; ++c) {
      scale.push_back(0.003f + 0.001f * float(c % 5));
    }
    for (std::int64_t c = 0; c < 2 * shape.channels; ++c) offset.push_back(-float(c % 3));
  }

  Errors run(const KernelTable& kernels, bool has_gradient, bool at_once) const {
    QuantizationErrorArguments a{};
    a.input = x.data();
    a.grad = has_gradient ? grad.data() : nullptr;
    a.scale = scale.data();
    a.offset = offset.data();
    a.shape = shape;
    a.row_length = shape.channels * shape.inner;
    a.candidates = 2;
    a.qmin = kQmin;
    a.qmax = kQmax;
    const std::int64_t tasks = shape.outer * a.chunks_per_row();
    Errors errors{std::vector<double>(static_cast<std::size_t>(tasks * 2 * kSums)),
                  std::vector<double>(static_cast<std::size_t>(tasks))};
    a.partial = errors.partial.data();
    a.power = errors.power.data();
    const std::int64_t step = at_once ? (tasks > 0 ? tasks : 1) : 1;
    for (std::int64_t task = 0; task < tasks; task += step)
      kernels.quantization_errors(ElementType::kFloat32, a, task, task + step);
    return errors;
  }

  Shape shape;
  std::vector<float> x, grad, scale, offset;
};

TEST_P(QuantizationErrorKernel, AddsUpWhatTheFormulaGives) {
  for (const Shape shape : kShapes) {
    const Tensor tensor(shape);
    const Errors errors = tensor.run(kernels(), true, true);
    for (std::int64_t grid = 0; grid < 2; ++grid) {
      double expected[kSums] = {};
      double magnitude = 0;
      for (std::int64_t i = 0; i < count_of(shape); ++i) {
        const std::int64_t c = grid * shape.channels + channel_of(i, shape);
        const core::AffineParams<float> params{tensor.scale[c], tensor.offset[c],
                                               static_cast<float>(kQmin[grid]),
                                               static_cast<float>(kQmax[grid])};
        const auto e = core::quantization_error(tensor.x[i], tensor.grad[i], params);
        expected[0] += double(e.error) * e.error;
        expected[1] += double(e.change) * e.change;
        expected[2] += e.change;
        expected[3] += e.clipped;
        magnitude += std::fabs(e.change);
      }
      double found[kSums] = {};
      for (std::size_t task = 0; task < errors.power.size(); ++task) {
        for (std::int64_t k = 0; k < kSums; ++k)
          found[k] += errors.partial[(task * 2 + static_cast<std::size_t>(grid)) * kSums + k];
      }
      // Sums of 64 floats in a lane: relative to what was added, not to what is left.
      EXPECT_NEAR(found[0], expected[0], 1e-5 * expected[0]);
      EXPECT_NEAR(found[1], expected[1], 1e-5 * expected[1]);
      EXPECT_NEAR(found[2], expected[2], 1e-5 * magnitude);
      EXPECT_EQ(found[3], expected[3]);
    }
  }
}

TEST_P(QuantizationErrorKernel, GivesTheSameBitsInEveryBuildAndSplit) {
  const KernelTable& baseline = *kernel_table(Capability::kBaseline);
  for (const Shape shape : kShapes) {
    const Tensor tensor(shape);
    for (const bool has_gradient : {false, true}) {
      const Errors expected = tensor.run(baseline, has_gradient, true);
      const Errors errors = tensor.run(kernels(), has_gradient, false);
      EXPECT_EQ(errors.partial, expected.partial);
      EXPECT_EQ(errors.power, expected.power);
    }
  }
}

}  // namespace
}  // namespace aimet::cpu
