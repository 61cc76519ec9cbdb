# Threads: at::parallel_for is a template, which runs on one thread where it is compiled without
# OpenMP, and says nothing. aimet_openmp compiles with OpenMP and links the runtime that torch_cpu
# itself has loaded, whatever its distribution calls that file (libgomp.so.1, libgomp-<hash>.so.1): a
# second runtime would have threads of its own, which torch.set_num_threads does not know.
add_library(aimet_openmp INTERFACE)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  target_compile_options(aimet_openmp INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fopenmp>)
  file(GLOB torch_openmp LIST_DIRECTORIES false ${AIMET_TORCH_LIBRARY_DIR}/libgomp*.so*)
  if(torch_openmp)
    list(GET torch_openmp 0 torch_openmp)
    target_link_libraries(aimet_openmp INTERFACE ${torch_openmp})
  else()
    target_link_libraries(aimet_openmp INTERFACE gomp)  # torch from a system's package uses the system's
  endif()
else()
  # Clang's OpenMP calls functions that torch's GNU runtime does not have.
  message(WARNING "${CMAKE_CXX_COMPILER_ID} cannot use torch's OpenMP runtime: operators will run on one "
                  "thread. Build with g++ for all threads.")
endif()
