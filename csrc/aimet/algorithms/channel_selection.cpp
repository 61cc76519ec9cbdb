#include "aimet/algorithms/channel_selection.h"

#include "aimet/algorithms/damped_cholesky.h"
#include "aimet/algorithms/one_blas_thread.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/cholesky_inverse.h>
#include <ATen/ops/cholesky_solve.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

namespace aimet {
namespace {

at::Tensor plain(const at::Tensor& tensor) {
  return tensor.detach().to(at::kCPU, at::kDouble).contiguous();
}

// A reader in float64 on the CPU, with the inputs of each unit.
struct Problem {
  at::Tensor weight, gram;
  std::vector<int64_t> unit;
  std::vector<std::vector<int64_t>> inputs;  // of each unit
  double scale;
};

Problem checked(const char* op, const ChannelReader& reader, int64_t units) {
  TORCH_CHECK_TYPE(reader.weight.is_floating_point() && reader.gram.is_floating_point(), op,
                   ": `weight` and `gram` must have a floating-point dtype, got ",
                   reader.weight.scalar_type(), " and ", reader.gram.scalar_type());
  TORCH_CHECK_VALUE(reader.weight.dim() == 2, op, ": `weight` must be (o, d), got shape ",
                    reader.weight.sizes());
  const int64_t d = reader.weight.size(1);
  TORCH_CHECK_VALUE(reader.gram.dim() == 2 && reader.gram.size(0) == d && reader.gram.size(1) == d,
                    op, ": `gram` must have shape (", d, ", ", d, "), got ", reader.gram.sizes());
  TORCH_CHECK_VALUE(reader.unit.dim() == 1 && reader.unit.size(0) == d, op,
                    ": `unit` must have shape (", d, "), got ", reader.unit.sizes());
  TORCH_CHECK_VALUE(reader.scale >= 0, op, ": `scale` must not be negative, got ", reader.scale);
  const at::Tensor unit = reader.unit.to(at::kCPU, at::kLong).contiguous();
  const int64_t* begin = unit.const_data_ptr<int64_t>();
  Problem problem{plain(reader.weight), plain(reader.gram), {begin, begin + d}, {}, reader.scale};
  problem.inputs.resize(units);
  for (int64_t i = 0; i < d; ++i) {
    TORCH_CHECK_VALUE(begin[i] >= -1 && begin[i] < units, op, ": `unit` must be within -1 and ",
                      units - 1, ", got ", begin[i]);
    if (begin[i] >= 0) problem.inputs[begin[i]].push_back(i);
  }
  return problem;
}

std::vector<Problem> checked(const char* op, const std::vector<ChannelReader>& readers,
                             int64_t units) {
  std::vector<Problem> problems;
  problems.reserve(readers.size());
  for (const ChannelReader& reader : readers) problems.push_back(checked(op, reader, units));
  return problems;
}

at::Tensor index_of(const std::vector<int64_t>& values) {
  return at::tensor(values, at::kLong);
}

// Backward elimination with refitting. What is left is kept at the front of all matrices: the
// inputs of the unit that goes swap places with the last ones.
class Elimination {
 public:
  explicit Elimination(const Problem& problem)
      : scale_(problem.scale),
        left_(problem.weight.size(1)),
        outputs_(problem.weight.size(0)),
        weight_(problem.weight.t().contiguous()),  // (d, o): an input's weights are one row
        inverse_(at::cholesky_inverse(damped_cholesky(problem.gram))),
        inputs_(problem.inputs),
        unit_(problem.unit) {}

