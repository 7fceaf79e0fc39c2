// CPU ranks through the system's MPI. Every operation is non-blocking underneath and polled, so that a rank that is
// silent ends the others after the time-out instead of never.
#if defined(BASIS_HAS_MPI)
#define OMPI_SKIP_MPICXX 1  // the C interface alone
#define MPICH_SKIP_MPICXX 1
#include <fmt/format.h>
#include <mpi.h>

#include <chrono>
#include <climits>
#include <thread>

#include "trainers/comm/communicator.h"

namespace basis::trainers {
namespace {

// MPI lives as long as the process: finalised at a normal end, left alone after a failure, which it could not survive.
struct Library {
  Library() {
    int done = 0, provided = 0;
    MPI_Initialized(&done);
    if (!done) MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  }
};

MPI_Datatype type_of(core::DType dtype) {
  if (dtype == core::DType::f32) return MPI_FLOAT;
  if (dtype == core::DType::f64) return MPI_DOUBLE;
  if (dtype == core::DType::i32) return MPI_INT;
  throw core::Error({.where = "mpi", .expected = "f32, f64 or i32", .got = std::string(name_of(dtype))});
}

constexpr int64_t kChunk = int64_t{1} << 28;  // elements of one call: MPI counts are int

class Mpi : public Communicator {
 public:
  Mpi(int rank, int size, double timeout_s) : Communicator(rank, size), timeout_(timeout_s) {}
  ~Mpi() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (failed_ || finalized || std::uncaught_exceptions() > 0) return;
    try {
      barrier();  // MPI_Finalize would wait for a lost rank for ever
      MPI_Finalize();
    } catch (const core::Error&) {
    }
  }
  std::string name() const override { return "mpi"; }

  void all_reduce(const Tensor& x, Reduce op) override {
    for (int64_t i = 0; i < x.numel(); i += kChunk)
      finish("all_reduce", [&](MPI_Request* r) {
        return MPI_Iallreduce(MPI_IN_PLACE, at(x, i), int(std::min(kChunk, x.numel() - i)), type_of(x.dtype()),
                              op == Reduce::sum ? MPI_SUM : MPI_MAX, MPI_COMM_WORLD, r);
      });
  }
  void reduce_scatter(const Tensor& x) override {
    Tensor part = Tensor::empty({x.numel() / size()}, x.dtype());
    finish("reduce_scatter", [&](MPI_Request* r) {
      return MPI_Ireduce_scatter_block(x.raw(), part.raw(), count(part), type_of(x.dtype()), MPI_SUM, MPI_COMM_WORLD,
                                       r);
    });
    x.slice(0, rank() * part.numel(), (rank() + 1) * part.numel()).copy_from(part);
  }
  void all_gather(const Tensor& x) override {
    int n = count(x) / size();
    finish("all_gather", [&](MPI_Request* r) {
      return MPI_Iallgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, x.raw(), n, type_of(x.dtype()), MPI_COMM_WORLD, r);
    });
  }
  void broadcast(const Tensor& x, int root) override {
    if (x.bytes() > INT_MAX) throw core::Error({.where = "mpi broadcast", .expected = "less than 2 GiB"});
    finish("broadcast",
           [&](MPI_Request* r) { return MPI_Ibcast(x.raw(), int(x.bytes()), MPI_BYTE, root, MPI_COMM_WORLD, r); });
  }
  void barrier() override {
    finish("barrier", [&](MPI_Request* r) { return MPI_Ibarrier(MPI_COMM_WORLD, r); });
  }
  std::string absent(double seconds) override {
    constexpr int roll_call = 77;  // tag of an empty message; collectives have none
    std::vector<char> here(size_t(size()), 0);
    here[size_t(rank())] = 1;
    for (int r = 0; r < size(); ++r) {
      MPI_Request request;
      if (r != rank() && MPI_Isend(nullptr, 0, MPI_BYTE, r, roll_call, MPI_COMM_WORLD, &request) == MPI_SUCCESS)
        MPI_Request_free(&request);
    }
    auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    for (std::string missing; !(missing = list_absent(here)).empty();) {
      int arrived = 0;
      MPI_Status status;
      if (MPI_Iprobe(MPI_ANY_SOURCE, roll_call, MPI_COMM_WORLD, &arrived, &status) != MPI_SUCCESS) return "";
      if (arrived) {
        MPI_Recv(nullptr, 0, MPI_BYTE, status.MPI_SOURCE, roll_call, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        here[size_t(status.MPI_SOURCE)] = 1;
        continue;
      }
      if (std::chrono::steady_clock::now() > end) return missing;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return "";
  }

 private:
  static void* at(const Tensor& x, int64_t i) {
    return static_cast<char*>(x.raw()) + i * (x.bytes() / std::max<int64_t>(1, x.numel()));
  }
  static int count(const Tensor& x) {
    if (x.numel() > INT_MAX) throw core::Error({.where = "mpi", .expected = "a bucket below 2^31 elements"});
    return int(x.numel());
  }

  template <class Start>
  void finish(const char* operation, Start&& start) {
    MPI_Request request;
    check(start(&request), operation);
    auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(0.8 * timeout_);
    for (int64_t polls = 0;; ++polls) {
      int done = 0;
      check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), operation);
      if (done) return;
      if (polls < 2000) {
        std::this_thread::yield();
        continue;
      }
      std::this_thread::sleep_for(std::chrono::microseconds(50));
      if (std::chrono::steady_clock::now() > deadline) {
        failed_ = true;
        std::string who = absent(0.2 * timeout_);
        throw_rank_lost(rank(), operation, who.empty() ? "some rank" : who,
                        fmt::format("did not answer within {} s", timeout_));
      }
    }
  }

  void check(int status, const char* operation) {
    if (status == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    MPI_Error_string(status, text, &length);
    failed_ = true;
    throw_rank_lost(rank(), operation, "MPI", "says: " + std::string(text, size_t(length)));
  }

  double timeout_;
  bool failed_ = false;
};

}  // namespace

CommunicatorPtr mpi_communicator(double timeout_s) {
  static Library library;
  int rank = 0, size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return std::make_shared<Mpi>(rank, size, timeout_s);
}

}  // namespace basis::trainers
#endif
