# Finds the compiler for the CUDA kernels. LRCORE_CUDA=AUTO builds them if nvcc 13 or later works, ON requires it, and
# OFF skips the search. nvcc is taken from CUDACXX, from an installed CUDA Toolkit, or from PyPI's cuda-toolkit, in this
# order. Sets LRCORE_HAVE_CUDA and LRCORE_CUDA_BUILT_FOR, and prints the result.
set(LRCORE_CUDA AUTO CACHE STRING "Build the CUDA kernels: AUTO, ON or OFF")
set(LRCORE_CUDA_ARCHITECTURES "" CACHE STRING "Compute capabilities to build for; if empty, discrete GPUs since 7.5")
set(LRCORE_HAVE_CUDA 0)

string(TOUPPER "${LRCORE_CUDA}" LRCORE_CUDA)
if(LRCORE_CUDA STREQUAL "")
  set(LRCORE_CUDA AUTO)
endif()
if(NOT LRCORE_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "LRCORE_CUDA: expected AUTO, ON or OFF, got ${LRCORE_CUDA}")
endif()
if(LRCORE_CUDA STREQUAL "OFF")
  message(STATUS "CUDA: off")
  return()
endif()

# Machine code for each generation of discrete GPUs since compute capability 7.5, and PTX for future ones.
if(LRCORE_CUDA_ARCHITECTURES STREQUAL "")
  set(CMAKE_CUDA_ARCHITECTURES 75-real 80-real 86-real 89-real 90-real 100-real 120)
else()
  string(REGEX REPLACE "[, ]+" ";" CMAKE_CUDA_ARCHITECTURES "${LRCORE_CUDA_ARCHITECTURES}")
endif()

function(lrcore_nvcc_version nvcc version)
  execute_process(COMMAND ${nvcc} --version OUTPUT_VARIABLE text ERROR_QUIET RESULT_VARIABLE failed)
  if(NOT failed AND text MATCHES "release ([0-9.]+)")
    set(${version} ${CMAKE_MATCH_1} PARENT_SCOPE)
  else()
    set(${version} 0 PARENT_SCOPE)
  endif()
endfunction()

set(candidates $ENV{CUDACXX})
if(NOT candidates)
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c [[
import importlib.util
spec = importlib.util.find_spec("nvidia")
print(*(spec.submodule_search_locations if spec else ()), sep=";", end="")
]]
    OUTPUT_VARIABLE wheels)
  list(TRANSFORM wheels APPEND /cu13)
  find_program(machine_nvcc nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin NO_CACHE)
  find_program(wheel_nvcc nvcc PATHS ${wheels} PATH_SUFFIXES bin NO_DEFAULT_PATH NO_CACHE)
  set(candidates ${machine_nvcc} ${wheel_nvcc})
endif()

unset(ENV{CUDACXX})
if(NOT CMAKE_CUDA_COMPILER)
  unset(CMAKE_CUDA_COMPILER CACHE) # otherwise a failed search would not be repeated
endif()
foreach(nvcc IN LISTS candidates)
  if(NOT nvcc MATCHES "NOTFOUND$")
    lrcore_nvcc_version(${nvcc} version)
    if(version VERSION_GREATER_EQUAL 13)
      set(ENV{CUDACXX} ${nvcc})
      break()
    endif()
    message(STATUS "CUDA: skipping ${nvcc}, version ${version}; version 13 or later is required")
  endif()
endforeach()

if(DEFINED ENV{CUDACXX})
  # In PyPI's wheels, nvcc.profile refers to lib64, but the libraries are in lib.
  set(nvcc_root "$ENV{CUDACXX}")
  cmake_path(GET nvcc_root PARENT_PATH nvcc_root)
  cmake_path(GET nvcc_root PARENT_PATH nvcc_root)
  if(EXISTS ${nvcc_root}/lib/libcudart_static.a AND NOT EXISTS ${nvcc_root}/lib64)
    set(ENV{NVCC_APPEND_FLAGS} "$ENV{NVCC_APPEND_FLAGS} -L${nvcc_root}/lib")
  endif()
  include(CheckLanguage)
  check_language(CUDA)
endif()

if(CMAKE_CUDA_COMPILER)
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  set(LRCORE_HAVE_CUDA 1)
  list(TRANSFORM CMAKE_CUDA_ARCHITECTURES REPLACE "-(real|virtual)$" "" OUTPUT_VARIABLE LRCORE_CUDA_BUILT_FOR)
  list(JOIN LRCORE_CUDA_BUILT_FOR " " LRCORE_CUDA_BUILT_FOR)
  message(STATUS "CUDA: ${CMAKE_CUDA_COMPILER_VERSION} with ${CMAKE_CUDA_COMPILER} for ${LRCORE_CUDA_BUILT_FOR}")
elseif(LRCORE_CUDA STREQUAL "ON")
  message(FATAL_ERROR "LRCORE_CUDA=ON needs nvcc 13 or later, but no working one was found; put one on PATH, set "
                      "CUDACXX, or pip install \"cuda-toolkit[nvcc,cccl]==13.0.*\". nvcc must accept "
                      "${CMAKE_CXX_COMPILER} or the compiler in CUDAHOSTCXX as its host compiler.")
else()
  message(STATUS "CUDA: not built, because no working nvcc 13 or later was found")
endif()
