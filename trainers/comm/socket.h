// Whole messages over TCP, with deadlines.
#pragma once

#include <chrono>
#include <stdexcept>
#include <string>

namespace basis::trainers {

using Deadline = std::chrono::steady_clock::time_point;
Deadline after(double seconds);

// Why the other end cannot be talked to any more; what() reads on after its name: "closed its connection".
struct Disconnected : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A connected or listening socket.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int descriptor);  // takes it over
  Socket(Socket&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Socket& operator=(Socket&& other) noexcept;
  ~Socket();

  // Throws core::Error (usage): the port is in use, or the address unknown.
  static Socket listen(const std::string& host, int port);
  // Tries until the deadline; throws core::Error (rank_lost) saying what was in the way.
  static Socket connect(const std::string& host, int port, Deadline deadline);
  // The next connection; an empty Socket when the deadline passes.
  Socket accept(Deadline deadline);
  int port() const;  // of a listening socket

  explicit operator bool() const { return fd_ >= 0; }
  int descriptor() const { return fd_; }
  bool readable() const;                                         // there is something to receive, now
  bool closed() const;                                           // the other end sends no more
  void send(const void* data, size_t bytes, Deadline deadline);  // throws Disconnected
  void receive(void* data, size_t bytes, Deadline deadline);     // throws Disconnected
  void finish(double seconds);  // no more to send: waits for the other end to close, so that it reads all of it

 private:
  void wait(short events, Deadline deadline);
  int fd_ = -1;
};

}  // namespace basis::trainers
