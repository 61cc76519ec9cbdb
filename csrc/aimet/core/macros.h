// How core's functions are declared: usable on host and device, and always inlined, so that a
// translation unit compiled for AVX-512 never leaves a copy that the linker could hand to baseline
// code.
#pragma once

#if defined(__CUDACC__)
#define AIMET_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define AIMET_HOST_DEVICE inline __attribute__((always_inline))
#endif
