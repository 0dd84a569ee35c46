# Finds nvcc and cuBLASLt: sets SIDETUNE_CUDA_FOUND and makes sidetune::cublasLt. Where one is missing the addon is built without
# its CUDA library and says so when a CUDA device is asked for. -DSIDETUNE_CUDA=OFF leaves it out, =ON insists on it; cuBLAS that
# lies elsewhere (nvidia/cu13 of the Python package, say) is named by -DCUBLAS_ROOT or the environment's CUBLAS_ROOT.
set(SIDETUNE_CUDA "AUTO" CACHE STRING "Build the CUDA library: AUTO (where nvcc and cuBLAS are), ON, OFF")
set(SIDETUNE_CUDA_FOUND OFF)
if(SIDETUNE_CUDA STREQUAL "OFF" OR SIDETUNE_SANITIZE)
  return()
endif()

find_program(NVCC nvcc HINTS ENV CUDA_PATH PATHS /usr/local/cuda/bin PATH_SUFFIXES bin)
if(NVCC)
  get_filename_component(NVCC_FOLDER "${NVCC}" REALPATH)
  get_filename_component(NVCC_FOLDER "${NVCC_FOLDER}" DIRECTORY)
  find_path(CUBLASLT_INCLUDE_DIR cublasLt.h HINTS ${CUBLAS_ROOT} ENV CUBLAS_ROOT ${NVCC_FOLDER}/.. /usr/local/cuda PATH_SUFFIXES include)
  find_library(CUBLASLT_LIBRARY NAMES cublasLt libcublasLt.so.13 libcublasLt.so.12 HINTS ${CUBLAS_ROOT} ENV CUBLAS_ROOT ${NVCC_FOLDER}/.. /usr/local/cuda
               PATH_SUFFIXES lib lib64 targets/x86_64-linux/lib)
endif()
if(NOT NVCC OR NOT CUBLASLT_INCLUDE_DIR OR NOT CUBLASLT_LIBRARY)
  if(SIDETUNE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SIDETUNE_CUDA=ON, but not found: nvcc (${NVCC}), cublasLt.h (${CUBLASLT_INCLUDE_DIR}) or libcublasLt (${CUBLASLT_LIBRARY})")
  endif()
  message(STATUS "No CUDA library: nvcc and cuBLAS are not both here")
  return()
endif()

set(CMAKE_CUDA_COMPILER "${NVCC}")
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 75-real 80-real 86-real 89-real 90-real 100-real 120) # machine code for each, PTX for what comes after
endif()
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)

add_library(sidetune::cublasLt SHARED IMPORTED)
set_target_properties(sidetune::cublasLt PROPERTIES IMPORTED_LOCATION "${CUBLASLT_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${CUBLASLT_INCLUDE_DIR}")
set(SIDETUNE_CUDA_FOUND ON)
