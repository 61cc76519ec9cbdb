# Finds the header-only JSON library and makes the target `aimet_json`. Looked for in this order:
# -DAIMET_JSON_INCLUDE_DIR or the environment's, the PyPI package `nlohmann-json` of the active Python, the system.
if(NOT AIMET_JSON_INCLUDE_DIR AND DEFINED ENV{AIMET_JSON_INCLUDE_DIR})
  set(AIMET_JSON_INCLUDE_DIR $ENV{AIMET_JSON_INCLUDE_DIR})
endif()
if(NOT AIMET_JSON_INCLUDE_DIR)
  find_package(Python3 COMPONENTS Interpreter)
  if(Python3_FOUND)
    execute_process(
      COMMAND ${Python3_EXECUTABLE} -c
        "import importlib.util as u; print(u.find_spec('nlohmann_json').submodule_search_locations[0])"
      OUTPUT_VARIABLE json_package OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
endif()
find_path(AIMET_JSON_HEADERS nlohmann/json.hpp HINTS ${AIMET_JSON_INCLUDE_DIR} ${json_package}/include)
if(NOT AIMET_JSON_HEADERS)
  message(FATAL_ERROR "nlohmann/json.hpp was not found. Install it with `pip install nlohmann-json`, "
                      "or set AIMET_JSON_INCLUDE_DIR to the folder that holds nlohmann/json.hpp.")
endif()
add_library(aimet_json INTERFACE)
target_include_directories(aimet_json SYSTEM INTERFACE ${AIMET_JSON_HEADERS})
