#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/layer_norm.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "low_rank-inl.h"
#include "math-inl.h"
// clang-format on

#include <cmath>

#include "../layer_norm.h"
#include "parallel.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {
namespace {

// One row: three reads of x, the first from memory and the others from L1, and one write.
template <class T>
void normalise_row(const T* HWY_RESTRICT x, const float* weight, const float* bias, float eps, int64_t d, T* HWY_RESTRICT out,
                   float* mean_out, float* rstd_out, uint8_t* bytes, float* step_out) {
  const F f;
  V total = hn::Zero(f);
  for_each_vector(d, [&](size_t, auto at, auto) HWY_ATTR { total = hn::Add(total, at(x)); });
  const float mean = sum(total) / static_cast<float>(d);
  const V centre = hn::Set(f, mean);
  V squares = hn::Zero(f);
  for_each_vector(d, [&](size_t i, auto at, auto) HWY_ATTR {
    const V c = first(hn::Sub(at(x), centre), i, d);
    squares = hn::MulAdd(c, c, squares);
  });
  const float rstd = 1.0f / std::sqrt(sum(squares) / static_cast<float>(d) + eps);
  const V scale = hn::Set(f, rstd);
  for_each_vector(d, [&](size_t, auto at, auto put) HWY_ATTR {
    const V xhat = hn::Mul(hn::Sub(at(x), centre), scale);
    put(hn::MulAdd(xhat, at(weight), at(bias)), out);
  });
  if (mean_out) *mean_out = mean;
  if (rstd_out) *rstd_out = rstd;
  if (!bytes) return;
  V largest = hn::Zero(f);
  for_each_vector(d, [&](size_t i, auto at, auto)
                         HWY_ATTR { largest = hn::Max(largest, first(hn::Abs(hn::Mul(hn::Sub(at(x), centre), scale)), i, d)); });
  const float step = max(largest) / 127;
  *step_out = step;
  const V per_step = hn::Set(f, step > 0 ? 1 / step : 0);
  for_each_vector(d, [&](size_t, auto at, auto put) HWY_ATTR {
    const V xhat = hn::Mul(hn::Sub(at(x), centre), scale);
    put(hn::MulAdd(xhat, per_step, hn::Set(f, 128.0f)), bytes);
  });
}

// A row of xhat = (kept − zero) · step: kept is x, or bytes.
template <class Kept>
struct XhatRow {
  const Kept* kept;
  float zero, step;
};

// One row of gradX = rstd (g − mean(g) − xhat mean(g ∘ xhat)) + residual.
template <class T, class Kept>
void input_gradient_row(const T* grad_out, const XhatRow<Kept>& row, const float* weight, float rstd, const T* residual,
                        int64_t d, T* grad_x) {
  const F f;
  const V zero = hn::Set(f, row.zero), step = hn::Set(f, row.step), scale = hn::Set(f, rstd);
  V sum_g = hn::Zero(f), sum_gx = hn::Zero(f);
  for_each_vector(d, [&](size_t, auto at, auto) HWY_ATTR {
    const V g = hn::Mul(at(grad_out), at(weight));
    sum_g = hn::Add(sum_g, g);
    sum_gx = hn::MulAdd(g, hn::Mul(hn::Sub(at(row.kept), zero), step), sum_gx);
  });
  const V mean_g = hn::Set(f, sum(sum_g) / static_cast<float>(d)), mean_gx = hn::Set(f, sum(sum_gx) / static_cast<float>(d));
  for_each_vector(d, [&](size_t, auto at, auto put) HWY_ATTR {
    const V xhat = hn::Mul(hn::Sub(at(row.kept), zero), step);
    const V inner = hn::NegMulAdd(xhat, mean_gx, hn::Sub(hn::Mul(at(grad_out), at(weight)), mean_g));
    put(residual ? hn::MulAdd(inner, scale, at(residual)) : hn::Mul(inner, scale), grad_x);
  });
}

// Σ over rows [begin, end) of gradOut ∘ xhat and of gradOut, into a group's partial sums (null where unwanted).
template <class T, class XhatAt>
void parameter_gradient_rows(const T* grad_out, const XhatAt& xhat_at, int64_t begin, int64_t end, int64_t d, float* weight_sum,
                             float* bias_sum) {
  const F f;
  for (int64_t row = begin; row < end; row++) {
    const auto x = xhat_at(row);
    const V zero = hn::Set(f, x.zero), step = hn::Set(f, x.step);
    const T* g = grad_out + row * d;
    const bool start = row == begin;
    for_each_vector(d, [&](size_t, auto at, auto put) HWY_ATTR {
      const V gradient = at(g);
      if (weight_sum) {
        const V xhat = hn::Mul(hn::Sub(at(x.kept), zero), step);
        put(start ? hn::Mul(gradient, xhat) : hn::MulAdd(gradient, xhat, at(weight_sum)), weight_sum);
      }
      if (bias_sum) put(start ? gradient : hn::Add(at(bias_sum), gradient), bias_sum);
    });
  }
}

// `bytes` and `step` of the row, or null.
template <class T, class Arguments>
void normalise(const Arguments& k, int64_t row, uint8_t* bytes, float* step) {
  const int64_t d = k.x.dim(-1);
  normalise_row(k.x.template as<T>() + row * d, k.weight.template as<float>(), k.bias.template as<float>(), k.eps, d,
                k.out.template as<T>() + row * d, k.mean ? k.mean.template as<float>() + row : nullptr,
                k.rstd ? k.rstd.template as<float>() + row : nullptr, bytes, step);
}

template <class T>
void forward(const Cpu& cpu, const LayerNormForward& k) {
  parallel_ranges(cpu, k.x.rows(), 8, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      normalise<T>(k, row, k.xhat ? k.xhat.as<uint8_t>() + row * k.x.dim(-1) : nullptr,
                   k.step ? k.step.as<float>() + row : nullptr);
    }
  });
}

