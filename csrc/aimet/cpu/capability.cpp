// Chooses among the builds of the kernels.
#include "aimet/cpu/capability.h"

#include <cstring>

namespace aimet::cpu {

namespace baseline {
extern const KernelTable table;
}
#if defined(__x86_64__)
namespace avx2 {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}
#endif

const char* capability_name(Capability capability) {
  static constexpr const char* kNames[kCapabilityCount] = {"baseline", "avx2", "avx512"};
  return kNames[static_cast<int>(capability)];
}

Capability supported_capability() {
#if defined(__x86_64__)
  // The builtin also asks whether the operating system saves the registers.
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                        __builtin_cpu_supports("f16c");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                          __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (has_avx512) return Capability::kAvx512;
  if (has_avx2) return Capability::kAvx2;
#endif
  return Capability::kBaseline;
}

bool lower_capability(const char* request, Capability* capability) {
  *capability = supported_capability();
  if (request == nullptr || *request == '\0') return true;
  for (int level = 0; level < kCapabilityCount; ++level) {
    if (std::strcmp(request, capability_name(static_cast<Capability>(level))) != 0) continue;
    if (level < static_cast<int>(*capability)) *capability = static_cast<Capability>(level);
    return true;
  }
  return false;
}

const KernelTable* kernel_table(Capability capability) {
#if defined(__x86_64__)
  if (capability == Capability::kAvx512) return &avx512::table;
  if (capability == Capability::kAvx2) return &avx2::table;
#endif
  return capability == Capability::kBaseline ? &baseline::table : nullptr;
}

}  // namespace aimet::cpu
