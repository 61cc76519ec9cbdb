// The operators of channel_selection.h: lists of tensors to its structs.
#include "aimet/algorithms/channel_selection.h"

#include <ATen/core/List.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

namespace aimet {
namespace {

std::vector<ChannelReader> readers_of(const char* op, at::TensorList weights, at::TensorList grams,
                                      at::TensorList units, at::ArrayRef<double> scales) {
  TORCH_CHECK_VALUE(weights.size() == grams.size() && weights.size() == units.size() &&
                        weights.size() == scales.size(),
                    op, ": `weights`, `grams`, `units` and `scales` must have one entry a reader, "
                    "got ", weights.size(), ", ", grams.size(), ", ", units.size(), " and ",
                    scales.size());
  std::vector<ChannelReader> readers;
  for (size_t i = 0; i < weights.size(); ++i) {
    readers.push_back({weights[i], grams[i], units[i], scales[i]});
  }
  return readers;
}

at::Tensor quadratic_op(at::TensorList weights, at::TensorList grams, at::TensorList units,
                        at::ArrayRef<double> scales, int64_t count) {
  return channel_quadratic(readers_of("channel_quadratic", weights, grams, units, scales), count);
}

std::tuple<at::Tensor, at::Tensor> eliminate_op(at::TensorList weights, at::TensorList grams,
                                                at::TensorList units, at::ArrayRef<double> scales,
                                                const at::Tensor& base, const at::Tensor& fixed,
                                                int64_t least, bool refits) {
  const ChannelOrder found =
      eliminate_channels(readers_of("eliminate_channels", weights, grams, units, scales), base,
                         fixed, least, refits);
  return {found.order, found.error};
}

at::Tensor errors_op(at::TensorList weights, at::TensorList grams, at::TensorList units,
                     at::ArrayRef<double> scales, const at::Tensor& base, const at::Tensor& order,
                     bool refits) {
  return channel_errors(readers_of("channel_errors", weights, grams, units, scales), base, order,
                        refits);
}

std::tuple<at::Tensor, at::Tensor> lasso_op(const at::Tensor& quadratic, const at::Tensor& norm,
                                            const at::Tensor& fixed, int64_t count) {
  const ChannelLasso found = channel_lasso(quadratic, norm, fixed, count);
  return {found.coefficient, found.penalty};
}

}  // namespace

TORCH_LIBRARY_IMPL(aimet, CompositeExplicitAutograd, m) {
  m.impl("channel_magnitude", TORCH_FN(channel_magnitude));
  m.impl("channel_quadratic", TORCH_FN(quadratic_op));
  m.impl("eliminate_channels", TORCH_FN(eliminate_op));
  m.impl("channel_errors", TORCH_FN(errors_op));
  m.impl("channel_lasso", TORCH_FN(lasso_op));
  m.impl("channel_lasso_order", TORCH_FN(channel_lasso_order));
}

}  // namespace aimet
