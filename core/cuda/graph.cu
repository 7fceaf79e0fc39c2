#include "core/graph.h"

#include <utility>

#include "core/arena.h"
#include "core/cuda/check.h"
#include "core/stream.h"

namespace basis::core {

Graph::~Graph() {
  if (!executable_) return;
  (void)cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(executable_));
  release_pool(cuda(index_), pool_);
}
Graph::Graph(Graph&& other) noexcept
    : index_(other.index_), pool_(other.pool_), executable_(std::exchange(other.executable_, nullptr)) {}
Graph& Graph::operator=(Graph&& other) noexcept {
  std::swap(index_, other.index_);
  std::swap(pool_, other.pool_);
  std::swap(executable_, other.executable_);
  return *this;
}

void Graph::replay() const {
  if (!executable_) throw Error({.where = "graph", .expected = "a recorded graph", .got = "an empty one"});
  auto stream = static_cast<cudaStream_t>(current_stream(index_).handle);
  CUDA_CHECK(cudaGraphLaunch(static_cast<cudaGraphExec_t>(executable_), stream));
}

CaptureGuard::CaptureGuard(Device device)
    : index_(device.index), pool_(begin_pool(device)), stream_(current_stream(device.index).handle) {
  cudaError_t status = cudaStreamBeginCapture(static_cast<cudaStream_t>(stream_), cudaStreamCaptureModeThreadLocal);
  if (status == cudaSuccess) return;
  discard_pool();
  CUDA_CHECK(status);
}

void CaptureGuard::discard_pool() {
  end_pool(cuda(index_));
  release_pool(cuda(index_), pool_);
}

CaptureGuard::~CaptureGuard() {
  if (!open_) return;
  cudaGraph_t discarded = nullptr;
  if (cudaStreamEndCapture(static_cast<cudaStream_t>(stream_), &discarded) != cudaSuccess) (void)cudaGetLastError();
  if (discarded) (void)cudaGraphDestroy(discarded);
  discard_pool();
}

Graph CaptureGuard::finish() {
  open_ = false;
  cudaGraph_t recorded = nullptr;
  cudaGraphExec_t executable = nullptr;
  cudaError_t status = cudaStreamEndCapture(static_cast<cudaStream_t>(stream_), &recorded);
  if (status == cudaSuccess) status = cudaGraphInstantiate(&executable, recorded, 0);
  if (recorded) (void)cudaGraphDestroy(recorded);
  if (status != cudaSuccess) discard_pool();
  CUDA_CHECK(status);
  end_pool(cuda(index_));
  Graph graph;
  graph.index_ = index_, graph.pool_ = pool_, graph.executable_ = executable;
  return graph;
}

}  // namespace basis::core
