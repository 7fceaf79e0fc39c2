// Ranks as threads of one process: each posts its tensor, and between two barriers reads those of the others.
#include <fmt/format.h>

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>

#include "trainers/comm/communicator.h"

namespace basis::trainers {
namespace {

struct Meeting {
  explicit Meeting(int n) : tensors(size_t(n)), here(size_t(n)), left(size_t(n)) {}
  std::mutex mutex;
  std::condition_variable changed;
  int arrived = 0;
  int64_t round = 0;
  bool broken = false;  // a rank left or was late: nobody waits for it again
  std::vector<Tensor> tensors;
  std::vector<char> here, left;  // by rank: waiting in this round; gone for good
};

class Thread : public Communicator {
 public:
  Thread(std::shared_ptr<Meeting> meeting, int rank, int size, double timeout_s)
      : Communicator(rank, size), meeting_(std::move(meeting)), timeout_(timeout_s) {}
  ~Thread() override {
    std::lock_guard lock(meeting_->mutex);
    meeting_->broken = true;
    meeting_->left[size_t(rank())] = 1;
    meeting_->changed.notify_all();
  }
  std::string name() const override { return "thread"; }

  void all_reduce(const Tensor& x, Reduce op) override {
    Tensor sum;
    exchange("all_reduce", x, [&](const std::vector<Tensor>& all) {
      sum = all[0].clone();
      for (int r = 1; r < size(); ++r) combine(all[size_t(r)].raw(), sum.raw(), x.numel(), x.dtype(), op);
    });
    std::memcpy(x.raw(), sum.raw(), size_t(x.bytes()));
  }
  void reduce_scatter(const Tensor& x) override {
    int64_t n = x.numel() / size();
    Tensor sum;
    exchange("reduce_scatter", x, [&](const std::vector<Tensor>& all) {
      sum = all[0].slice(0, rank() * n, (rank() + 1) * n).clone();
      for (int r = 1; r < size(); ++r)
        combine(all[size_t(r)].slice(0, rank() * n, (rank() + 1) * n).raw(), sum.raw(), n, x.dtype(), Reduce::sum);
    });
    x.slice(0, rank() * n, (rank() + 1) * n).copy_from(sum);
  }
  void all_gather(const Tensor& x) override {
    int64_t n = x.numel() / size();
    exchange("all_gather", x, [&](const std::vector<Tensor>& all) {
      for (int r = 0; r < size(); ++r)
        if (r != rank()) x.slice(0, r * n, (r + 1) * n).copy_from(all[size_t(r)].slice(0, r * n, (r + 1) * n));
    });
  }
  void broadcast(const Tensor& x, int root) override {
    exchange("broadcast", x, [&](const std::vector<Tensor>& all) {
      if (rank() != root) std::memcpy(x.raw(), all[size_t(root)].raw(), size_t(x.bytes()));
    });
  }
  void barrier() override { meet("barrier"); }

 private:
  template <class Read>
  void exchange(const char* operation, const Tensor& x, Read&& read) {
    meeting_->tensors[size_t(rank())] = x;  // own element; the barrier publishes it
    meet(operation);
    read(meeting_->tensors);
    meet(operation);
  }

  void meet(const char* operation) {
    std::unique_lock lock(meeting_->mutex);
    int64_t round = meeting_->round;
    meeting_->here[size_t(rank())] = 1;
    if (++meeting_->arrived == size()) {
      meeting_->arrived = 0, ++meeting_->round;
      meeting_->here.assign(meeting_->here.size(), 0);
      meeting_->changed.notify_all();
      return;
    }
    bool in_time = meeting_->changed.wait_for(lock, std::chrono::duration<double>(timeout_),
                                              [&] { return meeting_->round != round || meeting_->broken; });
    if (meeting_->round != round) return;
    meeting_->broken = true;
    meeting_->changed.notify_all();
    std::vector<char> there = meeting_->left;
    for (char& c : there) c = !c;
    std::string who = in_time ? list_absent(there) : list_absent(meeting_->here);
    throw_rank_lost(rank(), operation, who.empty() ? "another rank" : who,
                    in_time ? "left" : fmt::format("did not come within {} s", timeout_));
  }

  std::shared_ptr<Meeting> meeting_;
  double timeout_;
};

}  // namespace

std::vector<CommunicatorPtr> thread_group(int size, double timeout_s) {
  auto meeting = std::make_shared<Meeting>(size);
  std::vector<CommunicatorPtr> group;
  for (int r = 0; r < size; ++r) group.push_back(std::make_shared<Thread>(meeting, r, size, timeout_s));
  return group;
}

}  // namespace basis::trainers
