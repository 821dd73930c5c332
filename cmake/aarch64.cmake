# Toolchain: Debian's cross compiler for aarch64. Headers are the host's (scripts/check_neon.sh).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++-12)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64;-L;/usr/aarch64-linux-gnu)
foreach(package Boost-1.81.0 boost_headers-1.81.0)
  string(REGEX REPLACE "-1.*" "" name ${package})
  set(${name}_DIR /usr/lib/x86_64-linux-gnu/cmake/${package})
endforeach()
