#include "core/graph.h"

#include <utility>
#include <vector>

#include "core/arena.h"
#include "core/cuda/check.h"
#include "core/cuda/scratch.h"
#include "core/experiment.h"
#include "core/stream.h"

namespace basis::core {
namespace {

using Node = cudaGraphNode_t;

struct Edges {
  std::vector<Node> nodes;
  std::vector<cudaGraphEdgeData> data;
};

Edges edges_of(cudaError_t (*get)(Node, Node*, cudaGraphEdgeData*, size_t*), Node node) {
  size_t count = 0;
  CUDA_CHECK(get(node, nullptr, nullptr, &count));
  Edges e{std::vector<Node>(count), std::vector<cudaGraphEdgeData>(count)};
  if (count) CUDA_CHECK(get(node, e.nodes.data(), e.data.data(), &count));
  return e;
}

bool fills_scratch(Node node) {
  cudaGraphNodeType type;
  CUDA_CHECK(cudaGraphNodeGetType(node, &type));
  if (type != cudaGraphNodeTypeMemset) return false;
  cudaMemsetParams params;
  CUDA_CHECK(cudaGraphMemsetNodeGetParams(node, &params));
  return ScratchRanges::all().contain(params.dst);
}

// before -> kernel -> fill -> user becomes before -> {kernel, fill} -> user: most matrix products have a few bytes
// filled first, which would hold them up by two more launches. The products take turns with two blocks of scratch, so
// the kernel does not use the one that is filled.
void fill_early(cudaGraph_t graph) {
  size_t count = 0;
  CUDA_CHECK(cudaGraphGetNodes(graph, nullptr, &count));
  std::vector<Node> nodes(count);
  CUDA_CHECK(cudaGraphGetNodes(graph, nodes.data(), &count));
  for (Node fill : nodes) {
    if (!fills_scratch(fill)) continue;
    Edges to_fill = edges_of(cudaGraphNodeGetDependencies, fill);
    if (to_fill.nodes.size() != 1) continue;
    Node kernel = to_fill.nodes[0];
    cudaGraphNodeType type;
    CUDA_CHECK(cudaGraphNodeGetType(kernel, &type));
    if (type != cudaGraphNodeTypeKernel) continue;
    Edges before = edges_of(cudaGraphNodeGetDependencies, kernel);
    CUDA_CHECK(cudaGraphRemoveDependencies(graph, &kernel, &fill, to_fill.data.data(), 1));
    for (Node b : before.nodes) CUDA_CHECK(cudaGraphAddDependencies(graph, &b, &fill, nullptr, 1));
    for (Node user : edges_of(cudaGraphNodeGetDependentNodes, fill).nodes)
      CUDA_CHECK(cudaGraphAddDependencies(graph, &kernel, &user, nullptr, 1));
  }
}

// Nothing is lost where the driver refuses: the recording is dropped, and the step is submitted anew each time.
cudaError_t fill_scratch_early(cudaGraph_t graph) {
  try {
    fill_early(graph);
  } catch (const Error&) {
    return cudaErrorStreamCaptureInvalidated;
  }
  return cudaSuccess;
}

}  // namespace

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
  if (status == cudaSuccess && experiment("hoist")) status = fill_scratch_early(recorded);
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
