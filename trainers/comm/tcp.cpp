// Collectives through rank 0, to which every other rank holds one connection. Rank 0 therefore sees each rank that goes
// away, and tells the others which one it was before it leaves too.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "trainers/comm/launch.h"
#include "trainers/comm/socket.h"

namespace basis::trainers {
namespace {

constexpr uint64_t kMagic = 0x3153495341424342;  // "BCBASIS1"
struct Hello {
  uint64_t magic;
  int32_t rank, size;
};
struct Frame {
  uint64_t kind, bytes;
};
enum Kind : uint64_t { kData, kFailure, kRefusal, kRollCall, kAnswer };

class Tcp : public Communicator {
 public:
  Tcp(const Launch& launch, double timeout_s)
      : Communicator(launch.rank, launch.size),
        timeout_(timeout_s),
        peers_(size_t(is_first() ? launch.size : 1)),
        here_(size_t(launch.size), 0) {
    if (is_first())
      gather_ranks(launch);
    else
      reach_first(launch);
  }
  std::string name() const override { return "tcp"; }

  void all_reduce(const Tensor& x, Reduce op) override {
    operation_ = "all_reduce";
    if (!is_first()) return send_up(x), receive_down(x);
    Tensor other = x.empty_like();
    for (int r = 1; r < size(); ++r) {
      receive(r, other.raw(), size_t(x.bytes()));
      combine(other.raw(), x.raw(), x.numel(), x.dtype(), op);
    }
    send_down(x);
  }
  void reduce_scatter(const Tensor& x) override { all_reduce(x, Reduce::sum); }
  void all_gather(const Tensor& x) override {
    operation_ = "all_gather";
    int64_t n = x.numel() / size();
    if (!is_first()) return send_up(x.slice(0, rank() * n, (rank() + 1) * n)), receive_down(x);
    for (int r = 1; r < size(); ++r) {
      Tensor part = x.slice(0, r * n, (r + 1) * n);
      receive(r, part.raw(), size_t(part.bytes()));
    }
    send_down(x);
  }
  void broadcast(const Tensor& x, int root) override {
    operation_ = "broadcast";
    if (rank() == root && root != 0) send_up(x);
    if (!is_first()) return receive_down(x);
    if (root != 0) receive(root, x.raw(), size_t(x.bytes()));
    send_down(x);
  }
  void barrier() override { all_reduce(Tensor::zeros({1}, core::DType::i32), Reduce::sum); }