// A tile of rows comes to L1 for its products with a, and is normalised from there.
template <class T>
void project_forward(const Cpu& cpu, const LayerNormProjectForward& k, Workspace scratch) {
  const int64_t d = k.a.dim(0), r = k.a.dim(1);
  float* a = scratch.take<float>(r * d);
  transpose(k.a.as<float>(), d, r, a);
  parallel_ranges(cpu, k.x.rows(), 8, [&](int64_t begin, int64_t end) {
    for_each_tile(begin, end, [&](auto tile, int64_t row) HWY_ATTR {
      constexpr int kRows = decltype(tile)::value;
      row_products<kRows>(k.x.as<T>() + row * d, a, r, d, k.u.as<float>() + row * r);
      for (int i = 0; i < kRows; i++) normalise<T>(k, row + i, nullptr, nullptr);
    });
  });
}

// xhat_at(row) is a row of xhat.
template <class T, class XhatAt>
void backward(const Cpu& cpu, const LayerNormBackward& k, Workspace scratch, const XhatAt& xhat_at) {
  const int64_t d = k.grad_out.dim(-1), rows = k.grad_out.rows();
  const float* rstd = k.rstd.as<float>();
  // Parameters first: gradX may overwrite `residual`, never gradOut or x.
  if (k.grad_weight || k.grad_bias) {
    const int64_t groups = group_count(rows), per_group = group_rows(rows);
    float* weight_sums = k.grad_weight ? scratch.take<float>(groups * d) : nullptr;
    float* bias_sums = k.grad_bias ? scratch.take<float>(groups * d) : nullptr;
    parallel_items(cpu, groups, [&](int64_t group) {
      parameter_gradient_rows(k.grad_out.as<T>(), xhat_at, group * per_group, std::min(rows, (group + 1) * per_group), d,
                              weight_sums ? weight_sums + group * d : nullptr, bias_sums ? bias_sums + group * d : nullptr);
    });
    for (int64_t group = 0; group < groups; group++) {
      if (weight_sums) add_row(weight_sums + group * d, d, k.grad_weight.as<float>());
      if (bias_sums) add_row(bias_sums + group * d, d, k.grad_bias.as<float>());
    }
  }
  if (k.grad_x) {
    parallel_ranges(cpu, rows, 8, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row++) {
        input_gradient_row(k.grad_out.as<T>() + row * d, xhat_at(row), k.weight.as<float>(), rstd[row],
                           k.residual ? k.residual.as<T>() + row * d : nullptr, d, k.grad_x.as<T>() + row * d);
      }
    });
  }
}

template <class T>
void backward(const Cpu& cpu, const LayerNormBackward& k, Workspace scratch) {
  const int64_t d = k.grad_out.dim(-1);
  if (k.xhat) {
    const auto bytes_at = [&](int64_t row) {
      return XhatRow<uint8_t>{k.xhat.as<uint8_t>() + row * d, 128, k.step.as<float>()[row]};
    };
    return backward<T>(cpu, k, scratch, bytes_at);
  }
  backward<T>(cpu, k, scratch, [&](int64_t row) {
    return XhatRow<T>{k.x.as<T>() + row * d, k.mean.as<float>()[row], k.rstd.as<float>()[row]};
  });
}

void layer_norm_forward(const Cpu& cpu, const LayerNormForward& k) {
  k.x.dtype == DType::bf16 ? forward<bf16_t>(cpu, k) : forward<float>(cpu, k);
}
void layer_norm_project_forward(const Cpu& cpu, const LayerNormProjectForward& k, Workspace scratch) {
  k.x.dtype == DType::bf16 ? project_forward<bf16_t>(cpu, k, scratch) : project_forward<float>(cpu, k, scratch);
}
void layer_norm_backward(const Cpu& cpu, const LayerNormBackward& k, Workspace scratch) {
  k.grad_out.dtype == DType::bf16 ? backward<bf16_t>(cpu, k, scratch) : backward<float>(cpu, k, scratch);
}

}  // namespace
}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(layer_norm_forward);
HWY_EXPORT(layer_norm_project_forward);
HWY_EXPORT(layer_norm_backward);

void run(Cpu& cpu, const LayerNormForward& k, Workspace) { HWY_DYNAMIC_DISPATCH(layer_norm_forward)(cpu, k); }
void run(Cpu& cpu, const LayerNormProjectForward& k, Workspace scratch) {
  HWY_DYNAMIC_DISPATCH(layer_norm_project_forward)(cpu, k, scratch);
}
void run(Cpu& cpu, const LayerNormBackward& k, Workspace scratch) { HWY_DYNAMIC_DISPATCH(layer_norm_backward)(cpu, k, scratch); }

int64_t workspace(Cpu&, const LayerNormProjectForward& k) { return Workspace::aligned<float>(k.a.size()); }
int64_t workspace(Cpu&, const LayerNormBackward& k) {
  const int64_t sums = (k.grad_weight ? 1 : 0) + (k.grad_bias ? 1 : 0);
  return sums * Workspace::aligned<float>(group_count(k.grad_out.rows()) * k.grad_out.dim(-1));
}

SIDETUNE_CPU_KERNEL(LayerNormForward)
SIDETUNE_CPU_KERNEL(LayerNormProjectForward)
SIDETUNE_CPU_KERNEL(LayerNormBackward)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
