#include "aimet/algorithms/low_rank.h"

#include "aimet/algorithms/low_rank_form.h"
#include "aimet/algorithms/one_blas_thread.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/matmul.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

namespace aimet {
namespace {

int64_t product(at::IntArrayRef sizes) {
  int64_t result = 1;
  for (const int64_t size : sizes) result *= size;
  return result;
}

// (groups, out, in, *kernel) as torch.nn stores it.
at::Tensor as_weight(const at::Tensor& grouped, at::IntArrayRef kernel, bool is_transposed) {
  const at::Tensor ordered = is_transposed ? grouped.transpose(1, 2) : grouped;
  std::vector<int64_t> shape = {ordered.size(0) * ordered.size(1), ordered.size(2)};
  shape.insert(shape.end(), kernel.begin(), kernel.end());
  return ordered.reshape(shape);
}

// A 1 x 1 layer is an ordinary convolution, whatever the other one is.
bool first_is_transposed(Factorization f, bool is_transposed) {
  return is_transposed && f != Factorization::kWeight;
}

bool second_is_transposed(Factorization f, bool is_transposed) {
  return is_transposed && f != Factorization::kWeightOutput;
}

// Whether dimension `i` of the kernel is the second layer's; otherwise it is the first one's.
bool is_of_second(Factorization f, size_t i) {
  switch (f) {
    case Factorization::kSpatial:
      return i == 1;
    case Factorization::kSpatialHorizontal:
      return i == 0;
    case Factorization::kWeight:
      return true;
    case Factorization::kWeightOutput:
      break;
  }
  return false;
}

}  // namespace

Factorization factorization_of(const char* op, const std::string& name) {
  if (name == "spatial") return Factorization::kSpatial;
  if (name == "spatial_horizontal") return Factorization::kSpatialHorizontal;
  if (name == "weight") return Factorization::kWeight;
  TORCH_CHECK_VALUE(name == "weight_output", op,
                    ": `factorization` must be 'spatial', 'spatial_horizontal', 'weight' or "
                    "'weight_output', got '",
                    name, "'");
  return Factorization::kWeightOutput;
}

LowRankForm low_rank_form(const char* op, Factorization factorization, int64_t inputs,
                          int64_t outputs, at::IntArrayRef kernel_size, bool is_transposed) {
  const std::vector<int64_t> kernel = kernel_size.vec(), point(kernel.size(), 1);
  const bool is_spatial = factorization == Factorization::kSpatial ||
                          factorization == Factorization::kSpatialHorizontal;
  TORCH_CHECK_NOT_IMPLEMENTED(!is_spatial || kernel.size() == 2, op,
                              ": a spatial factorization needs a kernel of two dimensions (Conv2d, "
                              "ConvTranspose2d), got ",
                              kernel.size(), "; take 'weight'");
  LowRankForm form{factorization, inputs, outputs, kernel, is_transposed, {}, {}};
  switch (factorization) {
    case Factorization::kSpatial:
      form.first_kernel = {kernel[0], 1};
      form.second_kernel = {1, kernel[1]};
      break;
    case Factorization::kSpatialHorizontal:
      form.first_kernel = {1, kernel[1]};
      form.second_kernel = {kernel[0], 1};
      break;
    case Factorization::kWeight:
      form.first_kernel = point;
      form.second_kernel = kernel;
      break;
    case Factorization::kWeightOutput:
      form.first_kernel = kernel;
      form.second_kernel = point;
      break;
  }
  form.shared = inputs * product(form.first_kernel);
  form.slots = product(form.second_kernel);
  return form;
}

int64_t LowRankForm::max_rank() const {
  return std::min(shared, outputs * slots);
}

void LowRankForm::check_rank(const char* op, int64_t rank) const {
  TORCH_CHECK_VALUE(rank >= 1 && rank <= max_rank(), op, ": `rank` must be within 1 and ",
                    max_rank(), ", the full rank of the weight, got ", rank);
}

at::Tensor LowRankForm::slotted(const at::Tensor& grouped) const {
  const int64_t first = product(first_kernel);
  // Kernel elements as (first, second), or (second, first) where the first layer is the horizontal
  // one.
  const bool is_swapped = kind == Factorization::kSpatialHorizontal;
  const at::Tensor parts =
      is_swapped ? grouped.reshape({-1, outputs, inputs, slots, first}).transpose(3, 4)
                 : grouped.reshape({-1, outputs, inputs, first, slots});
  return parts.permute({0, 1, 4, 2, 3}).reshape({-1, outputs, slots, shared});
}

at::Tensor LowRankForm::grouped(const at::Tensor& slotted) const {
  const int64_t first = product(first_kernel);
  const at::Tensor parts =
      slotted.reshape({-1, outputs, slots, inputs, first}).permute({0, 1, 3, 4, 2});
  const bool is_swapped = kind == Factorization::kSpatialHorizontal;
  return (is_swapped ? parts.transpose(3, 4) : parts).reshape({-1, outputs, inputs, first * slots});
}

at::Tensor LowRankForm::first_weight(const at::Tensor& first) const {
  const at::Tensor split =
      first.reshape({first.size(0), first.size(1), inputs, product(first_kernel)});
  return as_weight(split, first_kernel, first_is_transposed(kind, is_transposed));
}

at::Tensor LowRankForm::second_weight(const at::Tensor& second) const {
  const at::Tensor split = second.transpose(2, 3);  // (groups, o, r, s)
  return as_weight(split, second_kernel, second_is_transposed(kind, is_transposed));
}

LowRankCost low_rank_cost(at::IntArrayRef weight_shape, Factorization factorization, int64_t groups,
                          bool is_transposed, at::IntArrayRef stride, bool counts_macs) {
  const char* op = "low_rank_cost";
  TORCH_CHECK_VALUE(weight_shape.size() >= 2 && stride.size() == weight_shape.size() - 2, op,
                    ": `stride` must have one entry a dimension of the kernel, got ", stride.size(),
                    " for a weight of shape ", weight_shape);
  TORCH_CHECK_VALUE(groups >= 1 && weight_shape[0] % groups == 0, op,
                    ": `groups` must be positive and divide the channels, got ", groups,
                    " for a weight of shape ", weight_shape);
  const int64_t in = is_transposed ? weight_shape[0] / groups : weight_shape[1];
  const int64_t out = is_transposed ? weight_shape[1] : weight_shape[0] / groups;
  const LowRankForm form =
      low_rank_form(op, factorization, in, out, weight_shape.slice(2), is_transposed);
  // Positions between the layers for each one of the output, or, where they are transposed, of the
  // input: one layer has strided already, the other one has not.
  int64_t between = 1;
  for (size_t i = 0; counts_macs && i < stride.size(); ++i) {
    if (is_of_second(factorization, i) != is_transposed) between *= stride[i];
  }
  const int64_t first = form.shared * (is_transposed ? 1 : between);
  const int64_t second = out * form.slots * (is_transposed ? between : 1);
  return {groups * (first + second), product(weight_shape), form.max_rank()};
}

int64_t rank_of_cost_ratio(const LowRankCost& cost, double ratio, int64_t multiplicity) {
  const char* op = "rank_of_cost_ratio";
  TORCH_CHECK_VALUE(ratio > 0 && ratio <= 1, op, ": `ratio` must be in (0, 1], got ", ratio);
  TORCH_CHECK_VALUE(multiplicity >= 1, op, ": `multiplicity` must be positive, got ", multiplicity);
  // A ratio such as 0.1 is not exact: a rank that fits to the last bit but one fits.
  const double exact = ratio * static_cast<double>(cost.full) / static_cast<double>(cost.per_rank);
  const int64_t rank = std::max<int64_t>(1, static_cast<int64_t>(std::floor(exact * (1 + 1e-12))));
  const int64_t rounded = (rank + multiplicity - 1) / multiplicity * multiplicity;
  return std::min(rounded, cost.max_rank);
}

LowRankFactors low_rank_split(const Layer& layer, Factorization factorization, int64_t rank) {
  const char* op = "low_rank_split";
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  check_layer(op, "weight", layer);
  TORCH_CHECK_VALUE(at::isfinite(layer.weight).all().item<bool>(), op,
                    ": `weight` must be finite, it holds NaN or infinities");
  const at::Tensor grouped = grouped_weight(layer).to(at::kDouble);  // (groups, o, in, kernel)
  const LowRankForm form = low_rank_form(op, factorization, grouped.size(2), grouped.size(1),
                                         layer.weight.sizes().slice(2), layer.is_transposed);
  form.check_rank(op, rank);
  const at::Tensor rows = form.slotted(grouped).flatten(1, 2);  // (groups, o * s, p)
  const OneBlasThread one_thread;
  const auto [u, values, vh] = at::linalg_svd(rows.transpose(1, 2), /*full_matrices=*/false);
  const at::Tensor kept = values.slice(1, 0, rank).unsqueeze(2);  // (groups, r, 1)
  const bool is_weight =
      factorization == Factorization::kWeight || factorization == Factorization::kWeightOutput;
  at::Tensor first = u.slice(2, 0, rank).transpose(1, 2);  // (groups, r, p)
  at::Tensor second = vh.slice(1, 0, rank);                // (groups, r, o * s)
  if (is_weight) {
    second = second * kept;
  } else {
    const at::Tensor root = kept.sqrt();
    first = first * root;
    second = second * root;
  }
  second = second.transpose(1, 2).reshape({-1, form.outputs, form.slots, rank});
  const at::Tensor squares = values.square();
  // Zeros lose nothing.
  const at::Tensor lost =
      squares.slice(1, rank, squares.size(1)).sum() / squares.sum().clamp_min(1e-300);
  const at::ScalarType dtype = layer.weight.scalar_type();
  return {form.first_weight(first).to(dtype), form.second_weight(second).to(dtype), lost};
}

at::Tensor low_rank_product(const at::Tensor& first, const at::Tensor& second,
                            Factorization factorization, int64_t groups, bool is_transposed) {
  const char* op = "low_rank_product";
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  TORCH_CHECK_VALUE(first.dim() >= 2 && first.dim() == second.dim() &&
                        first.scalar_type() == second.scalar_type(),
                    op,
                    ": `first` and `second` must be weights with the same number of dimensions "
                    "and the same dtype, got ",
                    first.scalar_type(), " of shape ", first.sizes(), " and ", second.scalar_type(),
                    " of shape ", second.sizes());
  const Layer a{first, {}, groups, first_is_transposed(factorization, is_transposed)};
  const Layer b{second, {}, groups, second_is_transposed(factorization, is_transposed)};
  check_layer(op, "first", a);
  check_layer(op, "second", b);
  const at::Tensor one = grouped_weight(a), two = grouped_weight(b);  // (groups, out, in, kernel)
  TORCH_CHECK_VALUE(one.size(1) == two.size(2), op, ": `second` must read what `first` gives, ",
                    one.size(1), " channels of each group, got ", two.size(2));
  std::vector<int64_t> kernel;
  for (int64_t i = 2; i < first.dim(); ++i) kernel.push_back(first.size(i) * second.size(i));
  const LowRankForm form =
      low_rank_form(op, factorization, one.size(2), two.size(1), kernel, is_transposed);
  TORCH_CHECK_VALUE(first.sizes().slice(2) == at::IntArrayRef(form.first_kernel) &&
                        second.sizes().slice(2) == at::IntArrayRef(form.second_kernel),
                    op, ": kernels ", first.sizes().slice(2), " and ", second.sizes().slice(2),
                    " are not those of this `factorization`");
  const at::Tensor rows = two.transpose(2, 3).flatten(1, 2);  // (groups, o * s, r)
  const at::Tensor whole =
      at::matmul(rows, one.flatten(2)).reshape({-1, form.outputs, form.slots, form.shared});
  return as_weight(form.grouped(whole), kernel, is_transposed);
}

}  // namespace aimet
