#include "../dropout.h"

#include "../random_numbers.h"
#include "each.cuh"

namespace sidetune::cuda {
namespace {

// Eight numbers take two blocks of Philox, made by the thread that reads and writes them. All threads read the one step.
template <class T>
struct Drop {
  const T* x;
  T* out;
  const int32_t* step;
  uint64_t seed;
  uint32_t stream, threshold;
  float scale;
  template <int V>
  __device__ void at(int64_t i) const {
    Numbers<V> numbers = load<V>(x + i);
    if constexpr (V == 1) {
      numbers[0] = kept(numbers[0], block_of(i / 4).word[i % 4]);
    } else {
      for (int n = 0; n < V; n += 4) {
        const random_numbers::Block block = block_of((i + n) / 4);
        for (int word = 0; word < 4; word++) numbers[n + word] = kept(numbers[n + word], block.word[word]);
      }
    }
    store(out + i, numbers);
  }
  __device__ float kept(float number, uint32_t word) const { return word < threshold ? 0.0f : number * scale; }
  __device__ random_numbers::Block block_of(int64_t index) const {
    return random_numbers::mask_block(seed, static_cast<uint64_t>(index), stream, static_cast<uint32_t>(*step));
  }
};

}  // namespace

void run(Cuda& cuda, const Dropout& k, Workspace) {
  dispatch(k.x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    each(cuda, k.x.size(),
         Drop<T>{k.x.as<const T>(), k.out.as<T>(), k.step.as<const int32_t>(), static_cast<uint64_t>(k.seed),
                 static_cast<uint32_t>(k.stream), k.threshold(), k.scale()});
  });
}

SIDETUNE_CUDA_KERNEL(Dropout)

}  // namespace sidetune::cuda
