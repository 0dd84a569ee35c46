// Steady state: a call that has run before takes no memory from the host's heap, between the stream's thread taking it and the
// kernel's end, on any thread. What oneDNN takes while it executes a primitive is out of our hands and not counted. Sanitizers
// have a malloc of their own, which cannot be counted here.
#include <dlfcn.h>
#include <dnnl.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <future>
#include <vector>

#include "native/attention.h"
#include "native/backend.h"
#include "native/layer_norm.h"
#include "native/linear.h"
#include "native/mlp.h"
#include "native/patch_embed.h"
#include "native/side_inject.h"
#include "native/stream.h"
#include "testing.h"

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)
namespace {

std::atomic<bool> counting{false};
std::atomic<int> counted{0};
thread_local bool in_onednn = false;

void count() {
  if (counting && !in_onednn) counted++;
}

}  // namespace

// Seen by shared libraries, too.
#pragma GCC visibility push(default)
extern "C" {

void* __libc_malloc(size_t bytes);
void* __libc_calloc(size_t count, size_t bytes);
void* __libc_realloc(void* data, size_t bytes);
void* __libc_memalign(size_t alignment, size_t bytes);

void* malloc(size_t bytes) { return count(), __libc_malloc(bytes); }
void* calloc(size_t number, size_t bytes) { return count(), __libc_calloc(number, bytes); }
void* realloc(void* data, size_t bytes) { return count(), __libc_realloc(data, bytes); }
void* memalign(size_t alignment, size_t bytes) { return count(), __libc_memalign(alignment, bytes); }
void* aligned_alloc(size_t alignment, size_t bytes) { return memalign(alignment, bytes); }
int posix_memalign(void** data, size_t alignment, size_t bytes) {
  *data = memalign(alignment, bytes);
  return *data ? 0 : ENOMEM;
}

// In the place of oneDNN's own, for the code that is linked into this executable.
dnnl_status_t dnnl_primitive_execute(const_dnnl_primitive_t primitive, dnnl_stream_t stream, int number,
                                     const dnnl_exec_arg_t* arguments) {
  static const auto execute = reinterpret_cast<decltype(&dnnl_primitive_execute)>(dlsym(RTLD_NEXT, "dnnl_primitive_execute"));
  in_onednn = true;
  const dnnl_status_t status = execute(primitive, stream, number, arguments);
  in_onednn = false;
  return status;
}

}  // extern "C"
#pragma GCC visibility pop

namespace sidetune {
namespace {

// A device of two threads, and tensors for it.
class Bench {
 public:
  Bench() { backend_.open({2}, &device_); }
  ~Bench() { backend_.close(device_); }

  Tensor tensor(std::vector<int64_t> shape, DType dtype = DType::f32) {
    Tensor result;
    result.dtype = dtype;
    for (const int64_t length : shape) result.shape[result.rank++] = length;
    result.data = take(result.bytes());
    return result;
  }
  Tensor packed(int64_t O, int64_t I, DType dtype, Layout layout = Layout::packed) {
    LinearPack pack;
    pack.weight = tensor({O, I}), pack.out = pack.weight;
    pack.out.dtype = dtype, pack.out.layout = layout;
    backend_.packed_bytes(*device_, O, I, dtype, layout, &pack.out.storage_bytes);
    pack.out.data = take(pack.out.storage_bytes);
    run_twice(pack, "linearPack");
    return pack.out;
  }

  // Runs a call twice on a stream; the second one takes no memory.
  template <class Arguments>
  void run_twice(const Arguments& arguments, const char* name) {
    const auto& entry = backend_.kernels.entry<Arguments>();
    Workspace scratch;
    entry.workspace(*device_, arguments, &scratch.bytes);
    scratch.data = static_cast<std::byte*>(take(scratch.bytes));
    const auto run = [&] { return entry.run(*device_, arguments, scratch); };
    std::promise<void> all_queued;
    std::promise<std::string> done;
    stream_.enqueue_always([queued = all_queued.get_future().share()] { queued.wait(); });
    stream_.enqueue(name, run);
    stream_.enqueue_always([] { counted = 0, counting = true; });
    stream_.enqueue(name, run);
    stream_.enqueue_always([] { counting = false; });
    stream_.enqueue_wait(nullptr, [&](const Error* error) { done.set_value(error ? error->message : ""); });
    all_queued.set_value();
    CHECK_EQUAL(done.get_future().get(), "");
    testing::context = name;
    CHECK_EQUAL(counted.load(), 0);
    testing::context.clear();
  }

 private:
  void* take(int64_t bytes) {
    memory_.emplace_back(std::aligned_alloc(64, (bytes + 127) / 64 * 64), &std::free);
    std::memset(memory_.back().get(), 0, bytes);
    return memory_.back().get();
  }

