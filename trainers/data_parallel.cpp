#include "trainers/data_parallel.h"

#include <algorithm>

#include "core/basic/basic.h"

namespace basis::trainers {

using core::DType;

DataParallel::DataParallel(CommunicatorPtr comm, const std::vector<models::Parameter>& parameters, int64_t zero,
                           int64_t bucket_bytes)
    : comm_(std::move(comm)), parameters_(parameters), many_(comm_->size() > 1), zero_(zero == 1 && many_) {
  if (!many_) return;
  for (size_t i = parameters.size(); i-- > 0;) {
    const models::Parameter& p = parameters[i];
    if (!p.var.requires_grad()) continue;
    int64_t n = p.var.value().numel();
    if (buckets_.empty() || (buckets_.back().size + n) * core::size_of(p.var.dtype()) > bucket_bytes)
      buckets_.emplace_back();
    Bucket& b = buckets_.back();
    b.places.push_back({p.var, p.path, b.size, b.size + n});
    b.size += n;
  }
  for (Bucket& b : buckets_) {
    const models::Var& first = b.places[0].parameter;
    b.size = (b.size + comm_->size() - 1) / comm_->size() * comm_->size();
    b.gradient = Tensor::zeros({b.size}, first.dtype(), first.device());
    for (Place& p : b.places) p.parameter.add_hook([this, &b, &p](Tensor& grad) { ready(b, p, grad); });
  }
}

std::pair<int64_t, int64_t> DataParallel::share(int64_t n) const {
  return {n * comm_->rank() / comm_->size(), n * (comm_->rank() + 1) / comm_->size()};
}

void DataParallel::begin_last_backward() {
  armed_ = many_;
  sent_ = 0;
  for (Bucket& b : buckets_) {
    b.missing = b.places.size();
    for (Place& p : b.places) p.ready = false;
  }
}

void DataParallel::ready(Bucket& b, Place& p, Tensor& grad) {
  if (!armed_ || !grad || p.ready) return;
  Tensor place = b.gradient.slice(0, p.begin, p.end).view(p.parameter.shape());
  place.copy_from(grad);
  grad = place;
  p.ready = true;
  if (--b.missing == 0) send_complete_buckets(false);
}

// In the order of the buckets on every rank, whatever order backward takes.
void DataParallel::send_complete_buckets(bool all) {
  for (; sent_ < buckets_.size() && (all || buckets_[sent_].missing == 0); ++sent_) {
    Bucket& b = buckets_[sent_];
    for (Place& p : b.places)
      if (!p.ready) core::fill(b.gradient.slice(0, p.begin, p.end), 0);
    if (zero_)
      comm_->reduce_scatter(b.gradient);
    else
      comm_->all_reduce(b.gradient);
  }
}

void DataParallel::finish_backward(const Tensor& loss) {
  if (!many_) return;
  send_complete_buckets(true);
  comm_->all_reduce(loss);
  comm_->wait();
  armed_ = false;
  if (!zero_) return;
  for (Bucket& b : buckets_)
    for (Place& p : b.places) p.parameter.zero_grad();
}

void DataParallel::begin(Optimizer& optimizer) {
  if (!many_) return;
  std::vector<double> paces;  // rank 0's, which came with the weights
  for (const models::Parameter& p : parameters_) {
    comm_->broadcast(p.var.value());
    for (double x : {p.pace->rate, p.pace->decay}) paces.push_back(comm_->is_first() ? x : 0);
  }
  paces = comm_->agree(paces, Reduce::sum);
  for (size_t i = 0; i < parameters_.size(); ++i) *parameters_[i].pace = {paces[2 * i], paces[2 * i + 1]};
  for (Optimizer::Slot& s : optimizer.slots()) {
    comm_->broadcast(s.first);
    if (s.second) comm_->broadcast(s.second);
  }
  comm_->broadcast(optimizer.scalars());
  comm_->wait();
  if (zero_) shard(optimizer);
}

void DataParallel::shard(Optimizer& optimizer) {
  std::vector<Optimizer::Slot> pieces;
  for (size_t i = 0; i < buckets_.size(); ++i) {
    Bucket& b = buckets_[i];
    b.value = Tensor::zeros({b.size}, b.gradient.dtype(), b.gradient.device());
    int64_t n = b.size / comm_->size(), mine = n * comm_->rank();
    for (size_t j = 0; j < b.places.size(); ++j) {
      Place& p = b.places[j];
      Tensor place = b.value.slice(0, p.begin, p.end).view(p.parameter.shape());
      place.copy_from(p.parameter.value());
      p.parameter.set_value(place);
      int64_t begin = std::max(p.begin, mine), end = std::min(p.end, mine + n);
      if (begin >= end) continue;
      auto slot = std::find_if(optimizer.slots().begin(), optimizer.slots().end(),
                               [&](const Optimizer::Slot& s) { return s.path == p.path; });
      auto piece_of = [&](const Tensor& t) {
        return t ? t.view({t.numel()}).slice(0, begin - p.begin, end - p.begin).clone() : Tensor();
      };
      Optimizer::Slot piece = *slot;
      piece.parameter = models::Var(b.value.slice(0, begin, end), true);
      piece.first = piece_of(slot->first), piece.second = piece_of(slot->second);
      pieces.push_back(std::move(piece));
      pieces_.push_back({i, j, begin, end});
    }
  }
  whole_slots_ = std::move(optimizer.slots());
  for (Optimizer::Slot& s : whole_slots_) s.first = s.second = Tensor();
  optimizer.slots() = std::move(pieces);
}

const models::WeightCopies& DataParallel::keep_copies(Optimizer& optimizer, DType dtype) {
  copies_.clear();
  if (!zero_) {
    optimizer.keep_copies(dtype);
    copies_ = optimizer.copies();
  }
  for (Bucket& b : buckets_) {
    if (!zero_) break;
    b.copy = b.value.to(dtype);
    for (const Place& p : b.places)
      copies_[p.parameter.value().raw()] = b.copy.slice(0, p.begin, p.end).view(p.parameter.shape());
  }
  for (const models::Parameter& p : parameters_)  // frozen ones stay as they are
    if (!p.buffer && !copies_.contains(p.var.value().raw())) copies_[p.var.value().raw()] = p.var.value().to(dtype);
  return copies_;
}

void DataParallel::update(Optimizer& optimizer, double learning_rate, double max_norm) {
  if (!zero_) return optimizer.step(learning_rate, max_norm);
  for (size_t i = 0; i < pieces_.size(); ++i) {
    const Piece& p = pieces_[i];
    const Bucket& b = buckets_[p.bucket];
    if (b.places[p.place].ready) optimizer.slots()[i].parameter.set_grad(b.gradient.slice(0, p.begin, p.end));
  }
  optimizer.step(learning_rate, max_norm, [this](const Tensor& squared_norm) {
    comm_->all_reduce(squared_norm);
    comm_->wait();
  });
  for (Bucket& b : buckets_) comm_->all_gather(b.value);
  comm_->wait();
  for (Bucket& b : buckets_)
    if (b.copy) b.copy.copy_from(b.value);
}

// One moment of a whole bucket, on the host.
Tensor DataParallel::gather(const Optimizer& optimizer, size_t bucket, bool second) {
  Tensor flat =
      Tensor::zeros({buckets_[bucket].size}, buckets_[bucket].gradient.dtype(), buckets_[bucket].gradient.device());
  for (size_t i = 0; i < pieces_.size(); ++i) {
    const Optimizer::Slot& s = optimizer.slots()[i];
    if (pieces_[i].bucket == bucket)
      flat.slice(0, pieces_[i].begin, pieces_[i].end).copy_from(second ? s.second : s.first);
  }
  comm_->all_gather(flat);
  comm_->wait();
  Tensor host = flat.to(core::cpu);
  core::synchronize(flat.device());
  return host;
}

Optimizer DataParallel::whole(const Optimizer& optimizer) {
  Optimizer copy = optimizer;
  if (!zero_) return copy;
  copy.slots() = whole_slots_;
  for (size_t i = 0; i < buckets_.size(); ++i)
    for (bool second : {false, true}) {
      if (second && !optimizer.is_adamw()) continue;
      Tensor flat = gather(optimizer, i, second);
      for (const Place& p : buckets_[i].places)
        for (Optimizer::Slot& s : copy.slots())
          if (s.path == p.path) (second ? s.second : s.first) = flat.slice(0, p.begin, p.end).view(p.parameter.shape());
    }
  return copy;
}

}  // namespace basis::trainers
