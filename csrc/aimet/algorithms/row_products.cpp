#include "aimet/algorithms/row_products.h"

#include "aimet/algorithms/one_blas_thread.h"

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/matmul.h>

namespace aimet {

at::Tensor multiply_rows(const at::Tensor& rows, const at::Tensor& gram) {
  constexpr int64_t kRows = 64;
  const int64_t bands = (rows.size(1) + kRows - 1) / kRows;
  at::Tensor result = at::empty_like(rows);
  at::parallel_for(0, bands, 1, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const OneBlasThread one_thread;
    for (int64_t band = begin; band < end; ++band) {
      at::Tensor part = result.slice(1, band * kRows, (band + 1) * kRows);
      part.copy_(at::matmul(rows.slice(1, band * kRows, (band + 1) * kRows), gram));
    }
  });
  return result;
}

}  // namespace aimet