  std::string gone() const override {
    std::vector<char> there(size_t(size()), 1);
    for (size_t i = 0; i < peers_.size(); ++i)
      if (peers_[i] && peers_[i].closed()) there[i] = 0;
    return list_absent(there);
  }
  std::string absent(double seconds) override {
    Deadline end = after(seconds);
    if (!is_first()) return ask_first(end);
    here_[0] = 1;
    std::string who;
    for (;;) {
      if (who = gone(); !who.empty()) break;  // ended, while others may only be late to ask
      for (int r = 1; r < size(); ++r) here_[size_t(r)] |= char(asks(r));
      if (who = list_absent(here_); who.empty() || std::chrono::steady_clock::now() > end) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    tell_all(who, kAnswer);
    return who;
  }

 private:
  // Rank 0 gives up first, so that the others hear from it who was late.
  Deadline deadline() const { return after(is_first() ? 0.8 * timeout_ : timeout_); }

  void send_up(const Tensor& x) { send(0, kData, x.raw(), size_t(x.bytes())); }
  void receive_down(const Tensor& x) { receive(0, x.raw(), size_t(x.bytes())); }
  void send_down(const Tensor& x) {
    for (int r = 1; r < size(); ++r) send(r, kData, x.raw(), size_t(x.bytes()));
  }

  void send(int to, Kind kind, const void* data, size_t bytes) {
    try {
      Frame frame{kind, bytes};
      Socket& peer = peers_[size_t(to)];
      peer.send(&frame, sizeof frame, deadline());
      peer.send(data, bytes, deadline());
    } catch (const Disconnected& e) {
      lost(to, e.what());
    }
  }

  void receive(int from, void* data, size_t bytes) {
    Frame frame{};
    try {
      Socket& peer = peers_[size_t(from)];
      peer.receive(&frame, sizeof frame, deadline());
      if (frame.kind == kFailure || frame.kind == kRefusal) throw_told(frame);
      if (frame.kind == kAnswer) throw_rank_lost(rank(), operation_, text_of(frame, deadline()), "left or is silent");
      if (frame.kind == kRollCall && is_first()) {
        here_[size_t(from)] = 1;
        std::string who = absent(0.2 * timeout_);
        throw_rank_lost(rank(), operation_, who.empty() ? "some rank" : who, "left or is silent");
      }
      if (frame.kind > kAnswer) lost(from, "is no rank: something else answers at that address and port");
      if (frame.kind == kData && frame.bytes == bytes) return peer.receive(data, bytes, deadline());
    } catch (const Disconnected& e) {
      lost(from, e.what());
    }
    lost(from, fmt::format("sent {} bytes where {} were due: the ranks run different programs or configurations",
                           frame.bytes, bytes));
  }

  // Whether rank r has called the roll; what it sent before is dropped.
  bool asks(int r) {
    Socket& peer = peers_[size_t(r)];
    try {
      while (peer.readable()) {
        Frame frame{};
        peer.receive(&frame, sizeof frame, after(0.2));
        if (frame.kind == kRollCall) return true;
        drop(peer, frame);
      }
    } catch (const Disconnected&) {
    }
    return false;
  }

  std::string ask_first(Deadline end) {
    Socket& first = peers_[0];
    Frame frame{kRollCall, 0};
    try {
      first.send(&frame, sizeof frame, end);
    } catch (const Disconnected&) {  // what it said before it left can still be read
    }
    try {
      for (;;) {
        first.receive(&frame, sizeof frame, end);
        if (frame.kind == kFailure) throw_told(frame);
        if (frame.kind == kAnswer) return text_of(frame, end);
        drop(first, frame);
      }
    } catch (const Disconnected&) {
      return "rank 0";
    }
  }

  void drop(Socket& peer, const Frame& frame) {
    std::vector<char> rest(65536);
    for (uint64_t left = frame.bytes, n; left > 0; left -= n)
      peer.receive(rest.data(), n = std::min<uint64_t>(left, rest.size()), after(0.2));
  }

  std::string text_of(const Frame& frame, Deadline end) {
    std::string text(std::min<uint64_t>(frame.bytes, 65536), '\0');
    peers_[0].receive(text.data(), text.size(), end);
    return text;
  }

  // Rank 0's own words.
  [[noreturn]] void throw_told(const Frame& frame) {
    throw core::Error({.where = fmt::format("rank {}", rank()),
                       .got = text_of(frame, deadline()),
                       .code = frame.kind == kRefusal ? core::ExitCode::usage : core::ExitCode::rank_lost});
  }

  [[noreturn]] void lost(int who, const std::string& what) {
    std::string name = fmt::format("rank {}", who);
    if (is_first()) tell_all(fmt::format("{}: {} {}", operation_, name, what), kFailure);
    throw_rank_lost(rank(), operation_, name, what);
  }

  void tell_all(const std::string& text, Kind kind) {
    Frame frame{kind, text.size()};
    for (Socket& peer : peers_) {
      if (!peer) continue;
      try {
        peer.send(&frame, sizeof frame, after(0.2));
        peer.send(text.data(), text.size(), after(0.2));
      } catch (const Disconnected&) {
      }
    }
    for (Socket& peer : peers_) peer.finish(0.05);
  }

  [[noreturn]] void refuse(const std::string& expected, const std::string& got, core::ExitCode code) {
    tell_all(fmt::format("joining: expected {}, got {}", expected, got),
             code == core::ExitCode::usage ? kRefusal : kFailure);
    throw core::Error({.where = "rank 0, joining", .expected = expected, .got = got, .code = code});
  }

  void gather_ranks(const Launch& launch) {
    Socket listener = launch.listener >= 0 ? Socket(launch.listener) : Socket::listen(launch.master, launch.port);
    Deadline end = deadline();
    for (int joined = 1; joined < size();) {
      Socket peer = listener.accept(end);
      if (!peer) break;
      Hello hello{};
      try {
        peer.receive(&hello, sizeof hello, std::min(end, after(2)));
      } catch (const Disconnected&) {
        continue;  // a stranger
      }
      if (hello.magic != kMagic) continue;
      bool good = hello.size == size() && hello.rank > 0 && hello.rank < size() && !peers_[size_t(hello.rank)];
      if (!good) {
        peers_[0] = std::move(peer);  // rank 0 has no connection to itself: here the guest hears the refusal too
        refuse(fmt::format("ranks 1 to {} of {}, each once", size() - 1, size()),
               fmt::format("rank {} of {}{}", hello.rank, hello.size, hello.size == size() ? " twice" : ""),
               core::ExitCode::usage);
      }
      peers_[size_t(hello.rank)] = std::move(peer);
      ++joined;
    }
    std::string missing;
    for (int r = 1; r < size(); ++r)
      if (!peers_[size_t(r)]) missing += fmt::format("{}{}", missing.empty() ? "" : ", ", r);
    if (!missing.empty())
      refuse(fmt::format("{} ranks within {} s", size(), timeout_), "none from rank " + missing,
             core::ExitCode::rank_lost);
    operation_ = "joining";
    for (int r = 1; r < size(); ++r) send(r, kData, nullptr, 0);
  }

  void reach_first(const Launch& launch) {
    operation_ = "joining";
    peers_[0] = Socket::connect(launch.master, launch.port, deadline());
    Hello hello{kMagic, rank(), size()};
    try {
      peers_[0].send(&hello, sizeof hello, deadline());
    } catch (const Disconnected& e) {
      lost(0, e.what());
    }
    receive(0, nullptr, 0);
  }

  double timeout_;
  std::vector<Socket> peers_;  // by rank; of other ranks only [0]
  std::vector<char> here_;     // rank 0, after a failure: who has called the roll
  std::string operation_ = "joining";
};

}  // namespace

CommunicatorPtr tcp_communicator(const Launch& launch, double timeout_s) {
  return std::make_shared<Tcp>(launch, timeout_s);
}

}  // namespace basis::trainers
