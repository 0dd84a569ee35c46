#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/prompt.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "math-inl.h"
// clang-format on

#include "../prompt.h"
#include "parallel.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {
namespace {

template <class T>
void forward(const Cpu& cpu, const PromptForward& k) {
  const int64_t N = k.x.dim(1), M = k.out.dim(1), d = k.x.dim(2), prompts = k.prompt.dim(0);
  parallel_ranges(cpu, k.out.rows(), 16, [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t row = begin; row < end; row++) {
      const int64_t image = row / M, t = row % M;
      T* out = k.out.as<T>() + row * d;
      if (t >= k.at && t < k.at + prompts) {
        const float* prompt = k.prompt.as<float>() + (t - k.at) * d;
        for_each_vector(d, [&](size_t, auto at, auto put) HWY_ATTR { put(at(prompt), out); });
      } else {
        const int64_t from = t < k.at ? t : t - prompts + k.replaced;
        std::memcpy(out, k.x.as<T>() + (image * N + from) * d, d * sizeof(T));
      }
    }
  });
}

template <class T>
void spread(const Cpu& cpu, const PromptBackward& k) {
  const int64_t M = k.grad_out.dim(1), N = k.grad_x.dim(1), d = k.grad_x.dim(2);
  parallel_ranges(cpu, k.grad_x.rows(), 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const int64_t image = row / N, t = row % N;
      T* grad_x = k.grad_x.as<T>() + row * d;
      if (t >= k.at && t < k.at + k.replaced) {
        std::fill_n(grad_x, d, T{0});
      } else {
        const int64_t from = t < k.at ? t : t - k.replaced + k.prompts;
        std::memcpy(grad_x, k.grad_out.as<T>() + (image * M + from) * d, d * sizeof(T));
      }
    }
  });
}

// A task owns some columns of one prompt, so that a single prompt keeps all threads busy too.
constexpr int64_t kColumns = 256;

template <class T>
void add_images(const Cpu& cpu, const PromptBackward& k) {
  const int64_t B = k.grad_out.dim(0), M = k.grad_out.dim(1), d = k.grad_out.dim(2);
  const int64_t blocks = (d + kColumns - 1) / kColumns;
  parallel_ranges(cpu, k.prompts * blocks, 1, [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t task = begin; task < end; task++) {
      const int64_t prompt = task / blocks, column = task % blocks * kColumns, columns = std::min(kColumns, d - column);
      float* sum = k.grad_prompt.as<float>() + prompt * d + column;
      for (int64_t image = 0; image < B; image++) {
        const T* gradient = k.grad_out.as<T>() + (image * M + k.at + prompt) * d + column;
        for_each_vector(columns, [&](size_t, auto at, auto put) HWY_ATTR { put(hn::Add(at(sum), at(gradient)), sum); });
      }
    }
  });
}

template <class T>
void backward(const Cpu& cpu, const PromptBackward& k) {
  if (k.grad_x) spread<T>(cpu, k);
  if (k.grad_prompt) add_images<T>(cpu, k);
}

void prompt_forward(const Cpu& cpu, const PromptForward& k) {
  k.x.dtype == DType::bf16 ? forward<bf16_t>(cpu, k) : forward<float>(cpu, k);
}
void prompt_backward(const Cpu& cpu, const PromptBackward& k) {
  k.grad_out.dtype == DType::bf16 ? backward<bf16_t>(cpu, k) : backward<float>(cpu, k);
}

}  // namespace
}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(prompt_forward);
HWY_EXPORT(prompt_backward);

void run(Cpu& cpu, const PromptForward& k, Workspace) { HWY_DYNAMIC_DISPATCH(prompt_forward)(cpu, k); }
void run(Cpu& cpu, const PromptBackward& k, Workspace) { HWY_DYNAMIC_DISPATCH(prompt_backward)(cpu, k); }

SIDETUNE_CPU_KERNEL(PromptForward)
SIDETUNE_CPU_KERNEL(PromptBackward)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
