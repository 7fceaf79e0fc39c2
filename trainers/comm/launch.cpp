#include "trainers/comm/launch.h"

#include <fmt/format.h>
#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <limits>

#include "core/log.h"

namespace basis::trainers {
namespace {

[[noreturn]] void missing(const std::string& by, const std::string& name, const std::string& got) {
  throw core::Error({.where = by,
                     .expected = "the variable " + name,
                     .got = got,
                     .remedy = "set it, or unset the others of its group",
                     .code = core::ExitCode::usage});
}

int number(const Environment& environment, const std::string& by, const char* name, int least,
           int most = std::numeric_limits<int>::max()) {
  const char* text = environment(name);
  if (!text || !*text) missing(by, name, "none");
  int value = 0;
  std::string_view s(text);
  auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), value);
  if (error != std::errc() || end != s.data() + s.size() || value < least || value > most)
    throw core::Error({.where = by,
                       .expected = most < std::numeric_limits<int>::max()
                                       ? fmt::format("{} to be a whole number in [{}, {}]", name, least, most)
                                       : fmt::format("{} to be a whole number, at least {}", name, least),
                       .got = "'" + std::string(s) + "'",
                       .code = core::ExitCode::usage});
  return value;
}

struct Names {
  const char *by, *rank, *size, *local;
};

bool given(const Environment& environment, const Names& n) {
  return environment(n.rank) || environment(n.size) || environment(n.local);
}

Launch read(const Environment& environment, const Names& n) {
  Launch l{.by = n.by};
  l.rank = number(environment, n.by, n.rank, 0);
  l.size = number(environment, n.by, n.size, 1);
  l.local_rank = number(environment, n.by, n.local, 0);
  if (l.rank >= l.size)
    throw core::Error({.where = n.by,
                       .expected = fmt::format("{} below {} = {}", n.rank, n.size, l.size),
                       .got = std::to_string(l.rank),
                       .code = core::ExitCode::usage});
  return l;
}

void read_master(const Environment& environment, Launch& l) {
  const char* master = environment("MASTER_ADDR");
  if (!master || !*master) missing(l.by, "MASTER_ADDR", "none");
  l.master = master;
  l.port = number(environment, l.by, "MASTER_PORT", 1, 65534);
  if (const char* agent = environment("TORCHELASTIC_USE_AGENT_STORE"); agent && std::string(agent) == "True")
    ++l.port;  // torchrun itself listens at MASTER_PORT
}

// Shows this process the GPU of its place on the host alone, as its first.
void take_own_gpu(int local_rank) {
  std::string visible = std::to_string(local_rank);
  if (const char* all = std::getenv("CUDA_VISIBLE_DEVICES")) {
    std::string list = all;
    for (int i = 0; i < local_rank && !list.empty(); ++i) {
      size_t comma = list.find(',');
      list = comma == std::string::npos ? "" : list.substr(comma + 1);
    }
    visible = list.substr(0, list.find(','));
  }
  setenv("CUDA_VISIBLE_DEVICES", visible.c_str(), 1);
}

// Every rank's device type must be the same one.
bool on_gpus(const configs::Config& c, Communicator& control, int local_rank) {
  bool have = c.run.device != "cpu" && core::device_count(core::DeviceType::cuda) > 0;
  auto counts = control.agree({have ? 1.0 : 0.0}, Reduce::sum);
  bool wanted = c.run.device == "cuda" || c.dist.backend == "nccl";
  if (int(counts[0]) == control.size()) return true;
  if (counts[0] == 0 && !wanted) return false;
  throw core::Error({.where = fmt::format("rank {}", control.rank()),
                     .expected = "a GPU for every rank",
                     .got = have ? fmt::format("GPUs for {} of {} ranks", counts[0], control.size())
                                 : fmt::format("none for local rank {}: more ranks than GPUs on this host", local_rank),
                     .remedy = "start fewer ranks, or run.device=cpu",
                     .code = core::ExitCode::usage});
}

