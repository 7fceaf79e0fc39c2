// GPUs through NCCL. The communicator is non-blocking (a call that cannot finish returns ncclInProgress and is polled)
// and works on a stream of its own, tied to the compute stream by events. A watchdog thread looks for NCCL's
// asynchronous errors and for operations that do not end; it aborts the communicator, which frees the streams, and the
// next call of this rank throws.
#if defined(BASIS_HAS_NCCL)
#include <fmt/format.h>
#include <nccl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <mutex>
#include <thread>

#include "core/cuda/check.h"
#include "core/stream.h"
#include "trainers/comm/communicator.h"

namespace basis::trainers {
namespace {

using Clock = std::chrono::steady_clock;

ncclDataType_t type_of(core::DType dtype) {
  switch (dtype) {
    case core::DType::f32:
      return ncclFloat32;
    case core::DType::f64:
      return ncclFloat64;
    case core::DType::bf16:
      return ncclBfloat16;
    case core::DType::f16:
      return ncclFloat16;
    case core::DType::i32:
      return ncclInt32;
    default:
      throw core::Error({.where = "nccl", .expected = "a float or i32", .got = std::string(name_of(dtype))});
  }
}

class Nccl : public Communicator {
 public:
  Nccl(CommunicatorPtr control, core::Device device, double timeout_s)
      : Communicator(control->rank(), control->size()),
        control_(std::move(control)),
        device_(device.index),
        timeout_(timeout_s) {
    CUDA_CHECK(cudaSetDevice(device_));
    CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    for (cudaEvent_t* e : {&submitted_, &done_}) CUDA_CHECK(cudaEventCreateWithFlags(e, cudaEventDisableTiming));
    connect();
    watchdog_ = std::thread([this] { watch(); });
  }

  ~Nccl() override {
    stopping_ = true;
    watchdog_.join();
    std::lock_guard lock(mutex_);
    if (comm_ && (failed_ || std::uncaught_exceptions() > 0)) {
      ncclCommAbort(comm_);
    } else if (comm_) {
      cudaStreamSynchronize(stream_);
      ncclCommFinalize(comm_);
      ncclResult_t state = ncclInProgress;
      auto end = Clock::now() + std::chrono::seconds(10);
      while (ncclCommGetAsyncError(comm_, &state) == ncclSuccess && state == ncclInProgress && Clock::now() < end)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      state == ncclSuccess ? ncclCommDestroy(comm_) : ncclCommAbort(comm_);
    }
    cudaStreamSynchronize(stream_);  // the host functions of wait() write to this object
    cudaEventDestroy(submitted_), cudaEventDestroy(done_), cudaStreamDestroy(stream_);
  }

  std::string name() const override { return "nccl"; }

  void all_reduce(const Tensor& x, Reduce op) override {
    submit("all_reduce", x, [&] {
      return ncclAllReduce(x.raw(), x.raw(), size_t(x.numel()), type_of(x.dtype()),
                           op == Reduce::sum ? ncclSum : ncclMax, comm_, stream_);
    });
  }
  void reduce_scatter(const Tensor& x) override {
    submit("reduce_scatter", x, [&] {
      return ncclReduceScatter(x.raw(), part(x), size_t(x.numel() / size()), type_of(x.dtype()), ncclSum, comm_,
                               stream_);
    });
  }
  void all_gather(const Tensor& x) override {
    submit("all_gather", x, [&] {
      return ncclAllGather(part(x), x.raw(), size_t(x.numel() / size()), type_of(x.dtype()), comm_, stream_);
    });
  }
  void broadcast(const Tensor& x, int root) override {
    submit("broadcast", x,
           [&] { return ncclBroadcast(x.raw(), x.raw(), size_t(x.bytes()), ncclUint8, root, comm_, stream_); });
  }
  void barrier() override { control_->barrier(); }

  void wait() override {
    throw_if_failed("wait");
    CUDA_CHECK(cudaEventRecord(done_, stream_));
    CUDA_CHECK(cudaStreamWaitEvent(compute_stream(), done_, 0));
    CUDA_CHECK(cudaLaunchHostFunc(
        stream_, [](void* count) { ++*static_cast<std::atomic<int64_t>*>(count); }, &finished_));
    ++waited_;
  }

  void check() override { throw_if_failed("check"); }
  std::string absent(double seconds) override { return control_->absent(seconds); }

 protected:
  Communicator& host() override {
    throw_if_failed("agree");
    return *control_;
  }

 private:
  cudaStream_t compute_stream() const { return static_cast<cudaStream_t>(core::current_stream(device_).handle); }
  void* part(const Tensor& x) const { return static_cast<char*>(x.raw()) + x.bytes() / size() * rank(); }

