// Low-rank factors with the least error of a layer's outputs.
#include "aimet/algorithms/damped_cholesky.h"
#include "aimet/algorithms/low_rank.h"
#include "aimet/algorithms/low_rank_form.h"
#include "aimet/algorithms/one_blas_thread.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cholesky_solve.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/stack.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <tuple>
#include <vector>

namespace aimet {
namespace {

constexpr const char* kOp = "low_rank_fit";

double inner(const at::Tensor& a, const at::Tensor& b) {
  return (a * b).sum().item<double>();
}

struct Factors {
  at::Tensor first, second;  // (r, p), (o, s, r)
  double error = 0;
};

// The problem of one group: target T (o, s, p), gram H (s, p, s, p). All ranks share the
// decompositions.
class GroupProblem {
 public:
  GroupProblem(const at::Tensor& target, const at::Tensor& gram)
      : outputs_(target.size(0)),
        slots_(target.size(1)),
        shared_(target.size(2)),
        target_(target),
        gram_(gram),
        image_(at::matmul(target.reshape({outputs_, -1}), gram.reshape({slots_ * shared_, -1}))
                   .view({outputs_, slots_, shared_})),
        energy_(inner(target_, image_)) {
    if (slots_ == 1) {
      lower_ = damped_cholesky(gram_.reshape({shared_, shared_}));
      std::tie(u_, values_, vh_) =
          at::linalg_svd(at::matmul(target_.select(1, 0), lower_), /*full_matrices=*/false);
      return;
    }
    // What the slots' inputs have in common: shifted copies of one image have almost one
    // covariance.
    std::vector<at::Tensor> diagonal;
    for (int64_t j = 0; j < slots_; ++j) diagonal.push_back(gram_.select(0, j).select(1, j));
    common_ = at::stack(diagonal).mean(0);
    lower_ = damped_cholesky(common_);
    const at::Tensor rows = target_.reshape({-1, shared_});
    plain_ = std::get<2>(at::linalg_svd(rows, false));
    vh_ = std::get<2>(at::linalg_svd(at::matmul(rows, lower_), false));
  }

  Factors solve(int64_t rank, const LowRankOptions& options) const {
    return slots_ == 1 ? solve_directly(rank) : solve_alternately(rank, options);
  }

 private:
  // One slot: a truncated SVD in the metric of the outputs.
  Factors solve_directly(int64_t rank) const {
    const at::Tensor root = values_.slice(0, 0, rank).sqrt();
    const at::Tensor rows = vh_.slice(0, 0, rank) * root.unsqueeze(1);
    // X lower = rows
    const at::Tensor first =
        at::linalg_solve_triangular(lower_, rows, /*upper=*/false, /*left=*/false);
    const at::Tensor second = (u_.slice(1, 0, rank) * root).unsqueeze(1);
    return {first, second, values_.slice(0, rank, values_.size(0)).square().sum().item<double>()};
  }

  Factors solve_alternately(int64_t rank, const LowRankOptions& options) const {
    const at::Tensor whitened = at::linalg_solve_triangular(lower_, vh_.slice(0, 0, rank),
                                                            /*upper=*/false, /*left=*/false);
    Factors best = with_second(plain_.slice(0, 0, rank));
    const Factors other = with_second(whitened);
    if (other.error < best.error) best = other;
    for (int64_t sweep = 0; sweep < options.max_sweeps; ++sweep) {
      const Factors next =
          with_second(improved_first(best.first, best.second, options.max_products));
      const bool is_better = next.error < best.error;
      const bool is_slow = best.error - next.error <= options.tolerance * best.error;
      if (is_better) best = next;
      if (!is_better || is_slow) break;
    }
    balance(best);
    return best;
  }

