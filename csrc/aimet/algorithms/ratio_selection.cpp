#include "aimet/algorithms/ratio_selection.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <queue>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace aimet {
namespace {

constexpr const char* kOp = "select_candidates";

// One candidate of a layer.
struct Option {
  double cost, error;
  int64_t candidate;
};

// The sums of a choice for the first layers.
struct State {
  double cost, error;
};

// How a state came about: from which one of the layer before, by which option.
struct Step {
  int32_t parent;
  int32_t option;
};

// Both lists are sorted by cost, and their errors fall.
template <typename T>
bool comes_first(const T& a, const T& b) {
  return a.cost < b.cost || (a.cost == b.cost && a.error < b.error);
}

// What is worth considering for a layer.
std::vector<Option> options_of(const double* costs, const double* errors, int64_t count,
                               int64_t layer) {
  std::vector<Option> all, best;
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(costs[i]) || !std::isfinite(errors[i])) continue;
    TORCH_CHECK_VALUE(costs[i] >= 0, kOp, ": `costs` must not be negative, got ", costs[i],
                      " for candidate ", i, " of layer ", layer);
    all.push_back({costs[i], errors[i], i});
  }
  TORCH_CHECK_VALUE(!all.empty(), kOp, ": `costs` and `errors` must both be finite for at least ",
                    "one candidate of each layer, none is of layer ", layer);
  std::stable_sort(all.begin(), all.end(), comes_first<Option>);
  for (const Option& option : all) {
    if (best.empty() || option.error < best.back().error) best.push_back(option);
  }
  return best;
}

struct Layer {
  std::vector<State> states;
  std::vector<Step> steps;
};

// The states behind a layer up to a cost, merged from one sorted list for each option.
Layer add_layer(const std::vector<State>& before, const std::vector<Option>& options,
                double largest) {
  using Head = std::tuple<double, double, int32_t>;  // cost, error, option
  std::priority_queue<Head, std::vector<Head>, std::greater<>> heads;
  std::vector<int32_t> next(options.size(), 0);
  const auto push = [&](int32_t option) {
    const State& state = before[next[option]];
    heads.emplace(state.cost + options[option].cost, state.error + options[option].error, option);
  };
  for (size_t option = 0; option < options.size(); ++option) push(static_cast<int32_t>(option));
  Layer layer;
  while (!heads.empty()) {
    const auto [cost, error, option] = heads.top();
    heads.pop();
    if (cost > largest) break;
    if (layer.states.empty() || error < layer.states.back().error) {
      layer.states.push_back({cost, error});
      layer.steps.push_back({next[option], option});
    }
    if (++next[option] < static_cast<int32_t>(before.size())) push(option);
  }
  return layer;
}

// Keeps the cheapest state and the best one of each interval of cost.
void thin(Layer& layer, int64_t count) {
  const double first = layer.states.front().cost;
  const double width = (layer.states.back().cost - first) / static_cast<double>(count);
  const auto interval = [&](size_t i) { return std::floor((layer.states[i].cost - first) / width); };
  Layer kept;
  for (size_t i = 0; i < layer.states.size(); ++i) {
    const bool is_last = i + 1 == layer.states.size() || interval(i + 1) != interval(i);
    if (i > 0 && !is_last) continue;
    kept.states.push_back(layer.states[i]);
    kept.steps.push_back(layer.steps[i]);
  }
  layer = std::move(kept);
}

std::tuple<at::Tensor, at::Tensor, bool> select_op(const at::Tensor& costs,
                                                   const at::Tensor& errors,
                                                   const at::Tensor& budgets, int64_t max_states) {
  CandidateSelection found = select_candidates(costs, errors, budgets, max_states);
  return {std::move(found.choices), std::move(found.errors), found.is_exact};
}

}  // namespace

