#include "exit_head.h"

#include <algorithm>
#include <cmath>

#include "attention.h"

namespace early_exit {
namespace {

// What a state is multiplied with.
float norm_factor(const ExitHead& head, const float* state, int d_model) {
  return 1 / std::sqrt(dot(state, state, d_model) + head.norm_floor * head.norm_floor);
}

// The log-odds of features [items, width], each times its factor.
void judge(Team& team, const ExitHead& head, int width, const float* features, const float* factors, int items,
           float* results) {
  if (head.hidden == nullptr) {
    for (int item = 0; item < items; item++) {
      results[item] = dot(features + (size_t)item * width, head.output, width) * factors[item] + head.offset;
    }
    return;
  }
  const Matrix& hidden = *head.hidden;
  Scratch& room = scratch();
  room.inputs.resize(hidden, items);
  for (int item = 0; item < items; item++) room.inputs.set(hidden, item, features + (size_t)item * width, factors[item]);
  const size_t outputs = hidden.outputs;
  room.inner.resize(items * outputs);
  const Product product{&hidden, {room.inner.data(), outputs}};
  multiply_all(team, room.inputs, &product, 1);
  for (int item = 0; item < items; item++) {
    float* own = room.inner.data() + item * outputs;
    for (size_t i = 0; i < outputs; i++) own[i] = own[i] <= 0 ? 0 : own[i];  // NaN stays
    results[item] = dot(own, head.output, (int)outputs) + head.offset;
  }
}

// The product of normed states; its outputs fall into parts of `width`: [parts][items, width], one after the other.
void project(Team& team, const ExitHead& head, const Matrix& matrix, const float* states, int items, size_t width,
             std::vector<float>& parts) {
  Scratch& room = scratch();
  room.inputs.resize(matrix, items);
  for (int item = 0; item < items; item++) {
    const float* state = states + (size_t)item * matrix.inputs;
    room.inputs.set(matrix, item, state, norm_factor(head, state, matrix.inputs));
  }
  room.inner.resize((size_t)items * matrix.outputs);
  const Product product{&matrix, {room.inner.data(), (size_t)matrix.outputs}};
  multiply_all(team, room.inputs, &product, 1);
  parts.resize(room.inner.size());
  const size_t number = matrix.outputs / width;
  for (int item = 0; item < items; item++) {
    for (size_t part = 0; part < number; part++) {
      const float* from = room.inner.data() + (item * number + part) * width;
      std::copy(from, from + width, parts.data() + (part * items + item) * width);
    }
  }
}

}  // namespace

void log_odds(Team& team, const ExitHead& head, int d_model, const float* states, int items, float* results) {
  std::vector<float> factors(items);
  for (int item = 0; item < items; item++) factors[item] = norm_factor(head, states + (size_t)item * d_model, d_model);
  judge(team, head, d_model, states, factors.data(), items, results);
}

bool log_odds(Team& team, const ExitHead& head, const HeadAttention& attention, int layer, int d_model,
              const float* states, const Items& items, float* results) {
  static thread_local Positions waiting;
  static thread_local std::vector<float> parts;
  Sizes sizes{};
  sizes.heads = attention.heads;
  sizes.head_dim = attention.head_dim;
  const size_t inner = sizes.inner(), all = inner * items.count;
  const KVCache& cache = *attention.cache;
  const Kept kept(cache, layer - 1);
  if (!enter(cache, layer - 1, items, waiting)) return false;
  if (const Items others = waiting.items(); others.count) {
    std::vector<float>& left = scratch().states;
    copy_states(cache, others, d_model, left);
    project(team, head, *head.keys_values, left.data(), others.count, inner, parts);
    keep(team, sizes, kept, others, parts.data(), parts.data() + inner * others.count);
  }
  project(team, head, *head.projections, states, items.count, inner, parts);
  const float *queries = parts.data(), *keys = queries + all, *values = keys + all, *own = values + all;
  keep(team, sizes, kept, items, keys, values);
  std::vector<float>& features = scratch().attended;
  features.resize(all);
  attend_to_own(team, sizes, layer - 1, items, cache, queries, features.data());
  for (size_t i = 0; i < all; i++) features[i] += own[i];
  const std::vector<float> factors(items.count, 1.f);
  judge(team, head, (int)inner, features.data(), factors.data(), items.count, results);
  return true;
}

}  // namespace early_exit
