#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/dropout.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "math-inl.h"
// clang-format on

#include "../dropout.h"
#include "../random_numbers.h"
#include "parallel.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {
namespace {

// A task makes kBlocks blocks of random words in L1, then goes over their numbers.
constexpr int64_t kBlocks = 64, kNumbers = 4 * kBlocks;

// The words of blocks first … first + kBlocks − 1, in order.
#if HWY_TARGET == HWY_SCALAR
void draw(uint64_t seed, uint64_t first, uint32_t stream, uint32_t step, uint32_t* bits) {
  for (int64_t i = 0; i < kBlocks; i++) {
    const random_numbers::Block block = random_numbers::mask_block(seed, first + static_cast<uint64_t>(i), stream, step);
    for (int word = 0; word < 4; word++) bits[4 * i + word] = block.word[word];
  }
}
#else
// A word is the low half of a 64-bit lane: a product is one instruction and leaves its two words where the next round wants them.
// What lies above a word no product reads, and the last lines cut it off.
void draw(uint64_t seed, uint64_t first, uint32_t stream, uint32_t step, uint32_t* bits) {
  const hn::ScalableTag<uint64_t> d;
  const hn::Repartition<uint32_t, decltype(d)> words;
  using U = hn::Vec<decltype(d)>;
  const auto product = [&](U a, U b) HWY_ATTR { return hn::MulEven(hn::BitCast(words, a), hn::BitCast(words, b)); };
  const U factor0 = hn::Set(d, 0xD2511F53u), factor1 = hn::Set(d, 0xCD9E8D57u);
  const U weyl0 = hn::Set(d, 0x9E3779B9u), weyl1 = hn::Set(d, 0xBB67AE85u), low = hn::Set(d, 0xFFFFFFFFu);
  const U stream_word = hn::Set(d, random_numbers::mask_stream(stream)), step_word = hn::Set(d, step);
  for (size_t i = 0; i < size_t{kBlocks}; i += hn::Lanes(d)) {
    U x0 = hn::Add(hn::Set(d, first + i), hn::Iota(d, 0)), x1 = hn::ShiftRight<32>(x0), x2 = stream_word, x3 = step_word;
    U key0 = hn::Set(d, seed), key1 = hn::Set(d, seed >> 32);
    for (int round = 0; round < 10; round++) {
      const U a = product(factor0, x0), b = product(factor1, x2);
      x0 = hn::Xor(hn::Xor(hn::ShiftRight<32>(b), x1), key0), x1 = b;
      x2 = hn::Xor(hn::Xor(hn::ShiftRight<32>(a), x3), key1), x3 = a;
      key0 = hn::Add(key0, weyl0), key1 = hn::Add(key1, weyl1);
    }
    const U pair0 = hn::Or(hn::And(x0, low), hn::ShiftLeft<32>(x1)), pair1 = hn::Or(hn::And(x2, low), hn::ShiftLeft<32>(x3));
    hn::StoreInterleaved2(pair0, pair1, d, reinterpret_cast<uint64_t*>(bits + 4 * i));
  }
}
#endif

template <class T>
void drop(const Cpu& cpu, const Dropout& k) {
  const int64_t size = k.x.size();
  const uint64_t seed = static_cast<uint64_t>(k.seed);
  const uint32_t stream = static_cast<uint32_t>(k.stream), step = static_cast<uint32_t>(*k.step.as<int32_t>());
  const hn::RebindToUnsigned<F> u32;
  const auto threshold = hn::Set(u32, k.threshold());
  const V scale = hn::Set(F(), k.scale());
  parallel_ranges(cpu, (size + kNumbers - 1) / kNumbers, 8, [&](int64_t begin, int64_t end) HWY_ATTR {
    HWY_ALIGN uint32_t bits[kNumbers];
    for (int64_t task = begin; task < end; task++) {
      draw(seed, static_cast<uint64_t>(task * kBlocks), stream, step, bits);
      const T* x = k.x.as<T>() + task * kNumbers;
      T* out = k.out.as<T>() + task * kNumbers;
      for_each_vector(std::min(kNumbers, size - task * kNumbers), [&](size_t i, auto at, auto put) HWY_ATTR {
        const auto dropped = hn::RebindMask(F(), hn::Lt(hn::LoadU(u32, bits + i), threshold));
        put(hn::IfThenZeroElse(dropped, hn::Mul(at(x), scale)), out);
      });
    }
  });
}

void dropout(const Cpu& cpu, const Dropout& k) { k.x.dtype == DType::bf16 ? drop<bf16_t>(cpu, k) : drop<float>(cpu, k); }

}  // namespace
}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(dropout);

void run(Cpu& cpu, const Dropout& k, Workspace) { HWY_DYNAMIC_DISPATCH(dropout)(cpu, k); }

SIDETUNE_CPU_KERNEL(Dropout)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
