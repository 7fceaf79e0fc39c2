#include "core/factor/decompose.h"

#include <algorithm>
#include <cmath>
#include <exception>

#include "core/parallel.h"

namespace basis::core {
namespace {

constexpr int64_t kBatch = 64 << 20;  // numbers of the weights in one batch: about 4 GiB of work space
constexpr int64_t kHeads = 32768;     // of one batch: a grid has fewer than 65536 rows of blocks

template <class Work>
void for_each(int64_t n, Work&& work) {  // an exception must not leave a parallel loop
  std::vector<std::exception_ptr> failed(static_cast<size_t>(n));
  parallel_for(n, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) try {
        work(size_t(i));
      } catch (...) {
        failed[size_t(i)] = std::current_exception();
      }
  });
  for (const std::exception_ptr& e : failed)
    if (e) std::rethrow_exception(e);
}

bool alike(const BasisTask& a, const BasisTask& b) {
  auto same = [](const Tensor& x, const Tensor& y) {
    return x.defined() == y.defined() && (!x.defined() || x.shape() == y.shape());
  };
  return same(a.weight, b.weight) && same(a.partner, b.partner);
}

BasisFactors on_cpu(const BasisTask& t, int64_t dh, BasisChoice choice) {
  return decompose(t.weight, dh, choose_basis(t.weight, dh, choice, t.taken, t.partner));
}

// Conditions that the device left open, and what decompose() throws.
void finish(const BasisTask& t, int64_t dh, BasisFactors& f) {
  for (size_t h = 0; h < f.heads.size(); ++h)
    if (std::isnan(f.heads[h].condition))
      f.heads[h].condition = condition_number(f.t.data<double>() + int64_t(h) * dh * dh, dh);
  require_independent(f);
}

void on_device(const std::vector<BasisTask>& tasks, int64_t dh, BasisChoice choice, Device device,
               std::vector<BasisFactors>& all) {
  bool pivoted = choice == BasisChoice::pivoted;
  BasisRows rows(tasks.size());
  if (!pivoted)
    for_each(int64_t(tasks.size()),
             [&](size_t i) { rows[i] = choose_basis(tasks[i].weight, dh, choice, tasks[i].taken, tasks[i].partner); });
  for (size_t begin = 0, end = 0; begin < tasks.size(); begin = end) {
    int64_t size = tasks[begin].weight.numel(), heads = tasks[begin].weight.size(0) / dh;
    int64_t most = std::clamp<int64_t>(
        std::min(kBatch / std::max<int64_t>(1, size), kHeads / std::max<int64_t>(1, heads)), 1, int64_t(tasks.size()));
    for (end = begin; end < tasks.size() && end - begin < size_t(most) && alike(tasks[begin], tasks[end]);) ++end;
    const BasisTask& t = tasks[begin];
    bool possible =
        size > 0 && heads <= kHeads && t.weight.size(1) >= dh && (!pivoted || (t.partner && t.partner.numel()));
    for (size_t i = begin; i < end; ++i) possible &= t.weight.size(1) - int64_t(tasks[i].taken.size()) >= dh;
    if (!possible) continue;
    auto first = int64_t(begin), last = int64_t(end);
    std::vector<BasisFactors> factors(end - begin);
    int64_t d = t.weight.size(1);
    parallel_for(last - first, 1, [&](int64_t from, int64_t to) {  // the system's pages are taken by several threads
      for (int64_t i = from; i < to; ++i) {
        factors[size_t(i)].t = Tensor::zeros({heads, dh, dh}, DType::f64);
        factors[size_t(i)].c = Tensor::zeros({heads * dh, d - dh}, DType::f64);
      }
    });
    decompose_kernel(device.type, DType::f64, std::vector(tasks.begin() + first, tasks.begin() + last),
                     BasisRows(rows.begin() + first, rows.begin() + last), dh, device, factors);
    std::move(factors.begin(), factors.end(), all.begin() + first);
  }
}

}  // namespace

std::vector<BasisFactors> decompose_all(const std::vector<BasisTask>& tasks, int64_t dh, BasisChoice choice,
                                        Device device) {
  std::vector<BasisFactors> all(tasks.size());
  if (device.is_cuda()) on_device(tasks, dh, choice, device, all);
  for_each(int64_t(tasks.size()), [&](size_t i) {
    if (all[i].rows.empty())
      all[i] = on_cpu(tasks[i], dh, choice);
    else
      finish(tasks[i], dh, all[i]);
  });
  return all;
}

}  // namespace basis::core
