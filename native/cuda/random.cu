#include "../random.h"

#include <cmath>

#include "../random_numbers.h"
#include "each.cuh"

namespace sidetune::cuda {
namespace {

// Eight numbers are two blocks of Philox, made and written by one thread. Number: bits -> float.
template <class T, class Number>
struct Draw {
  T* out;
  uint64_t seed, offset;
  Number number;
  template <int V>
  __device__ void at(int64_t i) const {
    Numbers<V> numbers;
    if constexpr (V == 1) {
      const random_numbers::Block block = block_of(i / 4);
      numbers[0] = number(block.word[i % 4]);
    } else {
      for (int n = 0; n < V; n += 4) {
        const random_numbers::Block block = block_of((i + n) / 4);
        for (int word = 0; word < 4; word++) numbers[n + word] = number(block.word[word]);
      }
    }
    store(out + i, numbers);
  }
  __device__ random_numbers::Block block_of(int64_t index) const {
    return random_numbers::block(seed, offset + static_cast<uint64_t>(index));
  }
};

struct Uniform {
  float low, high;
  __device__ float operator()(uint32_t bits) const { return random_numbers::uniform(bits, low, high); }
};
struct Normal {
  float mean, deviation, cut, tail;
  __device__ float operator()(uint32_t bits) const { return random_numbers::normal(bits, mean, deviation, cut, tail); }
};
struct Keep {
  float keep, scale;
  __device__ float operator()(uint32_t bits) const { return random_numbers::keep_or_drop(bits, keep, scale); }
};

template <class Arguments, class Number>
void draw(Cuda& cuda, const Arguments& k, const Number& number) {
  dispatch(k.out.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    each(cuda, k.out.size(),
         Draw<T, Number>{k.out.template as<T>(), static_cast<uint64_t>(k.seed), static_cast<uint64_t>(k.offset), number});
  });
}

}  // namespace

void run(Cuda& cuda, const RandomUniform& k, Workspace) { draw(cuda, k, Uniform{k.low, k.high}); }

void run(Cuda& cuda, const RandomNormal& k, Workspace) {
  const double tail = random_numbers::normal_tail(static_cast<double>(k.cut) / std::fabs(k.deviation));
  draw(cuda, k, Normal{k.mean, k.deviation, k.cut, static_cast<float>(tail)});
}

void run(Cuda& cuda, const RandomKeep& k, Workspace) { draw(cuda, k, Keep{k.keep, 1.0f / k.keep}); }

SIDETUNE_CUDA_KERNEL(RandomUniform)
SIDETUNE_CUDA_KERNEL(RandomNormal)
SIDETUNE_CUDA_KERNEL(RandomKeep)

}  // namespace sidetune::cuda