  // What the unit adds to the error now: tr(T_u (P_uu)^-1 T_u^T), through P_uu = L L^T.
  double cost(int64_t unit) const {
    const std::vector<int64_t>& rows = inputs_[unit];
    const int64_t size = static_cast<int64_t>(rows.size()), d = inverse_.size(1);
    if (size == 0) return 0;
    const double* p = inverse_.const_data_ptr<double>();
    const double* t = weight_.const_data_ptr<double>();
    std::vector<double> lower(size * size), solved(size * outputs_);
    double sum = 0;
    for (int64_t i = 0; i < size; ++i) {
      for (int64_t j = 0; j <= i; ++j) {
        double value = p[rows[i] * d + rows[j]];
        for (int64_t k = 0; k < j; ++k) value -= lower[i * size + k] * lower[j * size + k];
        lower[i * size + j] = i == j ? std::sqrt(std::max(value, 1e-300)) : value / lower[j * size + j];
      }
      double* y = &solved[i * outputs_];
      std::copy_n(t + rows[i] * outputs_, outputs_, y);
      for (int64_t k = 0; k < i; ++k) {
        const double factor = lower[i * size + k];
        const double* other = &solved[k * outputs_];
        for (int64_t o = 0; o < outputs_; ++o) y[o] -= factor * other[o];
      }
      const double reciprocal = 1 / lower[i * size + i];
      for (int64_t o = 0; o < outputs_; ++o) {
        y[o] *= reciprocal;
        sum += y[o] * y[o];
      }
    }
    return scale_ * sum;
  }

  void remove(int64_t unit) {
    const int64_t size = static_cast<int64_t>(inputs_[unit].size());
    if (size == 0) return;
    std::vector<int64_t> gone = inputs_[unit];
    // Largest first: none of the smaller ones is then where the last one goes.
    std::sort(gone.begin(), gone.end(), std::greater<>());
    for (const int64_t input : gone) exchange(input, --left_);
    inputs_[unit].clear();
    if (left_ == 0) return;
    const at::Tensor columns = inverse_.slice(0, 0, left_).slice(1, left_, left_ + size);
    const at::Tensor block = inverse_.slice(0, left_, left_ + size).slice(1, left_, left_ + size);
    const at::Tensor solved =  // (size, left)
        at::cholesky_solve(columns.t().contiguous(), damped_cholesky(block.contiguous()));
    inverse_.slice(0, 0, left_).slice(1, 0, left_).addmm_(columns, solved, 1, -1);
    weight_.slice(0, 0, left_).addmm_(solved.t(), weight_.slice(0, left_, left_ + size), 1, -1);
  }

 private:
  void exchange(int64_t a, int64_t b) {
    if (a == b) return;
    const auto swap_rows = [&](at::Tensor matrix) {
      const at::Tensor saved = matrix.select(0, a).clone();
      matrix.select(0, a).copy_(matrix.select(0, b));
      matrix.select(0, b).copy_(saved);
    };
    swap_rows(inverse_);
    swap_rows(inverse_.t());
    swap_rows(weight_);
    int64_t* place_a = place_of(a);
    int64_t* place_b = place_of(b);
    if (place_a != nullptr) *place_a = b;
    if (place_b != nullptr) *place_b = a;
    std::swap(unit_[a], unit_[b]);
  }

  int64_t* place_of(int64_t input) {
    if (unit_[input] < 0) return nullptr;
    std::vector<int64_t>& inputs = inputs_[unit_[input]];
    const auto found = std::find(inputs.begin(), inputs.end(), input);
    return found == inputs.end() ? nullptr : &*found;
  }

