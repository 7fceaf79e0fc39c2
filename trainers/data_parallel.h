// Data parallelism: every rank holds the model and takes its share of each global batch; gradients are summed over the
// ranks in buckets while backward still runs. With ZeRO-1 (Rajbhandari et al., arXiv 1910.02054) each rank keeps and
// updates only its part of the optimizer's state. With one rank nothing is copied and nothing is sent.
#pragma once

#include <utility>
#include <vector>

#include "models/module.h"
#include "trainers/comm/communicator.h"
#include "trainers/optim/optimizer.h"

namespace basis::trainers {

class DataParallel {
 public:
  // Hooks the parameters that need gradients; buckets of `bucket_bytes` are filled from the last parameter to the
  // first, the order in which backward finishes them. Lives as long as the model trains.
  DataParallel(CommunicatorPtr comm, const std::vector<models::Parameter>& parameters, int64_t zero,
               int64_t bucket_bytes = int64_t{25} << 20);
  DataParallel(const DataParallel&) = delete;  // hooks know it by address

  Communicator& comm() { return *comm_; }

  // Samples [first, second) of a global batch are this rank's; the shares differ by one sample at most.
  std::pair<int64_t, int64_t> share(int64_t global_batch) const;

  // The next backward is the last micro-step's: its gradients, with what is accumulated, are the ones to be summed.
  void begin_last_backward();
  // After it: gradients (under ZeRO-1, of this rank's part) and `loss` [] are sums over ranks.
  void finish_backward(const Tensor& loss);

  // Rank 0's parameters and optimizer state on every rank; then, under ZeRO-1, the optimizer keeps its part alone: its
  // slots become pieces of parameters.
  void begin(Optimizer& optimizer);
  // After begin(): 16-bit copies of all parameters that every update keeps equal to them. Under ZeRO-1 each bucket is
  // rounded as a whole once its values are gathered.
  const models::WeightCopies& keep_copies(Optimizer& optimizer, core::DType dtype);
  // One update; the clipped norm is that of the whole gradient, and all ranks skip a non-finite step alike.
  void update(Optimizer& optimizer, double learning_rate, double max_norm);
  // The optimizer with whole moments again, on the host under ZeRO-1. Every rank must call it.
  Optimizer whole(const Optimizer& optimizer);

 private:
  struct Place {  // of a parameter in its bucket
    models::Var parameter;
    std::string path;
    int64_t begin, end;
    bool ready = false;
  };
  struct Bucket {
    std::vector<Place> places;
    int64_t size = 0;        // a multiple of the number of ranks
    Tensor gradient, value;  // flat [size]; value only under ZeRO-1
    Tensor copy = {};        // of value
    size_t missing = 0;      // gradients that backward has yet to finish
  };
  struct Piece {  // of a parameter, in this rank's part of a bucket
    size_t bucket, place;
    int64_t begin, end;  // in the bucket
  };

  void ready(Bucket& bucket, Place& place, Tensor& grad);
  void send_complete_buckets(bool all);
  void shard(Optimizer& optimizer);
  Tensor gather(const Optimizer& optimizer, size_t bucket, bool second);

  CommunicatorPtr comm_;
  std::vector<models::Parameter> parameters_;  // frozen ones too
  bool many_, zero_, armed_ = false;
  std::vector<Bucket> buckets_;
  std::vector<Piece> pieces_;                 // one a slot of the sharded optimizer
  std::vector<Optimizer::Slot> whole_slots_;  // without moments
  models::WeightCopies copies_;
  size_t sent_ = 0;
};

}  // namespace basis::trainers
