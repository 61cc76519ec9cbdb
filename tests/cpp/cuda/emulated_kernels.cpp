// The CUDA sources as C++, against emulation/cuda_runtime.h.
#include "aimet/cuda/affine.cu"
#include "aimet/cuda/affine_backward.cu"
#include "aimet/cuda/encoding.cu"
#include "aimet/cuda/histogram.cu"
#include "aimet/cuda/min_max.cu"
