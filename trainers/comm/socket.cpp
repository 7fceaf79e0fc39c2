#include "trainers/comm/socket.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>

#include "core/error.h"

namespace basis::trainers {
namespace {

int milliseconds_left(Deadline deadline) {
  auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
  return int(std::clamp<int64_t>(left, 0, 1 << 30));
}

using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;
Addresses resolve(const std::string& host, int port) {
  addrinfo hints = {}, *found = nullptr;
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  if (int status = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found))
    throw core::Error({.where = "MASTER_ADDR",
                       .expected = "a host name or address",
                       .got = host + ": " + gai_strerror(status),
                       .code = core::ExitCode::usage});
  return Addresses(found, freeaddrinfo);
}

}  // namespace

Deadline after(double seconds) {
  return std::chrono::steady_clock::now() +
         std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(seconds));
}

Socket::Socket(int descriptor) : fd_(descriptor) {
  ::fcntl(fd_, F_SETFL, ::fcntl(fd_, F_GETFL) | O_NONBLOCK);
  ::fcntl(fd_, F_SETFD, FD_CLOEXEC);
  int on = 1;
  ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}
Socket& Socket::operator=(Socket&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}
Socket::~Socket() {
  if (fd_ >= 0) ::close(fd_);
}

Socket Socket::listen(const std::string& host, int port) {
  // Rank 0 is where MASTER_ADDR points; a loopback address stays on this host.
  bool local = host == "127.0.0.1" || host == "localhost";
  resolve(host, port);  // what the other ranks will do: a wrong name is said at once
  Socket s(::socket(AF_INET, SOCK_STREAM, 0));
  int on = 1;
  ::setsockopt(s.fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(uint16_t(port));
  address.sin_addr.s_addr = htonl(local ? INADDR_LOOPBACK : INADDR_ANY);
  if (::bind(s.fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) || ::listen(s.fd_, 1024))
    throw core::Error({.where = fmt::format("rank 0, port {}", port),
                       .expected = "a free port",
                       .got = std::strerror(errno),
                       .remedy = "choose another MASTER_PORT",
                       .code = core::ExitCode::usage});
  return s;
}

Socket Socket::connect(const std::string& host, int port, Deadline deadline) {
  Addresses addresses = resolve(host, port);
  std::string why;
  do {
    Socket s(::socket(AF_INET, SOCK_STREAM, 0));
    int status = ::connect(s.fd_, addresses->ai_addr, addresses->ai_addrlen) ? errno : 0;
    if (status == EINPROGRESS) {
      pollfd p{s.fd_, POLLOUT, 0};
      socklen_t size = sizeof status;
      status = ETIMEDOUT;
      if (::poll(&p, 1, milliseconds_left(deadline)) > 0) ::getsockopt(s.fd_, SOL_SOCKET, SO_ERROR, &status, &size);
    }
    if (status == 0) return s;
    why = std::strerror(status);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  } while (milliseconds_left(deadline) > 0);
  throw core::Error({.where = fmt::format("joining at {}:{}", host, port),
                     .expected = "rank 0 to listen there",
                     .got = why,
                     .remedy = "is rank 0 running, and are MASTER_ADDR and MASTER_PORT right?",
                     .code = core::ExitCode::rank_lost});
}

Socket Socket::accept(Deadline deadline) {
  pollfd p{fd_, POLLIN, 0};
  while (milliseconds_left(deadline) > 0)
    if (::poll(&p, 1, milliseconds_left(deadline)) > 0)
      if (int fd = ::accept(fd_, nullptr, nullptr); fd >= 0) return Socket(fd);
  return {};
}

int Socket::port() const {
  sockaddr_in address = {};
  socklen_t size = sizeof address;
  ::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.sin_port);
}

bool Socket::readable() const {
  pollfd p{fd_, POLLIN, 0};
  return ::poll(&p, 1, 0) > 0;
}

bool Socket::closed() const {
  pollfd p{fd_, POLLRDHUP, 0};
  return ::poll(&p, 1, 0) > 0;
}

void Socket::wait(short events, Deadline deadline) {
  pollfd p{fd_, events, 0};
  for (;;) {
    int ready = ::poll(&p, 1, milliseconds_left(deadline));
    if (ready > 0) return;
    if (ready < 0 && errno == EINTR) continue;
    throw Disconnected("did not answer in time (frozen, or cut off)");
  }
}

void Socket::send(const void* data, size_t bytes, Deadline deadline) {
  const char* p = static_cast<const char*>(data);
  while (bytes > 0) {
    ssize_t n = ::send(fd_, p, bytes, MSG_NOSIGNAL);
    if (n >= 0) {
      p += n, bytes -= size_t(n);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      wait(POLLOUT, deadline);
    } else if (errno != EINTR) {
      throw Disconnected("closed its connection");
    }
  }
}

void Socket::receive(void* data, size_t bytes, Deadline deadline) {
  char* p = static_cast<char*>(data);
  while (bytes > 0) {
    ssize_t n = ::recv(fd_, p, bytes, 0);
    if (n > 0) {
      p += n, bytes -= size_t(n);
    } else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      wait(POLLIN, deadline);
    } else if (n == 0 || errno != EINTR) {
      throw Disconnected("closed its connection (it ended or was killed)");
    }
  }
}

void Socket::finish(double seconds) {
  if (fd_ < 0) return;
  ::shutdown(fd_, SHUT_WR);
  char rest[4096];
  Deadline deadline = after(seconds);
  try {
    for (;;) receive(rest, 1, deadline);
  } catch (const Disconnected&) {
  }
}

}  // namespace basis::trainers