  // The best second factor for a first one: second = (T H A^T) (A H A^T)^-1. The rows of A are made
  // orthonormal before, which changes nothing but the rounding.
  Factors with_second(const at::Tensor& first) const {
    const at::Tensor a = std::get<0>(at::linalg_qr(first.t())).t().contiguous();  // (r, p)
    const int64_t rank = a.size(0);
    const at::Tensor reached = at::matmul(image_, a.t()).reshape({outputs_, slots_ * rank});
    // (s, p, s, p) -> (s, r, s, r)
    const at::Tensor half = at::matmul(gram_, a.t());  // (s, p, s, r)
    const at::Tensor normal =
        at::matmul(a, half.reshape({slots_, shared_, slots_ * rank}))  // (s, r, s * r)
            .reshape({slots_ * rank, slots_ * rank});
    const at::Tensor second =  // (o, s * r)
        at::cholesky_solve(reached.t(), damped_cholesky(normal)).t();
    // f = tr(T H T^T) - tr(second reached^T), rounded to no less than nothing
    const double error = std::max(0.0, energy_ - inner(second, reached));
    return {a, second.reshape({outputs_, slots_, rank}), error};
  }

  // Some steps of conjugate gradients for the first factor, the second one being fixed. The normal
  // matrix, sum over j, k of (B_j^T B_k) x H_kj, is as large as the square of r * p and never
  // formed; its preconditioner replaces every H_jj by their mean and leaves out the others.
  at::Tensor improved_first(const at::Tensor& first, const at::Tensor& second,
                            int64_t max_products) const {
    const int64_t rank = first.size(0);
    const at::Tensor b = second.reshape({outputs_, slots_ * rank});
    const at::Tensor products = at::matmul(b.t(), b).view({slots_, rank, slots_ * rank});
    std::vector<at::Tensor> diagonal;
    for (int64_t j = 0; j < slots_; ++j) {
      diagonal.push_back(products.select(0, j).slice(1, j * rank, (j + 1) * rank));
    }
    const at::Tensor left = damped_cholesky(at::stack(diagonal).sum(0));
    const at::Tensor rows = gram_.reshape({slots_, shared_, slots_ * shared_});
    const auto apply = [&](const at::Tensor& a) {
      // (k, r, j, p) -> (j, k * r, p)
      const at::Tensor images = at::matmul(a, rows)
                                    .view({slots_, rank, slots_, shared_})
                                    .permute({2, 0, 1, 3})
                                    .reshape({slots_, slots_ * rank, shared_});
      return at::matmul(products, images).sum(0);
    };
    const auto precondition = [&](const at::Tensor& g) {
      const at::Tensor half = at::cholesky_solve(g, left);
      return at::cholesky_solve(half.t(), lower_).t().contiguous();
    };
    // sum over j of B_j^T (T H)_j
    const at::Tensor wanted = at::matmul(second.permute({1, 2, 0}), image_.transpose(0, 1)).sum(0);
    at::Tensor a = first;
    at::Tensor residual = wanted - apply(a);
    at::Tensor step = precondition(residual);
    at::Tensor direction = step;
    double rho = inner(residual, step);
    const double enough = 1e-6 * rho;
    for (int64_t i = 0; i < max_products && rho > enough; ++i) {
      const at::Tensor image = apply(direction);
      const double curvature = inner(direction, image);
      if (!(curvature > 0)) break;
      a = a + direction * (rho / curvature);
      residual = residual - image * (rho / curvature);
      step = precondition(residual);
      const double next = inner(residual, step);
      direction = step + direction * (next / rho);
      rho = next;
    }
    return a;
  }

  // Both factors of a rank get the same norm, as after an SVD: neither is small for a quantizer or
  // a weight decay.
  static void balance(Factors& factors) {
    const at::Tensor one = factors.first.square().sum(1).sqrt();
    const at::Tensor two = factors.second.square().sum({0, 1}).sqrt();
    const at::Tensor scale = (two / one.clamp_min(1e-300)).sqrt().clamp(1e-6, 1e6);
    factors.first = factors.first * scale.unsqueeze(1);
    factors.second = factors.second / scale;
  }