  const BackendTable& backend_ = cpu_backend();
  BackendDevice* device_ = nullptr;
  Stream stream_;
  std::deque<std::unique_ptr<void, decltype(&std::free)>> memory_;
};

// Rows and widths with tiles of four shapes.
constexpr int64_t B = 2, N = 50, d = 200, kHidden = 400;

TEST(allocations_are_counted) {
  counted = 0, counting = true;
  void* volatile block = std::malloc(1);
  std::free(block);
  int* volatile number = new int;
  delete number;
  counting = false;
  CHECK_EQUAL(counted.load(), 2);
}

TEST(allocation_free_linear) {
  Bench bench;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const DType weight : {dtype, DType::i8}) {
      LinearForward layer;
      layer.x = bench.tensor({B, N, d}, dtype), layer.out = bench.tensor({B, N, kHidden}, dtype);
      layer.weight = bench.packed(kHidden, d, weight), layer.bias = bench.tensor({kHidden});
      layer.activation = Activation::gelu;
      bench.run_twice(layer, "linearForward");
    }
    LinearForward trained;
    trained.x = bench.tensor({B, N, d}, dtype), trained.weight = bench.tensor({kHidden, d});
    trained.residual = bench.tensor({B, N, kHidden}, dtype), trained.out = bench.tensor({B, N, kHidden}, dtype);
    bench.run_twice(trained, "linearForward of a plain weight");
    LinearBackward backward;
    backward.grad_out = bench.tensor({B, N, kHidden}, dtype), backward.x = trained.x, backward.weight = trained.weight;
    backward.pre_activation = bench.tensor({B, N, kHidden}, dtype), backward.activation = Activation::gelu;
    backward.grad_x = bench.tensor({B, N, d}, dtype), backward.grad_weight = bench.tensor({kHidden, d});
    backward.grad_bias = bench.tensor({kHidden});
    bench.run_twice(backward, "linearBackward");
  }
}

TEST(allocation_free_mlp) {
  Bench bench;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const DType weight : {dtype, DType::i8}) {
      MlpForward mlp;
      mlp.x = bench.tensor({B, N, d}, dtype), mlp.out = bench.tensor({B, N, d}, dtype), mlp.residual = mlp.x;
      mlp.weight1 = bench.packed(kHidden, d, weight), mlp.weight2 = bench.packed(d, kHidden, weight);
      bench.run_twice(mlp, "mlpForward");
    }
    MlpBackward backward;
    backward.grad_out = bench.tensor({B, N, d}, dtype);
    backward.slope = bench.tensor({B, N, kHidden}, dtype == DType::bf16 ? DType::u8 : dtype);
    backward.weight1 = bench.packed(kHidden, d, dtype, Layout::packed_transposed);
    backward.weight2 = bench.packed(d, kHidden, dtype, Layout::packed_transposed);
    backward.grad_x = bench.tensor({B, N, d}, dtype);
    bench.run_twice(backward, "mlpBackward");
  }
}

TEST(allocation_free_patch_embed) {
  Bench bench;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    PatchEmbedForward embed;
    embed.images = bench.tensor({B, 3, 32, 32}), embed.weight = bench.tensor({d, 3, 4, 4}), embed.bias = bench.tensor({d});
    embed.out = bench.tensor({B, 64, d}, dtype);
    bench.run_twice(embed, "patchEmbedForward");
    PatchEmbedBackward backward;
    backward.images = embed.images, backward.weight = embed.weight, backward.grad_out = embed.out;
    backward.grad_images = bench.tensor({B, 3, 32, 32}), backward.grad_weight = bench.tensor({d, 3, 4, 4});
    backward.grad_bias = bench.tensor({d});
    bench.run_twice(backward, "patchEmbedBackward");
  }
}

TEST(allocation_free_attention) {
  Bench bench;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    AttentionForward attention;
    attention.qkv = bench.tensor({B, N, 3 * d}, dtype), attention.out = bench.tensor({B, N, d}, dtype);
    attention.heads = 4, attention.lse = bench.tensor({B, 4, N});
    bench.run_twice(attention, "attentionForward");
    AttentionBackward backward;
    backward.grad_out = attention.out, backward.qkv = attention.qkv, backward.lse = attention.lse, backward.heads = 4;
    backward.grad_qkv = bench.tensor({B, N, 3 * d}, dtype);
    bench.run_twice(backward, "attentionBackward");
  }
}

TEST(allocation_free_layer_norm) {
  Bench bench;
  LayerNormForward norm;
  norm.x = bench.tensor({B, N, d}), norm.weight = bench.tensor({d}), norm.bias = bench.tensor({d});
  norm.out = bench.tensor({B, N, d}), norm.mean = bench.tensor({B, N}), norm.rstd = bench.tensor({B, N});
  bench.run_twice(norm, "layerNormForward");
  LayerNormBackward backward;
  backward.grad_out = norm.out, backward.x = norm.x, backward.weight = norm.weight, backward.mean = norm.mean;
  backward.rstd = norm.rstd, backward.grad_x = bench.tensor({B, N, d});
  backward.grad_weight = bench.tensor({d}), backward.grad_bias = bench.tensor({d});
  bench.run_twice(backward, "layerNormBackward");
}

TEST(allocation_free_side_inject) {
  Bench bench;
  for (const bool convolved : {false, true}) {
    SideInjectForward inject;
    inject.z = bench.tensor({B, N, d}), inject.h = bench.tensor({B, N, d}), inject.out = inject.z;
    if (convolved) inject.weight = bench.tensor({d, 1, 3, 3}), inject.prefix_tokens = 1, inject.grid[0] = inject.grid[1] = 7;
    bench.run_twice(inject, "sideInjectForward");
    SideInjectBackward backward;
    backward.grad_out = inject.z, backward.h = inject.h, backward.weight = inject.weight;
    backward.grad_h = bench.tensor({B, N, d}), backward.prefix_tokens = inject.prefix_tokens;
    if (convolved) backward.grad_weight = bench.tensor({d, 1, 3, 3}), backward.grid[0] = backward.grid[1] = 7;
    bench.run_twice(backward, "sideInjectBackward");
  }
}

}  // namespace
}  // namespace sidetune
#endif
