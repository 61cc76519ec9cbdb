// What the library was built from and what it runs.
#pragma once

#include "aimet/export.h"

#include <string>

namespace aimet {

// JSON object: version, torch_version, cuda (bool), threads (how many run a loop now), compiler,
// instruction_sets (list).
AIMET_API std::string build_info();

// The build of the kernels in use: "baseline", "avx2" or "avx512". The environment variable
// AIMET_CPU_CAPABILITY can lower it.
AIMET_API std::string cpu_capability();

}  // namespace aimet
