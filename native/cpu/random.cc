#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/random.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "math-inl.h"
// clang-format on

#include <cmath>

#include "../random.h"
#include "../random_numbers.h"
#include "parallel.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {
namespace {

// A task makes kBlocks blocks at a time in L1: plain loops that the compiler vectorises for each target, to the same bits on all
// of them.
constexpr int64_t kBlocks = 64;

// Calls number(bits) for each number of out and stores what it returns.
template <class T, class Number>
void draw(const Cpu& cpu, const Tensor& out, int64_t seed, int64_t offset, const Number& number) {
  constexpr int64_t kNumbers = 4 * kBlocks;
  const int64_t size = out.size();
  parallel_ranges(cpu, (size + kNumbers - 1) / kNumbers, 8, [&](int64_t begin, int64_t end) HWY_ATTR {
    HWY_ALIGN uint32_t bits[kNumbers];
    HWY_ALIGN float numbers[kNumbers];
    for (int64_t task = begin; task < end; task++) {
      const uint64_t counter = static_cast<uint64_t>(offset + task * kBlocks);
      for (int64_t i = 0; i < kBlocks; i++) {
        const random_numbers::Block block =
            random_numbers::block(static_cast<uint64_t>(seed), counter + static_cast<uint64_t>(i));
        for (int word = 0; word < 4; word++) bits[4 * i + word] = block.word[word];
      }
      for (int64_t i = 0; i < kNumbers; i++) numbers[i] = number(bits[i]);
      T* to = out.as<T>() + task * kNumbers;
      for_each_vector(std::min(kNumbers, size - task * kNumbers),
                      [&](size_t i, auto, auto put) HWY_ATTR { put(load(numbers + i), to); });
    }
  });
}

template <class T>
void uniform(const Cpu& cpu, const RandomUniform& k) {
  const float low = k.low, high = k.high;
  draw<T>(cpu, k.out, k.seed, k.offset, [=](uint32_t bits) HWY_ATTR { return random_numbers::uniform(bits, low, high); });
}

template <class T>
void normal(const Cpu& cpu, const RandomNormal& k) {
  const float mean = k.mean, deviation = k.deviation, cut = k.cut;
  const float tail = static_cast<float>(random_numbers::normal_tail(static_cast<double>(cut) / std::fabs(deviation)));
  draw<T>(cpu, k.out, k.seed, k.offset,
          [=](uint32_t bits) HWY_ATTR { return random_numbers::normal(bits, mean, deviation, cut, tail); });
}

void random_uniform(const Cpu& cpu, const RandomUniform& k) {
  if (k.out) k.out.dtype == DType::bf16 ? uniform<bf16_t>(cpu, k) : uniform<float>(cpu, k);
}
void random_normal(const Cpu& cpu, const RandomNormal& k) {
  if (k.out) k.out.dtype == DType::bf16 ? normal<bf16_t>(cpu, k) : normal<float>(cpu, k);
}
void random_keep(const Cpu& cpu, const RandomKeep& k) {
  if (!k.out) return;
  const float keep = k.keep, scale = 1.0f / keep;
  draw<float>(cpu, k.out, k.seed, k.offset,
              [=](uint32_t bits) HWY_ATTR { return random_numbers::keep_or_drop(bits, keep, scale); });
}

}  // namespace
}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(random_uniform);
HWY_EXPORT(random_normal);
HWY_EXPORT(random_keep);

void run(Cpu& cpu, const RandomUniform& k, Workspace) { HWY_DYNAMIC_DISPATCH(random_uniform)(cpu, k); }
void run(Cpu& cpu, const RandomNormal& k, Workspace) { HWY_DYNAMIC_DISPATCH(random_normal)(cpu, k); }
void run(Cpu& cpu, const RandomKeep& k, Workspace) { HWY_DYNAMIC_DISPATCH(random_keep)(cpu, k); }

SIDETUNE_CPU_KERNEL(RandomUniform)
SIDETUNE_CPU_KERNEL(RandomNormal)
SIDETUNE_CPU_KERNEL(RandomKeep)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
