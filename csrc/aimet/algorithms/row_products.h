// Products of many rows with one matrix a group, in bands of rows that run in parallel, each on one
// thread: the same bits with any number of threads.
#pragma once

#include <ATen/core/Tensor.h>

namespace aimet {

// rows (groups, o, d) times gram (groups, d, d), same floating-point dtype.
at::Tensor multiply_rows(const at::Tensor& rows, const at::Tensor& gram);

}  // namespace aimet
