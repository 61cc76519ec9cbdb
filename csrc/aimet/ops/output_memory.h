// Memory of the results of CPU operators.
//
// The system hands fresh memory out page by page, each cleared first: for a result of 64 MB that
// takes six times as long as computing it. Results of kLargeOutput bytes and more are therefore
// placed on huge pages, and when a result is freed, its block is kept for the next one of about
// that size. Kept blocks are the system's to take whenever it runs short (MADV_FREE), are at most
// AIMET_OUTPUT_CACHE_MB megabytes in all (an environment variable, default 256; 0: every result
// comes from torch's allocator and goes back to it), and are nobody else's: no setting of the
// process or of torch changes. Linux only; elsewhere, and where the system refuses, results come
// from torch's allocator.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace aimet::ops {

// From here on, results get a block of their own: one huge page on x86. Smaller ones come from the
// heap, which malloc reuses without new pages.
inline constexpr std::size_t kLargeOutput = std::size_t{2} << 20;

// From here on, kernels write past the caches: nothing of a result that is larger than the caches
// would still be there for its reader, and the lines need not be read before they are written.
inline constexpr std::size_t kStreamedOutput = std::size_t{32} << 20;

// A tensor for a kernel to write in full: sizes, strides and dtype of `like`, a dense CPU tensor.
at::Tensor empty_output(const at::Tensor& like);

inline bool is_streamed(const at::Tensor& output) {
  return output.nbytes() >= kStreamedOutput;
}

}  // namespace aimet::ops
