#include "aimet/algorithms/seq_mse.h"

#include "aimet/algorithms/rounding.h"
#include "aimet/ops/affine.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/encoding.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <c10/util/Exception.h>

#include <limits>
#include <vector>

namespace aimet {

std::tuple<at::Tensor, at::Tensor, at::Tensor> seq_mse_range(
    const at::Tensor& weight, const at::Tensor& gram, const at::Tensor& min, const at::Tensor& max,
    int64_t blocks, int64_t qmin, int64_t qmax, bool symmetric, int64_t num_candidates) {
  const char* op = "seq_mse_range";
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  ops::check_grid(op, qmin, qmax);
  TORCH_CHECK_VALUE(num_candidates >= 1, op, ": `num_candidates` must be positive, got ",
                    num_candidates);
  TORCH_CHECK_VALUE(weight.dim() == 3 && blocks >= 1 && weight.size(2) % blocks == 0, op,
                    ": `weight` must be (groups, o, d) with d a multiple of `blocks` ", blocks,
                    ", got shape ", weight.sizes());
  const int64_t groups = weight.size(0), o = weight.size(1), length = weight.size(2) / blocks;
  const std::vector<int64_t> shape = {groups, o, blocks};
  TORCH_CHECK_VALUE(min.sizes() == at::IntArrayRef(shape) && max.sizes() == min.sizes(), op,
                    ": `min` and `max` must have shape ", shape, ", got ", min.sizes(), " and ",
                    max.sizes());
  const auto as_double = [](const at::Tensor& t) { return t.detach().to(at::kCPU, at::kDouble); };
  const at::Tensor w = as_double(weight), h = as_double(gram);
  at::Tensor best_min = as_double(min), best_max = as_double(max);
  at::Tensor least = at::full_like(best_min, std::numeric_limits<double>::infinity());
  const at::Tensor widest_min = best_min, widest_max = best_max;
  for (int64_t k = 1; k <= num_candidates; ++k) {
    const double fraction = static_cast<double>(k) / static_cast<double>(num_candidates);
    const auto [low, high] =
        range_from_min_max(widest_min * fraction, widest_max * fraction, qmin, qmax, symmetric,
                           /*strict=*/false);
    const auto [scale, offset] = encoding_from_range(low, high, qmin, qmax, symmetric);
    const std::vector<int64_t> block_size = {1, 1, length};
    const at::Tensor error =
        w - quantize_dequantize(w, scale, offset, qmin, qmax, at::IntArrayRef(block_size));
    std::vector<at::Tensor> losses;
    for (int64_t block = 0; block < blocks; ++block) {
      const auto part = [&](const at::Tensor& t) {
        return t.slice(2, block * length, (block + 1) * length);
      };
      losses.push_back(
          quadratic_form(part(error), part(h).slice(1, block * length, (block + 1) * length)));
    }
    const at::Tensor loss = at::stack(losses, 2);
    const at::Tensor is_better = loss < least;
    least = at::where(is_better, loss, least);
    best_min = at::where(is_better, low, best_min);
    best_max = at::where(is_better, high, best_max);
  }
  return {best_min, best_max, least};
}

}  // namespace aimet
