// While one lives, matrix products and factorizations called from this thread run on it alone. How
// BLAS cuts its sums depends on the number of its threads, and the last bit of the results with it.
#pragma once

// Of the MKL inside libtorch; null in a torch with another BLAS, which then decides itself.
extern "C" int MKL_Set_Num_Threads_Local(int count) __attribute__((weak));

namespace aimet {

class OneBlasThread {
 public:
  OneBlasThread() {
    if (MKL_Set_Num_Threads_Local != nullptr) previous_ = MKL_Set_Num_Threads_Local(1);
  }
  ~OneBlasThread() {
    if (MKL_Set_Num_Threads_Local != nullptr) MKL_Set_Num_Threads_Local(previous_);
  }
  OneBlasThread(const OneBlasThread&) = delete;
  OneBlasThread& operator=(const OneBlasThread&) = delete;

 private:
  int previous_ = 0;  // 0: what the whole process has
};

}  // namespace aimet
