// Numbers from one dtype to the other.
#pragma once

#include "backend.cuh"

namespace sidetune::cuda {

// to = from, rounded or widened; a copy where the dtypes are the same.
void convert(Cuda& cuda, const void* from, DType from_dtype, void* to, DType to_dtype, int64_t count);

// A plain matrix of rows that begin `leading` numbers apart; in a batch the matrices begin `stride` numbers apart.
struct Rows {
  void* data;
  DType dtype;
  int64_t leading, stride;
};
// Matrices from one dtype to the other. What lies between the rows of `to` is left alone.
void convert(Cuda& cuda, const Rows& from, const Rows& to, int64_t batch, int64_t rows, int64_t columns);

}  // namespace sidetune::cuda
