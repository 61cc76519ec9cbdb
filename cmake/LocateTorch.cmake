# Finds the torch of the active Python (or the one of Torch_DIR) and makes the target `aimet_torch_cpu`.
#
# find_package(Torch) of a CUDA build of torch needs the whole CUDA toolkit and overwrites
# CMAKE_CUDA_ARCHITECTURES (pytorch#115937, #133293). We link torch_cpu and c10 only, so by default
# (AIMET_TORCH_TARGETS=minimal) those two are imported by path.
if(NOT Torch_DIR)
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  execute_process(
    COMMAND ${Python3_EXECUTABLE} -c "import torch; print(torch.utils.cmake_prefix_path)"
    OUTPUT_VARIABLE torch_prefix OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE torch_missing)
  if(torch_missing)
    message(FATAL_ERROR "torch is not installed for ${Python3_EXECUTABLE}. Install torch, then build "
                        "with `pip install --no-build-isolation`, or set -DTorch_DIR=.../share/cmake/Torch.")
  endif()
  set(Torch_DIR ${torch_prefix}/Torch CACHE PATH "Folder of TorchConfig.cmake" FORCE)
endif()
get_filename_component(AIMET_TORCH_ROOT ${Torch_DIR}/../../.. ABSOLUTE)
set(AIMET_TORCH_LIBRARY_DIR ${AIMET_TORCH_ROOT}/lib)
set(AIMET_TORCH_INCLUDE_DIR ${AIMET_TORCH_ROOT}/include)

find_file(AIMET_TORCH_VERSION_HEADER version.h NO_DEFAULT_PATH REQUIRED
  PATHS ${AIMET_TORCH_INCLUDE_DIR}/torch/headeronly ${AIMET_TORCH_INCLUDE_DIR}/torch/csrc/api/include/torch)
file(READ ${AIMET_TORCH_VERSION_HEADER} torch_version_header)
string(REGEX MATCH "TORCH_VERSION_MAJOR ([0-9]+)" _ "${torch_version_header}")
set(torch_major ${CMAKE_MATCH_1})
string(REGEX MATCH "TORCH_VERSION_MINOR ([0-9]+)" _ "${torch_version_header}")
set(AIMET_TORCH_VERSION ${torch_major}.${CMAKE_MATCH_1})
if(AIMET_TORCH_VERSION VERSION_LESS 2.11)
  message(FATAL_ERROR "torch ${AIMET_TORCH_VERSION} in ${AIMET_TORCH_ROOT} is too old: 2.11 or later is needed.")
endif()
message(STATUS "torch ${AIMET_TORCH_VERSION}: ${AIMET_TORCH_ROOT}")

add_library(aimet_torch_cpu INTERFACE)
if(AIMET_TORCH_TARGETS STREQUAL "package")
  find_package(Torch REQUIRED)
  target_link_libraries(aimet_torch_cpu INTERFACE torch)
else()
  target_include_directories(aimet_torch_cpu SYSTEM INTERFACE
    ${AIMET_TORCH_INCLUDE_DIR} ${AIMET_TORCH_INCLUDE_DIR}/torch/csrc/api/include)
  foreach(name torch_cpu c10)
    find_library(AIMET_LIBRARY_${name} ${name} PATHS ${AIMET_TORCH_LIBRARY_DIR} NO_DEFAULT_PATH REQUIRED)
    target_link_libraries(aimet_torch_cpu INTERFACE ${AIMET_LIBRARY_${name}})
  endforeach()
endif()

# fmt comes with torch's headers; header-only, so that no second fmt library can be linked.
add_library(aimet_fmt INTERFACE)
target_include_directories(aimet_fmt SYSTEM INTERFACE ${AIMET_TORCH_INCLUDE_DIR})
target_compile_definitions(aimet_fmt INTERFACE FMT_HEADER_ONLY)
