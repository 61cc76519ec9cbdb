// One candidate for each layer, so that the errors add up to the least within a budget of costs.
//
// The multiple-choice knapsack problem. Solved by dynamic programming over lists of choices that no
// other beats in both cost and error, layer by layer (Nemhauser and Ullmann 1969, Management Science
// 15/9): costs may be any numbers, and one run answers all budgets.
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace aimet {

struct CandidateSelection {
  at::Tensor choices;  // (budgets, layers) int64: index of the candidate
  at::Tensor errors;   // (budgets,) float64: their sum
  bool is_exact;       // no list was longer than max_states
};

// The choice of least error, and of least cost among those, for each budget.
//   costs, errors: (layers, candidates) floating-point, computed in float64; a candidate one of
//   whose two numbers is infinity or NaN is never chosen. budgets: (budgets,).
// A list of more than `max_states` choices is thinned to the best one in each of `max_states` equal
// intervals of cost: choices stay within their budgets, and their error is at most that of the best
// choice for a budget smaller by layers * range of costs / max_states.
// TypeError: not floating-point. ValueError: shapes do not fit, a layer has no finite candidate, a
// cost is negative, no choice is within a budget, max_states < 1.
AIMET_API CandidateSelection select_candidates(const at::Tensor& costs, const at::Tensor& errors,
                                               const at::Tensor& budgets, int64_t max_states);

}  // namespace aimet
