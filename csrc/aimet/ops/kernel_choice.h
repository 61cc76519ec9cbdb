// The CPU kernels that operators call, and the size of a piece of work that is worth a thread.
#pragma once

#include "aimet/cpu/capability.h"

#include <cstdint>

namespace aimet::ops {

// The build of the kernels for this processor, or the lower one that the environment variable
// AIMET_CPU_CAPABILITY names; chosen once. ValueError if the variable names none.
const cpu::KernelTable& kernels();

// At least this many elements for each thread: below it, starting a thread costs more than it
// saves.
inline constexpr std::int64_t kGrainSize = 32768;

// Grain for a loop over tasks of `task_size` elements.
constexpr std::int64_t task_grain(std::int64_t task_size) {
  return task_size >= kGrainSize ? 1 : kGrainSize / (task_size > 0 ? task_size : 1);
}

}  // namespace aimet::ops
