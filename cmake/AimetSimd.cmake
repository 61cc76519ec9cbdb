# aimet_add_simd_kernels(NAME SOURCES...): compiles the same sources once per instruction set, each time
# into another namespace (AIMET_SIMD_NAMESPACE), as the object libraries NAME_baseline, NAME_avx2, NAME_avx512.
#
# Rules for such sources (tests/python/test_library.py checks the first): no weak symbols, hence no STL and
# no inline functions but always_inline ones - the linker keeps one copy of a weak symbol, and if that is the
# AVX-512 one, older processors crash. No flags on the whole library for the same reason.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  set(AIMET_INSTRUCTION_SETS baseline avx2 avx512)
else()
  set(AIMET_INSTRUCTION_SETS baseline)
endif()
set(AIMET_FLAGS_baseline "")
set(AIMET_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(AIMET_FLAGS_avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c)

function(aimet_add_simd_kernels name)
  foreach(isa IN LISTS AIMET_INSTRUCTION_SETS)
    add_library(${name}_${isa} OBJECT ${ARGN})
    target_link_libraries(${name}_${isa} PRIVATE aimet_options)
    target_compile_definitions(${name}_${isa} PRIVATE AIMET_SIMD_NAMESPACE=${isa})
    # -O3: gcc 12 does not vectorize these loops at -O2. The other two let it turn rint and
    # comparisons into vector instructions; they change no result.
    target_compile_options(${name}_${isa} PRIVATE
      -O3 -fno-trapping-math -fno-math-errno ${AIMET_FLAGS_${isa}})
    set_target_properties(${name}_${isa} PROPERTIES
      POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  endforeach()
endfunction()