  double scale_;
  int64_t left_, outputs_;
  at::Tensor weight_, inverse_;
  std::vector<std::vector<int64_t>> inputs_;
  std::vector<int64_t> unit_;
};

at::Tensor quadratic_of(const std::vector<Problem>& problems, int64_t units) {
  at::Tensor result = at::zeros({units + 1, units + 1}, at::kDouble);
  for (const Problem& problem : problems) {
    // tr(W_i H_ij W_j^T) is the sum of (W^T W) * H over the inputs of i and j; -1 is the last row.
    const at::Tensor products =
        at::matmul(problem.weight.t(), problem.weight) * problem.gram * problem.scale;
    std::vector<int64_t> place = problem.unit;
    for (int64_t& unit : place) unit = unit < 0 ? units : unit;
    const at::Tensor index = index_of(place);
    const int64_t d = products.size(0);
    const at::Tensor rows = at::zeros({units + 1, d}, at::kDouble).index_add_(0, index, products);
    result.index_add_(1, index, rows);
  }
  return result.slice(0, 0, units).slice(1, 0, units).contiguous();
}

std::vector<int64_t> checked_order(const char* op, const at::Tensor& order, int64_t units) {
  TORCH_CHECK_VALUE(order.dim() == 1, op, ": `order` must have one dimension, got shape ",
                    order.sizes());
  const at::Tensor values = order.to(at::kCPU, at::kLong).contiguous();
  const int64_t* begin = values.const_data_ptr<int64_t>();
  std::vector<int64_t> result(begin, begin + values.numel());
  std::vector<bool> seen(units, false);
  for (const int64_t unit : result) {
    TORCH_CHECK_VALUE(unit >= 0 && unit < units && !seen[unit], op,
                      ": `order` must name different units below ", units, ", got ", unit);
    seen[unit] = true;
  }
  return result;
}

// Error of giving up units in an order, refitted. With the units that stay longest first and
// H = L L^T, what refitting cannot win back of T L is its columns of the units that went.
std::vector<double> refitted_errors(const Problem& problem, const std::vector<int64_t>& order,
                                    int64_t units) {
  std::vector<bool> leaves(units, false);
  for (const int64_t unit : order) leaves[unit] = true;
  std::vector<int64_t> sorted;
  for (size_t i = 0; i < problem.unit.size(); ++i) {
    if (problem.unit[i] < 0 || !leaves[problem.unit[i]]) sorted.push_back(static_cast<int64_t>(i));
  }
  for (auto unit = order.rbegin(); unit != order.rend(); ++unit) {
    sorted.insert(sorted.end(), problem.inputs[*unit].begin(), problem.inputs[*unit].end());
  }
  const at::Tensor index = index_of(sorted);
  const at::Tensor lower =
      damped_cholesky(problem.gram.index_select(0, index).index_select(1, index));
  const at::Tensor energy =
      at::matmul(problem.weight.index_select(1, index), lower).square().sum(0).contiguous();
  const double* values = energy.const_data_ptr<double>();
  int64_t end = energy.numel();
  std::vector<double> added;
  for (const int64_t unit : order) {
    double sum = 0;
    for (size_t i = 0; i < problem.inputs[unit].size(); ++i) sum += values[--end];
    added.push_back(problem.scale * sum);
  }
  return added;
}

at::Tensor checked_base(const char* op, const at::Tensor& base, int64_t units) {
  TORCH_CHECK_VALUE(base.dim() == 1 && base.size(0) == units, op, ": `base` must have shape (",
                    units, "), got ", base.sizes());
  return plain(base);
}

at::Tensor sums_of(const std::vector<double>& added) {
  at::Tensor errors = at::zeros({static_cast<int64_t>(added.size()) + 1}, at::kDouble);
  double* out = errors.mutable_data_ptr<double>();
  for (size_t i = 0; i < added.size(); ++i) out[i + 1] = out[i] + added[i];
  return errors;
}

}  // namespace

at::Tensor channel_magnitude(const at::Tensor& weight, const at::Tensor& unit, int64_t units) {
  constexpr const char* kOp = "channel_magnitude";
  TORCH_CHECK_TYPE(weight.is_floating_point(), kOp, ": `weight` must be floating-point, got ",
                   weight.scalar_type());
  TORCH_CHECK_VALUE(weight.dim() == 2 && unit.dim() == 1 && unit.size(0) == weight.size(1), kOp,
                    ": `weight` must be (o, d) and `unit` (d,), got shapes ", weight.sizes(),
                    " and ", unit.sizes());
  const at::Tensor place = unit.to(at::kCPU, at::kLong);
  TORCH_CHECK_VALUE(unit.numel() == 0 || (place.min().item<int64_t>() >= -1 &&
                                          place.max().item<int64_t>() < units),
                    kOp, ": `unit` must be within -1 and ", units - 1);
  at::Tensor sums = at::zeros({units + 1}, at::kDouble);
  sums.index_add_(0, at::where(place < 0, units, place), plain(weight).square().sum(0));
  return sums.slice(0, 0, units).clone();
}

at::Tensor channel_quadratic(const std::vector<ChannelReader>& readers, int64_t units) {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  const OneBlasThread one_thread;
  return quadratic_of(checked("channel_quadratic", readers, units), units);
}

ChannelOrder eliminate_channels(const std::vector<ChannelReader>& readers, const at::Tensor& base,
                                const at::Tensor& fixed, int64_t least, bool refits) {
  constexpr const char* kOp = "eliminate_channels";
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  const OneBlasThread one_thread;
  TORCH_CHECK_VALUE(fixed.dim() == 1 && fixed.scalar_type() == at::kBool, kOp,
                    ": `fixed` must be (units,) bool, got shape ", fixed.sizes(), " of ",
                    fixed.scalar_type());
  const int64_t units = fixed.size(0);
  TORCH_CHECK_VALUE(least >= 0 && least <= units, kOp, ": `least` must be within 0 and ", units,
                    ", got ", least);
  const std::vector<Problem> problems = checked(kOp, readers, units);
  const at::Tensor own = checked_base(kOp, base, units);
  const double* base_cost = own.const_data_ptr<double>();
  const at::Tensor stays = fixed.to(at::kCPU).contiguous();
  std::vector<int64_t> left;
  for (int64_t u = 0; u < units; ++u) {
    if (!stays.const_data_ptr<bool>()[u]) left.push_back(u);
  }
  const int64_t count =
      std::max<int64_t>(0, std::min<int64_t>(left.size(), units - least));
  std::vector<Elimination> eliminations;
  at::Tensor quadratic;
  at::Tensor lost = at::zeros({units}, at::kDouble);  // without refitting: sum of Q over what went
  if (refits) {
    for (const Problem& problem : problems) eliminations.emplace_back(problem);
  } else {
    quadratic = quadratic_of(problems, units);
  }
  const auto cost = [&](int64_t unit) {
    double sum = base_cost[unit];
    for (const Elimination& elimination : eliminations) sum += elimination.cost(unit);
    if (!refits) {
      sum += quadratic.const_data_ptr<double>()[unit * units + unit] +
             2 * lost.const_data_ptr<double>()[unit];
    }
    return sum;
  };
  std::vector<int64_t> order;
  std::vector<double> added;
  for (int64_t step = 0; step < count; ++step) {
    std::vector<double> costs(left.size());
    at::parallel_for(0, static_cast<int64_t>(left.size()), 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) costs[i] = cost(left[i]);
    });
    const auto best = std::min_element(costs.begin(), costs.end());
    const int64_t unit = left[best - costs.begin()];
    for (Elimination& elimination : eliminations) elimination.remove(unit);
    if (!refits) lost.add_(quadratic.select(0, unit));
    order.push_back(unit);
    added.push_back(*best);
    left.erase(left.begin() + (best - costs.begin()));
  }
  return {index_of(order), sums_of(added)};
}

