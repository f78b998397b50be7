# Fails if an object that was compiled for one instruction set has a weak symbol: the linker could use its definition
# for the whole program, and CPUs without the instruction set would then execute it.
#
#   cmake -DNM=nm -DOBJECT=file.o -P no_weak_symbols.cmake
execute_process(COMMAND ${NM} --defined-only --demangle ${OBJECT} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[0-9a-f]+ [uvVwW] [^\n]*" weak "${symbols}")
if(weak)
  list(JOIN weak "\n  " lines)
  message(FATAL_ERROR "${OBJECT} has weak symbols:\n  ${lines}")
endif()
