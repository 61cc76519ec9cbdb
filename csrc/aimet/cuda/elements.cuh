// Element types on the device: conversion to and from the type that is computed in, packs of 16
// bytes, and integer division.
#pragma once

#include "aimet/core/geometry.h"
#include "aimet/core/half.h"

#include <cuda_runtime.h>

#include <cstdint>

namespace aimet::cuda {

using core::BFloat16;
using core::Half;

template <typename Element>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};
template <typename Element>
using Compute = typename ComputeType<Element>::type;

__device__ __forceinline__ float to_compute(float x) {
  return x;
}
__device__ __forceinline__ double to_compute(double x) {
  return x;
}
__device__ __forceinline__ float to_compute(Half x) {
  return core::to_float(x);
}
__device__ __forceinline__ float to_compute(BFloat16 x) {
  return core::to_float(x);
}

__device__ __forceinline__ void assign(float& target, float x) {
  target = x;
}
__device__ __forceinline__ void assign(double& target, double x) {
  target = x;
}
__device__ __forceinline__ void assign(Half& target, float x) {
  target = core::to_half(x);
}
__device__ __forceinline__ void assign(BFloat16& target, float x) {
  target = core::to_bfloat16(x);
}

inline constexpr int kPackBytes = 16;  // the widest load of a thread

template <typename Element>
struct alignas(kPackBytes) Pack {
  static constexpr int kSize = kPackBytes / static_cast<int>(sizeof(Element));
  Element values[kSize];
};

__host__ __device__ __forceinline__ bool is_pack_aligned(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) % kPackBytes == 0;
}

// The first `count` (up to kSize) elements at `source`; the rest of the pack is zero.
template <typename Element>
__device__ __forceinline__ Pack<Element> load_pack(const Element* source, int count,
                                                   bool is_aligned) {
  Pack<Element> pack{};
  if (is_aligned && count == Pack<Element>::kSize)
    return *reinterpret_cast<const Pack<Element>*>(source);
#pragma unroll
  for (int k = 0; k < Pack<Element>::kSize; ++k) {
    if (k < count) pack.values[k] = source[k];
  }
  return pack;
}

template <typename Element>
__device__ __forceinline__ void store_pack(const Pack<Element>& pack, Element* target, int count,
                                           bool is_aligned) {
  if (is_aligned && count == Pack<Element>::kSize) {
    *reinterpret_cast<Pack<Element>*>(target) = pack;
    return;
  }
#pragma unroll
  for (int k = 0; k < Pack<Element>::kSize; ++k) {
    if (k < count) target[k] = pack.values[k];
  }
}

// a / b for non-negative a and positive b. Division of 64 bits costs several times that of 32, and
// the branch is the same for nearly all threads.
__device__ __forceinline__ std::int64_t divide(std::int64_t a, std::int64_t b) {
  if (((a | b) >> 32) == 0) return static_cast<std::uint32_t>(a) / static_cast<std::uint32_t>(b);
  return a / b;
}

template <typename Element>
struct Tag {
  using type = Element;
};

// Calls `body` with the Tag of the device type of `type`.
template <typename Body>
int with_element_type(core::ElementType type, const Body& body) {
  switch (type) {
    case core::ElementType::kFloat32:
      return body(Tag<float>{});
    case core::ElementType::kFloat64:
      return body(Tag<double>{});
    case core::ElementType::kFloat16:
      return body(Tag<Half>{});
    case core::ElementType::kBFloat16:
      return body(Tag<BFloat16>{});
  }
  return static_cast<int>(cudaErrorInvalidValue);
}

}  // namespace aimet::cuda
