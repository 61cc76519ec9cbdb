// The CUDA sources as C++, against emulation/cuda_runtime.h.
#include "aimet/cuda/affine_backward_kernel.cu"
#include "aimet/cuda/affine_kernel.cu"
#include "aimet/cuda/encoding_kernel.cu"
#include "aimet/cuda/float_format_kernel.cu"
#include "aimet/cuda/histogram_kernel.cu"
#include "aimet/cuda/microscaling_kernel.cu"
#include "aimet/cuda/min_max_kernel.cu"