at::Tensor channel_errors(const std::vector<ChannelReader>& readers, const at::Tensor& base,
                          const at::Tensor& order, bool refits) {
  constexpr const char* kOp = "channel_errors";
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  const OneBlasThread one_thread;
  const int64_t units = base.dim() == 1 ? base.size(0) : 0;
  const at::Tensor own = checked_base(kOp, base, units);
  const std::vector<Problem> problems = checked(kOp, readers, units);
  const std::vector<int64_t> units_in_order = checked_order(kOp, order, units);
  std::vector<double> added;
  for (const int64_t unit : units_in_order) added.push_back(own.const_data_ptr<double>()[unit]);
  if (refits) {
    for (const Problem& problem : problems) {
      const std::vector<double> more = refitted_errors(problem, units_in_order, units);
      for (size_t i = 0; i < added.size(); ++i) added[i] += more[i];
    }
  } else {
    const at::Tensor quadratic = quadratic_of(problems, units);
    at::Tensor lost = at::zeros({units}, at::kDouble);
    for (size_t i = 0; i < added.size(); ++i) {
      const int64_t unit = units_in_order[i];
      added[i] += quadratic.const_data_ptr<double>()[unit * units + unit] +
                  2 * lost.const_data_ptr<double>()[unit];
      lost.add_(quadratic.select(0, unit));
    }
  }
  return sums_of(added);
}

}  // namespace aimet
