# cmake -DNM=nm "-DOBJECTS=a.o;b.o" -P check_weak_symbols.cmake: fails if an object defines a weak symbol.
if(NOT OBJECTS)
  message(FATAL_ERROR "no objects to check")
endif()
foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND ${NM} -C ${object} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "[^\n]* [WVuwv] [^\n]*" weak "${symbols}")
  # Sanitizers and gcov bring their own.
  list(FILTER weak EXCLUDE REGEX "__(asan|ubsan|gcov|cxa|gmon|TMC)|_ITM_")
  if(weak)
    message(FATAL_ERROR "${object} defines weak symbols:\n${weak}")
  endif()
endforeach()
