#include "aimet/ops/checks.h"

#include <c10/util/Exception.h>

#include <cmath>
#include <limits>

namespace aimet::ops {

void check_is_floating(const char* op, const char* argument, const at::Tensor& tensor) {
  const at::ScalarType type = tensor.scalar_type();
  const bool is_supported =
      type == at::kFloat || type == at::kDouble || type == at::kHalf || type == at::kBFloat16;
  TORCH_CHECK_TYPE(is_supported, op, ": `", argument,
                   "` must be float16, bfloat16, float32 or float64, got ", type,
                   "; convert it with .to(torch.float32)");
}

void check_grid(const char* op, std::int64_t qmin, std::int64_t qmax) {
  TORCH_CHECK_VALUE(qmin < qmax, op, ": `qmin` must be less than `qmax`, got qmin=", qmin,
                    " and qmax=", qmax);
  constexpr std::int64_t kLowest = std::numeric_limits<std::int32_t>::min();
  constexpr std::int64_t kHighest = std::numeric_limits<std::uint32_t>::max();
  TORCH_CHECK_VALUE(qmin >= kLowest && qmax <= kHighest, op,
                    ": `qmin` and `qmax` must lie in [-2**31, 2**32 - 1], got qmin=", qmin,
                    " and qmax=", qmax);
}

void check_granularity(const char* op, const char* argument, c10::SymIntArrayRef sizes,
                       c10::SymIntArrayRef input_sizes, at::OptionalIntArrayRef block_size) {
  TORCH_CHECK_VALUE(sizes.size() <= input_sizes.size(), op, ": `", argument,
                    "` must not have more dimensions than `input`, got ", argument, " of shape ",
                    sizes, " and input of shape ", input_sizes);
  const std::size_t skipped = input_sizes.size() - sizes.size();
  if (!block_size.has_value()) {
    for (std::size_t dim = 0; dim < sizes.size(); ++dim) {
      TORCH_CHECK_VALUE(sizes[dim] == 1 || sizes[dim] == input_sizes[skipped + dim], op, ": `",
                        argument, "` must broadcast against `input`, got ", argument, " of shape ",
                        sizes, " and input of shape ", input_sizes,
                        "; for blocks pass `block_size`");
    }
    return;
  }
  TORCH_CHECK_VALUE(block_size->size() == sizes.size(), op,
                    ": `block_size` must have one entry per dimension of `", argument,
                    "`, got block_size=", *block_size, " and ", argument, " of shape ", sizes);
  for (std::size_t dim = 0; dim < sizes.size(); ++dim) {
    const std::int64_t block = (*block_size)[dim];
    const c10::SymInt& size = input_sizes[skipped + dim];
    TORCH_CHECK_VALUE(block > 0 || block == -1, op,
                      ": entries of `block_size` must be positive, or -1 for the rest of the "
                      "dimension, got block_size=",
                      *block_size);
    const bool is_tiled = block > 0
                              ? sizes[dim] * block == size
                              : (sizes[dim] == 1 || (sizes[dim] > 0 && size % sizes[dim] == 0));
    TORCH_CHECK_VALUE(is_tiled, op, ": `", argument,
                      "` times `block_size` must give the shape of `input`, got ", argument,
                      " of shape ", sizes, ", block_size=", *block_size, " and input of shape ",
                      input_sizes);
  }
}

void check_affine(const char* op, const at::Tensor& input, const at::Tensor& scale,
                  const at::Tensor& offset, at::OptionalIntArrayRef block_size) {
  check_is_floating(op, "input", input);
  check_is_floating(op, "scale", scale);
  TORCH_CHECK_TYPE(!offset.is_complex() && offset.scalar_type() != at::kBool, op,
                   ": `offset` must hold real numbers, got ", offset.scalar_type());
  if (scale.dim() == 0 && offset.dim() == 0 && !block_size.has_value()) return;
  check_granularity(op, "scale", scale.sym_sizes(), input.sym_sizes(), block_size);
  const bool is_single =
      offset.dim() == 0 || (offset.dim() <= scale.dim() && offset.sym_numel() == 1);
  TORCH_CHECK_VALUE(
      is_single || offset.sym_sizes() == scale.sym_sizes(), op,
      ": `offset` must have the shape of `scale` or one element, got offset of shape ",
      offset.sym_sizes(), " and scale of shape ", scale.sym_sizes());
}

namespace {

template <typename T>
void check_each(const char* op, const char* argument, const T* values, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    TORCH_CHECK_VALUE(values[i] > 0 && std::isfinite(values[i]), op,
                      ": `", argument,
                      "` must be positive and finite, got ", values[i],
                      "; compute the encodings before quantizing");
  }
}

}  // namespace

void check_scale_values(const char* op, const at::Tensor& scale, const char* argument) {
  if (scale.numel() > kCheckedScaleCount) return;
  if (scale.scalar_type() == at::kDouble) {
    check_each(op, argument, scale.const_data_ptr<double>(), scale.numel());
  } else {
    check_each(op, argument, scale.const_data_ptr<float>(), scale.numel());
  }
}

void check_range(const char* op, const at::Tensor& min, const at::Tensor& max) {
  check_is_floating(op, "min", min);
  check_is_floating(op, "max", max);
  TORCH_CHECK_TYPE(min.scalar_type() == max.scalar_type(), op,
                   ": `min` and `max` must have the same dtype, got ", min.scalar_type(), " and ",
                   max.scalar_type());
  TORCH_CHECK_VALUE(min.sym_sizes() == max.sym_sizes(), op,
                    ": `min` and `max` must have the same shape, got ", min.sym_sizes(), " and ",
                    max.sym_sizes());
}

void check_histogram(const char* op, const at::Tensor& histogram, const at::Tensor& min,
                     const at::Tensor& max) {
  check_range(op, min, max);
  TORCH_CHECK_TYPE(histogram.scalar_type() == at::kLong, op, ": `histogram` must be int64, got ",
                   histogram.scalar_type());
  const c10::SymIntArrayRef sizes = histogram.sym_sizes();
  const bool fits = histogram.dim() == min.dim() + 1 &&
                    sizes.slice(0, sizes.size() - 1) == min.sym_sizes() && sizes.back() >= 1;
  TORCH_CHECK_VALUE(fits, op,
                    ": `histogram` must have the shape of `min` and one more dimension of bins, "
                    "got histogram of shape ",
                    sizes, " and min of shape ", min.sym_sizes());
}

}  // namespace aimet::ops