  int64_t outputs_, slots_, shared_;
  at::Tensor target_, gram_;
  at::Tensor image_;          // T H
  double energy_;             // tr(T H T^T)
  at::Tensor common_;         // mean of H over the slots
  at::Tensor lower_;          // lower lower^T = that, or H of one slot
  at::Tensor u_, values_;     // of one slot: of T lower
  at::Tensor vh_;             // right singular vectors of T lower, rows of all slots
  at::Tensor plain_;          // of T
};

}  // namespace

std::vector<LowRankFactors> low_rank_fits(const at::Tensor& target, const at::Tensor& gram,
                                          const std::vector<int64_t>& kernel_size,
                                          Factorization factorization,
                                          const std::vector<int64_t>& ranks, bool is_transposed,
                                          const LowRankOptions& options) {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  TORCH_CHECK_TYPE(target.is_floating_point() && gram.is_floating_point(), kOp,
                   ": `target` and `gram` must have a floating-point dtype, got ",
                   target.scalar_type(), " and ", gram.scalar_type());
  TORCH_CHECK_VALUE(target.dim() == 3, kOp, ": `target` must be (groups, o, d), got shape ",
                    target.sizes());
  const int64_t groups = target.size(0), outputs = target.size(1), d = target.size(2);
  TORCH_CHECK_VALUE(
      gram.dim() == 3 && gram.size(0) == groups && gram.size(1) == d && gram.size(2) == d, kOp,
      ": `gram` must have shape (", groups, ", ", d, ", ", d, "), got ", gram.sizes());
  int64_t kernel = 1;
  for (const int64_t size : kernel_size) kernel *= size;
  TORCH_CHECK_VALUE(kernel >= 1 && d % kernel == 0, kOp,
                    ": the elements of `kernel_size` must divide the inputs of an output, ", d,
                    ", got ", kernel_size);
  TORCH_CHECK_VALUE(options.max_sweeps >= 0 && options.max_products >= 1 && options.tolerance >= 0,
                    kOp,
                    ": `max_sweeps` and `tolerance` must not be negative and `max_products` "
                    "positive, got ",
                    options.max_sweeps, ", ", options.tolerance, " and ", options.max_products);
  const LowRankForm form =
      low_rank_form(kOp, factorization, d / kernel, outputs, kernel_size, is_transposed);
  for (const int64_t rank : ranks) form.check_rank(kOp, rank);
  const at::Tensor wanted = target.to(at::kCPU, at::kDouble);
  const at::Tensor matrix = gram.to(at::kCPU, at::kDouble);
  TORCH_CHECK_VALUE(
      at::isfinite(wanted).all().item<bool>() && at::isfinite(matrix).all().item<bool>(), kOp,
      ": `target` and `gram` must be finite, they hold NaN or infinities");

  // Where the elements of a row lie once they are sorted by slot.
  const LowRankForm one_row =
      low_rank_form(kOp, factorization, form.inputs, 1, kernel_size, is_transposed);
  const at::Tensor order =
      one_row.slotted(at::arange(d, at::kLong).view({1, 1, form.inputs, kernel})).flatten();
  const at::Tensor slotted =
      wanted.index_select(2, order).view({groups, outputs, form.slots, form.shared});
  const at::Tensor sorted = matrix.index_select(1, order).index_select(2, order).view(
      {groups, form.slots, form.shared, form.slots, form.shared});
  const auto options64 = wanted.options();
  std::vector<at::Tensor> first, second, errors;  // by rank, of all groups
  for (const int64_t rank : ranks) {
    first.push_back(at::empty({groups, rank, form.shared}, options64));
    second.push_back(at::empty({groups, outputs, form.slots, rank}, options64));
    errors.push_back(at::empty({groups}, options64));
  }
  at::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView below;
    const OneBlasThread one_thread;
    for (int64_t g = begin; g < end; ++g) {
      const GroupProblem problem(slotted[g], sorted[g]);
      for (size_t i = 0; i < ranks.size(); ++i) {
        const Factors found = problem.solve(ranks[i], options);
        first[i][g].copy_(found.first);
        second[i][g].copy_(found.second);
        errors[i][g].fill_(found.error);
      }
    }
  });
  std::vector<LowRankFactors> results;
  for (size_t i = 0; i < ranks.size(); ++i) {
    results.push_back(
        {form.first_weight(first[i]), form.second_weight(second[i]), errors[i].sum()});
  }
  return results;
}

LowRankFactors low_rank_fit(const at::Tensor& target, const at::Tensor& gram,
                            const std::vector<int64_t>& kernel_size, Factorization factorization,
                            int64_t rank, bool is_transposed, const LowRankOptions& options) {
  return low_rank_fits(target, gram, kernel_size, factorization, {rank}, is_transposed, options)
      .front();
}

}  // namespace aimet