CandidateSelection select_candidates(const at::Tensor& costs, const at::Tensor& errors,
                                     const at::Tensor& budgets, int64_t max_states) {
  for (const auto& [name, tensor] : {std::pair<const char*, const at::Tensor&>{"costs", costs},
                                     {"errors", errors},
                                     {"budgets", budgets}}) {
    TORCH_CHECK_TYPE(tensor.is_floating_point(), kOp, ": `", name,
                     "` must have a floating-point dtype, got ", tensor.scalar_type());
  }
  TORCH_CHECK_VALUE(costs.dim() == 2 && costs.sizes() == errors.sizes(), kOp,
                    ": `costs` and `errors` must both have shape (layers, candidates), got ",
                    costs.sizes(), " and ", errors.sizes());
  TORCH_CHECK_VALUE(budgets.dim() == 1 && budgets.numel() > 0, kOp,
                    ": `budgets` must have shape (budgets,) and hold at least one, got ",
                    budgets.sizes());
  TORCH_CHECK_VALUE(max_states >= 1 && max_states < std::numeric_limits<int32_t>::max() / 2, kOp,
                    ": `max_states` must be positive and below 2^30, got ", max_states);
  const int64_t layer_count = costs.size(0), candidates = costs.size(1);
  const at::Tensor cost = costs.detach().to(at::kCPU, at::kDouble).contiguous();
  const at::Tensor error = errors.detach().to(at::kCPU, at::kDouble).contiguous();
  const at::Tensor budget = budgets.detach().to(at::kCPU, at::kDouble).contiguous();

  std::vector<std::vector<Option>> options;
  for (int64_t layer = 0; layer < layer_count; ++layer) {
    options.push_back(options_of(cost.const_data_ptr<double>() + layer * candidates,
                                 error.const_data_ptr<double>() + layer * candidates, candidates,
                                 layer));
  }
  std::vector<double> rest(layer_count + 1, 0.0);  // the least that the layers from here on cost
  for (int64_t layer = layer_count; layer-- > 0;) {
    rest[layer] = rest[layer + 1] + options[layer].front().cost;
  }
  const double* budget_of = budget.const_data_ptr<double>();
  double largest = 0.0;
  for (int64_t i = 0; i < budget.numel(); ++i) {
    // Whoever adds up the same costs in another order must not be refused for the last bits.
    TORCH_CHECK_VALUE(budget_of[i] >= rest[0] * (1.0 - 1e-12), kOp, ": `budgets` must be at least ", rest[0],
                      ", what the cheapest candidates cost together, got ", budget_of[i]);
    largest = std::max(largest, budget_of[i]);
  }

  CandidateSelection found{at::empty({budget.numel(), layer_count}, cost.options().dtype(at::kLong)),
                           at::empty({budget.numel()}, cost.options()), true};
  std::vector<std::vector<Step>> steps;
  std::vector<State> states = {{0.0, 0.0}};
  for (int64_t layer = 0; layer < layer_count; ++layer) {
    Layer made = add_layer(states, options[layer], largest - rest[layer + 1]);
    // Likewise: the cheapest candidates, whose sum came out a bit larger than that of `rest`.
    if (made.states.empty()) {
      made.states.push_back({states.front().cost + options[layer].front().cost,
                             states.front().error + options[layer].front().error});
      made.steps.push_back({0, 0});
    }
    if (static_cast<int64_t>(made.states.size()) > max_states) {
      thin(made, max_states);
      found.is_exact = false;
    }
    states = std::move(made.states);
    steps.push_back(std::move(made.steps));
  }

  for (int64_t i = 0; i < budget.numel(); ++i) {
    const auto above =
        std::upper_bound(states.begin(), states.end(), budget_of[i],
                         [](double limit, const State& state) { return limit < state.cost; });
    int32_t state = std::max<int32_t>(static_cast<int32_t>(above - states.begin()) - 1, 0);
    found.errors.mutable_data_ptr<double>()[i] = states[state].error;
    int64_t* choices = found.choices.mutable_data_ptr<int64_t>() + i * layer_count;
    for (int64_t layer = layer_count; layer-- > 0;) {
      const Step step = steps[layer][state];
      choices[layer] = options[layer][step.option].candidate;
      state = step.parent;
    }
  }
  return found;
}

TORCH_LIBRARY_IMPL(aimet, CompositeExplicitAutograd, m) {
  m.impl("select_candidates", TORCH_FN(select_op));
}

}  // namespace aimet