  // The id travels over the control channel, as 32-bit words.
  void connect() {
    ncclUniqueId id = {};
    if (is_first()) require(ncclGetUniqueId(&id), "ncclGetUniqueId");
    Tensor words = Tensor::zeros({int64_t(sizeof id / 4)}, core::DType::i32);
    std::memcpy(words.raw(), &id, sizeof id);
    control_->broadcast(words, 0);
    std::memcpy(&id, words.raw(), sizeof id);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    finish(ncclCommInitRankConfig(&comm_, size(), id, rank(), &config), "joining");
  }

  template <class Call>
  void submit(const char* operation, const Tensor& x, Call&& call) {
    if (size() > 1 && x.numel() == 0) return;
    throw_if_failed(operation);
    CUDA_CHECK(cudaEventRecord(submitted_, compute_stream()));
    CUDA_CHECK(cudaStreamWaitEvent(stream_, submitted_, 0));
    std::lock_guard lock(mutex_);
    operation_ = operation;
    finish(call(), operation);
  }

  // A call of a non-blocking communicator: polled until it is submitted, aborted after the time-out.
  void finish(ncclResult_t status, const char* operation) {
    auto end = Clock::now() + std::chrono::duration<double>(patience());
    while (status == ncclInProgress) {
      if (Clock::now() > end) {
        abort(fmt::format("did not come within {} s", timeout_));
        throw_lost(operation);
      }
      if (!control_->gone().empty()) {
        abort("ended");
        throw_lost(operation);
      }
      std::this_thread::yield();
      if (ncclResult_t asked = ncclCommGetAsyncError(comm_, &status); asked != ncclSuccess) status = asked;
    }
    require(status, operation);
  }

  void require(ncclResult_t status, const char* operation) {
    if (status == ncclSuccess) return;
    std::string what = fmt::format("{}: {}", ncclGetErrorString(status), comm_ ? ncclGetLastError(comm_) : "");
    abort(what);
    if (status == ncclRemoteError || status == ncclSystemError) throw_lost(operation);
    throw core::Error({.where = fmt::format("rank {}, {}", rank(), operation), .got = "NCCL: " + what});
  }

  void abort(const std::string& why) {  // mutex_ held, or before the watchdog runs
    if (failed_.exchange(true)) return;
    reason_ = why;
    if (comm_) ncclCommAbort(comm_);
    comm_ = nullptr;
  }

  void throw_if_failed(const std::string& operation) {
    if (!failed_) return;
    std::lock_guard lock(mutex_);
    throw_lost(operation + " after " + operation_);
  }

  // Every rank that is left comes here when NCCL fails; over the control channel they find out who does not.
  [[noreturn]] void throw_lost(const std::string& operation) {
    double spent = std::chrono::duration<double>(Clock::now() - progress_).count();
    std::string who = control_->absent(timeout_ - std::min(spent, patience()));
    throw_rank_lost(rank(), operation, who.empty() ? "some rank" : who, reason_);
  }
  double patience() const { return 0.8 * timeout_; }  // the rest is for finding out who is missing

  // NCCL reports a dead peer where its transport sees one; a frozen one shows only as a stream that never drains.
  void watch() {
    cudaSetDevice(device_);
    int64_t seen = 0;
    while (!stopping_ && !failed_) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      std::unique_lock lock(mutex_, std::try_to_lock);
      if (!lock || !comm_) continue;
      ncclResult_t status = ncclSuccess;
      if (ncclCommGetAsyncError(comm_, &status) != ncclSuccess) continue;
      if (status != ncclSuccess && status != ncclInProgress)
        abort(std::string("broke off, says NCCL: ") + ncclGetErrorString(status));
      if (int64_t now = finished_; now != seen || now == waited_) seen = now, progress_ = Clock::now();
      auto still = Clock::now() - progress_;  // ranks that end after the last operation are not missed
      if (still > std::chrono::seconds(1) && !control_->gone().empty()) abort("ended");
      if (still > std::chrono::duration<double>(patience())) abort(fmt::format("did not finish within {} s", timeout_));
    }
  }

  CommunicatorPtr control_;
  int device_;
  double timeout_;
  ncclComm_t comm_ = nullptr;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t submitted_ = nullptr, done_ = nullptr;
  std::mutex mutex_;  // comm_, operation_, reason_, progress_
  std::string operation_ = "joining", reason_;
  Clock::time_point progress_ = Clock::now();     // when the stream was last seen to move
  std::atomic<int64_t> waited_{0}, finished_{0};  // calls of wait(), and how many of them the stream has passed
  std::atomic<bool> failed_{false}, stopping_{false};
  std::thread watchdog_;
};

}  // namespace

CommunicatorPtr nccl_communicator(CommunicatorPtr control, core::Device device, double timeout_s) {
  return std::make_shared<Nccl>(std::move(control), device, timeout_s);
}

}  // namespace basis::trainers
#endif
