// Collective operations over the ranks of a run. Every rank calls the same operations in the same order with the same
// sizes and dtypes.
//
//   null    one rank: nothing to do          thread  ranks as threads of one process (tests)
//   tcp     CPU ranks without MPI, and the control channel of nccl: everything passes through rank 0
//   mpi     CPU ranks through the system's MPI          nccl    GPUs
//
// Sums are taken in rank order (thread, tcp) or in the library's order for this size and count of ranks (mpi, nccl): a
// run that is repeated gives the same bits.
//
// Errors are core::Error with rank and operation; exit code rank_lost when a rank went away or was silent for
// `timeout_s`. After one the communicator can only be destroyed.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace basis::trainers {

using core::Tensor;

enum class Reduce { sum, max };

class Communicator {
 public:
  virtual ~Communicator() = default;
  int rank() const { return rank_; }
  int size() const { return size_; }
  bool is_first() const { return rank_ == 0; }
  virtual std::string name() const = 0;

  // Contiguous tensors, in place; f32, f64, i32 (bf16 and f16: nccl). On GPUs an operation is only submitted, after
  // what the compute stream holds; `wait` orders later work on the compute stream behind all submitted operations, and
  // tensors must live until then. On CPUs operations are done on return.
  virtual void all_reduce(const Tensor& x, Reduce op = Reduce::sum) = 0;
  // x [size * n]: rank r's part [r n, (r + 1) n) becomes the sum over ranks; the rest is unspecified.
  virtual void reduce_scatter(const Tensor& x) = 0;
  // x [size * n]: every rank's part r becomes rank r's.
  virtual void all_gather(const Tensor& x) = 0;
  virtual void broadcast(const Tensor& x, int root = 0) = 0;  // any dtype
  virtual void barrier() = 0;
  virtual void wait() {}
  // Throws when an operation that was submitted has failed: what it should have written cannot be used.
  virtual void check() {}

  // Ranks that have ended, as `absent` writes them, where that can be seen at once; may be called from any thread.
  virtual std::string gone() const { return ""; }
  // After a failure: the ranks that do not say within `seconds` that they are there, as "rank 2" or "ranks 0, 2"; empty
  // when all do or none can be asked. Every rank that is left asks at about the same time.
  virtual std::string absent(double seconds) { return (void)seconds, ""; }

  // Small values on the host (n values, the same n everywhere): waits for every rank, never for a GPU.
  virtual std::vector<double> agree(std::vector<double> values, Reduce op);
  std::string broadcast_text(const std::string& text, int root = 0);  // the root's, on the host

 protected:
  Communicator(int rank, int size) : rank_(rank), size_(size) {}
  // The communicator for data on the host: this one, or nccl's control channel.
  virtual Communicator& host() { return *this; }

 private:
  int rank_, size_;
};

using CommunicatorPtr = std::shared_ptr<Communicator>;

CommunicatorPtr null_communicator();

// `size` communicators of one group; each must be used by a thread of its own.
std::vector<CommunicatorPtr> thread_group(int size, double timeout_s = 60);

// Joins MPI_COMM_WORLD (MPI is initialised on the first call). Throws core::Error (usage) where MPI is not built in.
CommunicatorPtr mpi_communicator(double timeout_s);

// GPUs, one a rank. `control`: a tcp or mpi group of the same ranks, which carries NCCL's id and notices lost ranks.
// Throws core::Error (usage) where NCCL is not built in.
CommunicatorPtr nccl_communicator(CommunicatorPtr control, core::Device device, double timeout_s);

// "rank 2", "ranks 0, 2" or "": those r with here[r] == 0.
std::string list_absent(const std::vector<char>& here);

// What a rank's loss is reported as.
[[noreturn]] void throw_rank_lost(int self, const std::string& operation, const std::string& who,
                                  const std::string& what);

// y = y + x or max(y, x), element by element; f32, f64 or i32 on the host. Throws core::Error for other dtypes.
void combine(const void* x, void* y, int64_t n, core::DType dtype, Reduce op);

}  // namespace basis::trainers
