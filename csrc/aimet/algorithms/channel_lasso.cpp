// The LASSO over channels, by coordinate descent on second moments.
#include "aimet/algorithms/channel_selection.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace aimet {
namespace {

constexpr int64_t kSweeps = 1000;
constexpr double kTolerance = 1e-6;  // of beta, which is about 1
constexpr int64_t kHalvings = 40;    // of log lambda

class Lasso {
 public:
  Lasso(const char* op, const at::Tensor& quadratic, const at::Tensor& norm,
        const at::Tensor& fixed) {
    TORCH_CHECK_TYPE(quadratic.is_floating_point() && norm.is_floating_point(), op,
                     ": `quadratic` and `norm` must have a floating-point dtype, got ",
                     quadratic.scalar_type(), " and ", norm.scalar_type());
    TORCH_CHECK_VALUE(quadratic.dim() == 2 && quadratic.size(0) == quadratic.size(1), op,
                      ": `quadratic` must be (units, units), got shape ", quadratic.sizes());
    units_ = quadratic.size(0);
    TORCH_CHECK_VALUE(norm.dim() == 1 && norm.size(0) == units_, op, ": `norm` must have shape (",
                      units_, "), got ", norm.sizes());
    TORCH_CHECK_VALUE(
        fixed.dim() == 1 && fixed.size(0) == units_ && fixed.scalar_type() == at::kBool, op,
        ": `fixed` must be (", units_, ",) bool, got shape ", fixed.sizes(), " of ",
        fixed.scalar_type());
    matrix_ = quadratic.detach().to(at::kCPU, at::kDouble).contiguous();
    q_ = matrix_.const_data_ptr<double>();
    const at::Tensor norms = norm.detach().to(at::kCPU, at::kDouble).contiguous();
    const at::Tensor stays = fixed.to(at::kCPU).contiguous();
    for (int64_t i = 0; i < units_; ++i) {
      const double* row = q_ + i * units_;
      wanted_.push_back(std::accumulate(row, row + units_, 0.0));
      fixed_.push_back(stays.const_data_ptr<bool>()[i]);
      penalty_.push_back(fixed_[i] ? 0 : norms.const_data_ptr<double>()[i]);
      TORCH_CHECK_VALUE(std::isfinite(wanted_[i]) && row[i] >= 0, op,
                        ": `quadratic` must be finite with a diagonal that is not negative");
      TORCH_CHECK_VALUE(fixed_[i] || penalty_[i] > 0, op, ": `norm` must be positive, got ",
                        penalty_[i]);
      largest_ = std::max(largest_, fixed_[i] ? 0 : std::abs(wanted_[i]) / penalty_[i]);
    }
    beta_.assign(units_, 1.0);
    reached_ = wanted_;  // Q beta
  }

  int64_t units() const { return units_; }
  // At this lambda and beyond, every unit without a fixed one at its side is out.
  double largest() const { return largest_; }
  const std::vector<double>& beta() const { return beta_; }
  bool fixed(int64_t unit) const { return fixed_[unit]; }

  // Descends from where the last lambda led.
  void solve(double lambda) {
    for (int64_t sweep = 0; sweep < kSweeps; ++sweep) {
      double change = 0;
      for (int64_t i = 0; i < units_; ++i) {
        const double diagonal = q_[i * units_ + i];
        const double open = wanted_[i] - reached_[i] + diagonal * beta_[i];
        const double shrunk = std::max(std::abs(open) - lambda * penalty_[i], 0.0);
        const double next = diagonal > 0 ? std::copysign(shrunk, open) / diagonal : 0.0;
        const double step = next - beta_[i];
        if (step == 0) continue;
        beta_[i] = next;
        for (int64_t j = 0; j < units_; ++j) reached_[j] += step * q_[i * units_ + j];
        change = std::max(change, std::abs(step));
      }
      if (change < kTolerance) break;
    }
  }

  int64_t count() const {
    int64_t found = 0;
    for (int64_t i = 0; i < units_; ++i) found += fixed_[i] || beta_[i] != 0;
    return found;
  }

 private:
  int64_t units_ = 0;
  at::Tensor matrix_;
  const double* q_ = nullptr;
  std::vector<double> wanted_, penalty_, beta_, reached_;
  std::vector<bool> fixed_;
  double largest_ = 0;
};

constexpr double kLeast = 1e-7;  // lambda over the largest one

}  // namespace

ChannelLasso channel_lasso(const at::Tensor& quadratic, const at::Tensor& norm,
                           const at::Tensor& fixed, int64_t count) {
  constexpr const char* kOp = "channel_lasso";
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  Lasso lasso(kOp, quadratic, norm, fixed);
  const int64_t units = lasso.units();
  int64_t fixed_count = 0;
  for (int64_t i = 0; i < units; ++i) fixed_count += lasso.fixed(i);
  TORCH_CHECK_VALUE(count >= std::max<int64_t>(fixed_count, 1) && count <= units, kOp,
                    ": `count` must be within ", std::max<int64_t>(fixed_count, 1), " and ", units,
                    ", got ", count);
  double low = 0, high = lasso.largest();
  std::vector<double> best = lasso.beta();
  double penalty = 0;
  if (count < units && high > 0) {
    double log_low = std::log(high * kLeast), log_high = std::log(high * 2);
    for (int64_t i = 0; i < kHalvings; ++i) {
      const double middle = 0.5 * (log_low + log_high);
      lasso.solve(std::exp(middle));
      const int64_t found = lasso.count();
      if (found >= count) {
        best = lasso.beta();
        penalty = std::exp(middle);
        log_low = middle;
        if (found == count) break;
      } else {
        log_high = middle;
      }
    }
    low = penalty;
  }
  // Units that leave at one lambda: the largest stay.
  std::vector<int64_t> rank(units);
  std::iota(rank.begin(), rank.end(), 0);
  std::stable_sort(rank.begin(), rank.end(), [&](int64_t a, int64_t b) {
    if (lasso.fixed(a) != lasso.fixed(b)) return lasso.fixed(a);
    return std::abs(best[a]) > std::abs(best[b]);
  });
  for (int64_t i = count; i < units; ++i) best[rank[i]] = 0;
  return {at::tensor(best, at::kDouble), at::tensor(low, at::kDouble)};
}

at::Tensor channel_lasso_order(const at::Tensor& quadratic, const at::Tensor& norm,
                               const at::Tensor& fixed, int64_t steps) {
  constexpr const char* kOp = "channel_lasso_order";
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  TORCH_CHECK_VALUE(steps >= 1, kOp, ": `steps` must be positive, got ", steps);
  Lasso lasso(kOp, quadratic, norm, fixed);
  const int64_t units = lasso.units();
  // The last step at which a unit is in, and its coefficient there.
  std::vector<int64_t> last(units, -1);
  std::vector<double> size(units, 0.0);
  const double first = std::log(lasso.largest() * kLeast), end = std::log(lasso.largest());
  for (int64_t step = 0; step < steps && lasso.largest() > 0; ++step) {
    lasso.solve(std::exp(first + (end - first) * static_cast<double>(step) / steps));
    for (int64_t i = 0; i < units; ++i) {
      if (lasso.beta()[i] == 0) continue;
      last[i] = step;
      size[i] = std::abs(lasso.beta()[i]);
    }
  }
  std::vector<int64_t> order;
  for (int64_t i = 0; i < units; ++i) {
    if (!lasso.fixed(i)) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return last[a] != last[b] ? last[a] < last[b] : size[a] < size[b];
  });
  return at::tensor(order, at::kLong);
}

}  // namespace aimet
