#include "core/parallel.h"
#include "ops/embedding/embedding.h"

namespace basis::ops {
namespace {

void check_ids(const int32_t* ids, int64_t n, int64_t vocabulary) {
  for (int64_t i = 0; i < n; ++i)
    require(ids[i] >= 0 && ids[i] < vocabulary, "embedding", "token ids in [0, " + std::to_string(vocabulary) + ")",
            std::to_string(ids[i]) + " at index " + std::to_string(i));
}

template <class T>
void forward(const Tensor& table, const Tensor& ids, const Tensor& positions, int64_t first, int64_t time,
             const Tensor& y) {
  int64_t c = table.size(1), n = ids.numel();
  const int32_t* id = ids.data<int32_t>();
  check_ids(id, n, table.size(0));
  const T *e = table.data<T>(), *p = positions ? positions.data<T>() + first * c : nullptr;
  T* out = y.data<T>();
  core::parallel_for(n, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, c)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T *token = e + id[i] * c, *position = p ? p + i % time * c : nullptr;
      for (int64_t j = 0; j < c; ++j) out[i * c + j] = position ? token[j] + position[j] : token[j];
    }
  });
}

// Each thread owns a range of columns and walks the tokens in order: no conflicts, one order of summation.
template <class T>
void backward(const Tensor& dy, const Tensor& ids, int64_t first, int64_t time, const Tensor& dtable,
              const Tensor& dpositions) {
  int64_t c = dy.size(-1), n = ids.numel();
  const int32_t* id = ids.data<int32_t>();
  const T* g = dy.data<T>();
  auto scatter = [&](const Tensor& target, auto row_of) {
    T* out = target.data<T>();
    int64_t rows = target.size(0);
    constexpr int64_t block = 16;
    core::parallel_for((c + block - 1) / block, 1, [&](int64_t begin, int64_t end) {
      int64_t a = begin * block, b = std::min(c, end * block);
      for (int64_t r = 0; r < rows; ++r) std::fill(out + r * c + a, out + r * c + b, T(0));
      for (int64_t i = 0; i < n; ++i) {
        T* sum = out + row_of(i) * c;
        for (int64_t j = a; j < b; ++j) sum[j] += g[i * c + j];
      }
    });
  };
  if (dtable) scatter(dtable, [&](int64_t i) { return int64_t(id[i]); });
  if (dpositions) scatter(dpositions, [&](int64_t i) { return first + i % time; });
}

REGISTER_KERNEL(embedding_forward, cpu, f32, forward<float>)
REGISTER_KERNEL(embedding_forward, cpu, f64, forward<double>)
REGISTER_KERNEL(embedding_backward, cpu, f32, backward<float>)
REGISTER_KERNEL(embedding_backward, cpu, f64, backward<double>)

}  // namespace
}  // namespace basis::ops
