# Finds every library and gathers it in the interface target `basis_dependencies`.
add_library(basis_dependencies INTERFACE)
target_include_directories(basis_dependencies INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_definitions(basis_dependencies INTERFACE BASIS_VERSION="${PROJECT_VERSION}")

set(warnings -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers
    -Wno-maybe-uninitialized -Wno-restrict)  # g++ 12 misreads initializer lists of shared pointers
# Vector loops, not fast-math: NaN and infinity keep their meaning.
set(cpu_flags -fno-math-errno -fno-trapping-math ${warnings})
if(BASIS_NATIVE)
  list(APPEND cpu_flags -march=native -mprefer-vector-width=512)
endif()
if(BASIS_SANITIZE)
  list(APPEND cpu_flags -fsanitize=address,undefined -fno-omit-frame-pointer -g)
  target_link_options(basis_dependencies INTERFACE -fsanitize=address,undefined)
endif()
target_compile_options(basis_dependencies INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${cpu_flags}>")

# --- required -------------------------------------------------------------------------------------------------------
find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(yaml-cpp REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(Eigen3 REQUIRED NO_MODULE)
find_package(PkgConfig REQUIRED)
find_package(HDF5 REQUIRED COMPONENTS C)
find_library(OPENBLAS_LIBRARY NAMES openblas REQUIRED)
find_path(OPENBLAS_INCLUDE NAMES cblas.h PATH_SUFFIXES openblas openblas-openmp x86_64-linux-gnu/openblas-openmp
          x86_64-linux-gnu REQUIRED)
pkg_check_modules(PCRE2 IMPORTED_TARGET libpcre2-8)

target_include_directories(basis_dependencies SYSTEM INTERFACE ${HDF5_INCLUDE_DIRS} ${OPENBLAS_INCLUDE})
target_link_libraries(basis_dependencies INTERFACE
  Threads::Threads OpenMP::OpenMP_CXX yaml-cpp fmt::fmt nlohmann_json::nlohmann_json CLI11::CLI11 Eigen3::Eigen
  ${HDF5_LIBRARIES} ${OPENBLAS_LIBRARY} ${CMAKE_DL_LIBS})
set(found "OpenBLAS ${OPENBLAS_LIBRARY}, HDF5 ${HDF5_VERSION}, yaml-cpp ${yaml-cpp_VERSION}")

function(basis_feature name found_it detail)  # records an optional library in the summary and in the program
  set(BASIS_HAS_${name} ${found_it} PARENT_SCOPE)
  if(found_it)
    target_compile_definitions(basis_dependencies INTERFACE BASIS_HAS_${name}=1)
    message(STATUS "basis: ${name} ${detail}")
  else()
    message(STATUS "basis: ${name} not found: built without it")
  endif()
endfunction()

# --- optional -------------------------------------------------------------------------------------------------------
if(PCRE2_FOUND)
  target_link_libraries(basis_dependencies INTERFACE PkgConfig::PCRE2)
  basis_feature(PCRE2 TRUE ${PCRE2_VERSION})
else()
  basis_feature(PCRE2 FALSE "")
endif()

set(BASIS_HAS_CUDA FALSE)
if(BASIS_CUDA)
  include(CheckLanguage)
  check_language(CUDA)
endif()
if(BASIS_CUDA AND CMAKE_CUDA_COMPILER)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 90)
  endif()
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  # CMake 3.25.1 does not know how CUDA 13 is told about C++20.
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  target_compile_options(basis_dependencies INTERFACE
    "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;--extended-lambda;-lineinfo>")
  target_link_libraries(basis_dependencies INTERFACE CUDA::cudart CUDA::cublas CUDA::cublasLt CUDA::cufft)
  basis_feature(CUDA TRUE "${CMAKE_CUDA_COMPILER_VERSION} for sm_${CMAKE_CUDA_ARCHITECTURES}")

  find_library(CUPTI_LIBRARY cupti HINTS ${CUDAToolkit_LIBRARY_DIR} ${CUDAToolkit_LIBRARY_ROOT}/extras/CUPTI/lib64)
  find_path(CUPTI_INCLUDE cupti.h HINTS ${CUDAToolkit_INCLUDE_DIRS} ${CUDAToolkit_LIBRARY_ROOT}/extras/CUPTI/include)
  if(CUPTI_LIBRARY AND CUPTI_INCLUDE)  # one file needs it: no flag for all the others
    target_link_libraries(basis_dependencies INTERFACE ${CUPTI_LIBRARY})
    set_source_files_properties(${CMAKE_SOURCE_DIR}/core/cuda/profile.cu PROPERTIES
      COMPILE_DEFINITIONS BASIS_HAS_CUPTI=1 INCLUDE_DIRECTORIES ${CUPTI_INCLUDE})
    message(STATUS "basis: CUPTI ${CUPTI_LIBRARY}")
  endif()

  find_library(NCCL_LIBRARY nccl HINTS ${CUDAToolkit_LIBRARY_DIR})
  find_path(NCCL_INCLUDE nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  if(NCCL_LIBRARY AND NCCL_INCLUDE)
    target_link_libraries(basis_dependencies INTERFACE ${NCCL_LIBRARY})
    target_include_directories(basis_dependencies SYSTEM INTERFACE ${NCCL_INCLUDE})
    basis_feature(NCCL TRUE ${NCCL_LIBRARY})
  else()
    basis_feature(NCCL FALSE "")
  endif()

  find_library(CUDNN_LIBRARY cudnn HINTS ${CUDAToolkit_LIBRARY_DIR})
  find_path(CUDNN_INCLUDE cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  # Its header-only C++ frontend, which setup.sh fetches where no system path has it.
  find_path(CUDNN_FRONTEND_INCLUDE cudnn_frontend.h HINTS ${CMAKE_SOURCE_DIR}/.deps/include)
  if(CUDNN_LIBRARY AND CUDNN_INCLUDE AND CUDNN_FRONTEND_INCLUDE)
    target_link_libraries(basis_dependencies INTERFACE ${CUDNN_LIBRARY})
    target_include_directories(basis_dependencies SYSTEM INTERFACE ${CUDNN_INCLUDE} ${CUDNN_FRONTEND_INCLUDE})
    basis_feature(CUDNN TRUE ${CUDNN_LIBRARY})
  else()
    basis_feature(CUDNN FALSE "")
  endif()
else()
  message(STATUS "basis: CUDA not built")
endif()

if(BASIS_MPI)
  find_package(MPI COMPONENTS C)
  if(MPI_C_FOUND)
    target_link_libraries(basis_dependencies INTERFACE MPI::MPI_C)
    basis_feature(MPI TRUE ${MPI_C_VERSION})
  else()
    basis_feature(MPI FALSE "")
  endif()
endif()
message(STATUS "basis: ${found}")
