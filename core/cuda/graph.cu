#include "core/graph.h"

#include <utility>

#include "core/cuda/check.h"
#include "core/stream.h"

namespace basis::core {

Graph::~Graph() {
  if (executable_) (void)cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(executable_));
}
Graph::Graph(Graph&& other) noexcept : index_(other.index_), executable_(std::exchange(other.executable_, nullptr)) {}
Graph& Graph::operator=(Graph&& other) noexcept {
  std::swap(index_, other.index_);
  std::swap(executable_, other.executable_);
  return *this;
}

void Graph::replay() const {
  if (!executable_) throw Error({.where = "graph", .expected = "a recorded graph", .got = "an empty one"});
  auto stream = static_cast<cudaStream_t>(current_stream(index_).handle);
  CUDA_CHECK(cudaGraphLaunch(static_cast<cudaGraphExec_t>(executable_), stream));
}

CaptureGuard::CaptureGuard(Device device) : index_(device.index), stream_(current_stream(device.index).handle) {
  CUDA_CHECK(cudaStreamBeginCapture(static_cast<cudaStream_t>(stream_), cudaStreamCaptureModeThreadLocal));
}

CaptureGuard::~CaptureGuard() {
  if (!open_) return;
  cudaGraph_t discarded = nullptr;
  if (cudaStreamEndCapture(static_cast<cudaStream_t>(stream_), &discarded) != cudaSuccess) (void)cudaGetLastError();
  if (discarded) (void)cudaGraphDestroy(discarded);
}

Graph CaptureGuard::finish() {
  open_ = false;
  cudaGraph_t recorded = nullptr;
  CUDA_CHECK(cudaStreamEndCapture(static_cast<cudaStream_t>(stream_), &recorded));
  cudaGraphExec_t executable = nullptr;
  cudaError_t status = cudaGraphInstantiate(&executable, recorded, 0);
  (void)cudaGraphDestroy(recorded);
  CUDA_CHECK(status);
  Graph graph;
  graph.index_ = index_, graph.executable_ = executable;
  return graph;
}

}  // namespace basis::core
