# fathom_library(<folder>), fathom_op(<family>/<stem>), fathom_test(<name> <sources>...): one line per thing added.
include(GoogleTest)

# Compile and link options that every target of ours shares; warnings are errors.
add_library(fathom_options INTERFACE)
target_compile_features(fathom_options INTERFACE cxx_std_20)
target_include_directories(fathom_options INTERFACE ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR}/generated)
# Results must not depend on how the compiler contracts a*b+c: kernels write FMA where they mean it.
target_compile_options(
  fathom_options
  INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall
            -Wextra
            -Werror
            -Wshadow
            -Wnon-virtual-dtor
            -Wno-missing-field-initializers
            -ffp-contract=off>
)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  target_compile_options(fathom_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-march=x86-64-v2>)
endif()
if(FATHOM_SANITIZE)
  target_compile_options(
    fathom_options
    INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${FATHOM_SANITIZE}
              -fno-omit-frame-pointer
              -fno-sanitize-recover=all>
  )
  target_link_options(fathom_options INTERFACE -fsanitize=${FATHOM_SANITIZE})
  if(FATHOM_SANITIZE MATCHES thread)
    # Asio's fences, which the thread sanitizer does not model.
    target_compile_options(fathom_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-tsan>)
  endif()
else()
  target_link_options(fathom_options INTERFACE -static-libstdc++ -static-libgcc)
endif()

# The folders that `folder` may use, from floors.cmake, as library names that exist.
function(fathom_floor_links folder out)
  foreach(line ${FATHOM_FLOORS})
    string(REGEX MATCH "^([a-z]+) *: *(.*)$" _ "${line}")
    if(CMAKE_MATCH_1 STREQUAL folder)
      string(REGEX REPLACE "\\.[a-z]+" "" names "${CMAKE_MATCH_2}")
      separate_arguments(names)
      set(links)
      foreach(name ${names})
        if(TARGET fathom_${name})
          list(APPEND links fathom_${name})
        endif()
      endforeach()
      set(${out} ${links} PARENT_SCOPE)
    endif()
  endforeach()
endfunction()

# A folder of fathom/: every .cc is its library fathom_<folder>, every *_test.cc its test program.
function(fathom_library folder)
  set(dir ${PROJECT_SOURCE_DIR}/fathom/${folder})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${dir}/*.cc)
  file(GLOB_RECURSE tests CONFIGURE_DEPENDS ${dir}/*_test.cc)
  file(GLOB_RECURSE cuda_sources CONFIGURE_DEPENDS ${dir}/*.cu)
  file(GLOB_RECURSE cuda_tests CONFIGURE_DEPENDS ${dir}/*_test.cu)
  if(cuda_tests)
    list(REMOVE_ITEM cuda_sources ${cuda_tests})
  endif()
  if(tests)
    list(REMOVE_ITEM sources ${tests})
  endif()
  list(FILTER sources EXCLUDE REGEX "/ops/.*_case\\.cc$")
  if(NOT FATHOM_CUDA)
    list(FILTER sources EXCLUDE REGEX "^${dir}/cuda/")
  endif()
  fathom_floor_links(${folder} links)
  if(sources)
    add_library(fathom_${folder} STATIC ${sources})
    target_link_libraries(fathom_${folder} PUBLIC fathom_options ${links} ${ARGN})
    if(FATHOM_CUDA AND cuda_sources)
      target_sources(fathom_${folder} PRIVATE ${cuda_sources})
    endif()
  else()
    add_library(fathom_${folder} INTERFACE)
    target_link_libraries(fathom_${folder} INTERFACE fathom_options ${links} ${ARGN})
  endif()
  if(FATHOM_TESTS AND tests)
    set_property(GLOBAL APPEND PROPERTY FATHOM_FOLDER_TESTS ${folder})
    set_property(GLOBAL PROPERTY FATHOM_FOLDER_TESTS_${folder} ${tests})
  endif()
endfunction()

# Names an op: fathom/ops/<family>/<stem>.h .cc _ref.cc _case.cc (and .cu). The library takes the sources by
# itself; this line puts the op's cases into the registry that tests, bench and doctor walk.
function(fathom_op path)
  get_filename_component(stem ${path} NAME)
  set_property(GLOBAL APPEND PROPERTY FATHOM_OPS ${stem})
  set_property(GLOBAL APPEND PROPERTY FATHOM_OP_CASES ${PROJECT_SOURCE_DIR}/fathom/ops/${path}_case.cc)
endfunction()

# Writes the op registry and builds fathom_op_cases from all named ops.
function(fathom_finish_ops)
  get_property(ops GLOBAL PROPERTY FATHOM_OPS)
  get_property(cases GLOBAL PROPERTY FATHOM_OP_CASES)
  set(declarations)
  set(calls)
  foreach(op ${ops})
    string(APPEND declarations "OpSuite ${op}_suite();\n")
    string(APPEND calls "  suites.push_back(${op}_suite());\n")
  endforeach()
  file(
    CONFIGURE
    OUTPUT ${PROJECT_BINARY_DIR}/generated/op_registry.cc
    CONTENT
      "#include \"fathom/testing/op_case.h\"\n\nnamespace fathom::testing {\n@declarations@\nstd::vector<OpSuite> all_op_suites() {\n  std::vector<OpSuite> suites;\n@calls@  return suites;\n}\n}  // namespace fathom::testing\n"
    @ONLY
  )
  add_library(fathom_op_cases STATIC ${PROJECT_BINARY_DIR}/generated/op_registry.cc ${cases})
  target_link_libraries(fathom_op_cases PUBLIC fathom_testing)
endfunction()

# A test program from explicit sources; `LABELS` after the sources.
function(fathom_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;LABELS;LINK" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE fathom_options ${ARG_LINK} GTest::gtest GTest::gmock GTest::gtest_main)
  gtest_discover_tests(
    ${name}
    TEST_PREFIX ${name}.
    NO_PRETTY_VALUES
    DISCOVERY_TIMEOUT 60
    PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT}
    WORKING_DIRECTORY ${PROJECT_SOURCE_DIR}
  )
endfunction()

# One test program per folder that has *_test.cc files; made last, so that all libraries exist.
function(fathom_finish_tests)
  get_property(folders GLOBAL PROPERTY FATHOM_FOLDER_TESTS)
  foreach(folder ${folders})
    get_property(sources GLOBAL PROPERTY FATHOM_FOLDER_TESTS_${folder})
    fathom_test(${folder}_test SOURCES ${sources} LABELS unit LINK fathom_${folder} fathom_testing)
  endforeach()
endfunction()