void print_who_joined(Communicator& control, const std::string& backend, const Launch& launch,
                      const std::string& device) {
  char host[256] = "?";
  ::gethostname(host, sizeof host - 1);
  std::string mine = fmt::format("{}, process {}, {}", host, ::getpid(), device);
  if (control.is_first()) core::log_info("{} ranks through {} (started by {})", control.size(), backend, launch.by);
  for (int r = 0; r < control.size(); ++r) {
    std::string line = control.broadcast_text(mine, r);
    if (control.is_first()) core::log_info("  rank {}: {}", r, line);
  }
}

}  // namespace

Launch find_launch(const Environment& environment) {
  constexpr Names torchrun{"torchrun's environment", "RANK", "WORLD_SIZE", "LOCAL_RANK"};
  if (given(environment, torchrun)) {
    Launch l = read(environment, torchrun);
    if (const char* own = environment("BASIS_LAUNCHED")) l.by = own;
    read_master(environment, l);
    if (const char* fd = environment("BASIS_LISTENER"); fd && l.rank == 0) l.listener = std::atoi(fd);
    return l;
  }
  constexpr Names mpis[] = {
      {"mpirun (Open MPI)", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"},
      {"mpiexec (MPICH)", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"}};
  for (const Names& n : mpis)
    if (environment(n.rank) || environment(n.size)) {
      if (environment("SLURM_STEP_ID") && !environment(n.local)) continue;  // srun --mpi=pmi2 sets PMI_RANK too
      Launch l = read(environment, n);
      l.mpi = true;
      return l;
    }
  if (environment("SLURM_STEP_ID")) {  // within srun; a batch script alone is one process
    Launch l = read(environment, {"srun (SLURM)", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"});
    if (l.size == 1) return l;
    const char* nodes = environment("SLURM_NNODES");
    Environment with_defaults = [&](const char* name) -> const char* {
      if (const char* value = environment(name)) return value;
      if (std::string_view(name) == "MASTER_PORT") return "29500";
      return std::string_view(name) == "MASTER_ADDR" && nodes && std::string_view(nodes) == "1" ? "127.0.0.1" : nullptr;
    };
    read_master(with_defaults, l);
    return l;
  }
  return {};
}

Launch find_launch() {
  return find_launch([](const char* name) -> const char* { return std::getenv(name); });
}

CommunicatorPtr join(const configs::Config& c, const Launch& launch) {
  if (launch.size == 1)
    return c.dist.backend == "nccl" ? nccl_communicator(null_communicator(), core::cuda(), c.dist.timeout_s)
                                    : null_communicator();
#if defined(BASIS_HAS_MPI)
  bool mpi = c.dist.backend == "mpi" || (launch.mpi && c.dist.backend != "tcp");
#else
  bool mpi = c.dist.backend == "mpi" || launch.mpi;
#endif
  if (mpi && !launch.mpi)
    throw core::Error({.where = "dist.backend: mpi",
                       .expected = "a start by mpirun",
                       .got = launch.by,
                       .code = core::ExitCode::usage});
  if (c.run.device != "cpu") take_own_gpu(launch.local_rank);
  Launch place = launch;
  if (!mpi && place.master.empty())
    read_master([](const char* name) -> const char* { return std::getenv(name); }, place);
  double timeout = c.dist.timeout_s;
  CommunicatorPtr control = mpi ? mpi_communicator(timeout) : tcp_communicator(place, timeout);
  if (control->rank() != launch.rank || control->size() != launch.size)
    throw core::Error(
        {.where = launch.by,
         .expected = fmt::format("MPI to say rank {} of {}, as the environment", launch.rank, launch.size),
         .got = fmt::format("rank {} of {}", control->rank(), control->size()),
         .remedy = "use the mpirun of the MPI that basis was built with, or dist.backend: tcp",
         .code = core::ExitCode::usage});
  bool gpus = on_gpus(c, *control, launch.local_rank);
  CommunicatorPtr group = gpus ? nccl_communicator(control, core::cuda(), timeout) : control;
  print_who_joined(*control, group->name(), launch,
                   gpus ? fmt::format("GPU {}", launch.local_rank) : std::string("CPU"));
  return group;
}

}  // namespace basis::trainers
