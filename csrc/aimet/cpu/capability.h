// Which build of the kernels runs on this processor.
#pragma once

#include "aimet/cpu/kernels.h"

namespace aimet::cpu {

enum class Capability { kBaseline, kAvx2, kAvx512 };
inline constexpr int kCapabilityCount = 3;

const char* capability_name(Capability capability);

// What processor and operating system support.
Capability supported_capability();

// supported_capability(), or what `request` (the value of AIMET_CPU_CAPABILITY: "baseline", "avx2",
// "avx512", or null) names when that is lower. Returns false when `request` is none of these.
bool lower_capability(const char* request, Capability* capability);

// Null when this build of the library does not have it (other processors than x86-64 have the
// baseline only).
const KernelTable* kernel_table(Capability capability);

}  // namespace aimet::cpu
