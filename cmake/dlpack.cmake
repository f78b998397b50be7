# lrcore_dlpack: the include directory of dlpack.h, from apache-tvm-ffi or else from torch.
execute_process(
  COMMAND ${Python_EXECUTABLE} -c [[
import importlib.util
for package in ("tvm_ffi", "torch"):
    spec = importlib.util.find_spec(package)
    if spec and spec.submodule_search_locations:
        print(spec.submodule_search_locations[0] + "/include", end=";")
]]
  OUTPUT_VARIABLE roots COMMAND_ERROR_IS_FATAL ANY)

find_path(LRCORE_DLPACK_INCLUDE NAMES dlpack/dlpack.h ATen/dlpack.h PATHS ${roots} NO_DEFAULT_PATH NO_CACHE)
if(NOT LRCORE_DLPACK_INCLUDE)
  message(FATAL_ERROR "dlpack.h was not found; pip install apache-tvm-ffi")
endif()

add_library(lrcore_dlpack INTERFACE)
target_include_directories(lrcore_dlpack SYSTEM INTERFACE ${LRCORE_DLPACK_INCLUDE})
