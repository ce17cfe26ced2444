#include "exit_head.h"

#include <cmath>

#include "attention.h"

namespace early_exit {

void log_odds(Team& team, const ExitHead& head, int d_model, const float* states, int items, float* results) {
  const float least = head.norm_floor * head.norm_floor;
  const auto factor = [&](const float* state) { return 1 / std::sqrt(dot(state, state, d_model) + least); };
  if (head.hidden == nullptr) {
    for (int item = 0; item < items; item++) {
      const float* state = states + (size_t)item * d_model;
      results[item] = dot(state, head.output, d_model) * factor(state) + head.offset;
    }
    return;
  }
  const Matrix& hidden = *head.hidden;
  Scratch& room = scratch();
  room.inputs.resize(hidden, items);
  for (int item = 0; item < items; item++) {
    const float* state = states + (size_t)item * d_model;
    room.inputs.set(hidden, item, state, factor(state));
  }
  const size_t width = hidden.outputs;
  room.inner.resize(items * width);
  const Product product{&hidden, {room.inner.data(), width}};
  multiply_all(team, room.inputs, &product, 1);
  for (int item = 0; item < items; item++) {
    float* features = room.inner.data() + item * width;
    for (size_t i = 0; i < width; i++) features[i] = features[i] <= 0 ? 0 : features[i];  // NaN stays
    results[item] = dot(features, head.output, (int)width) + head.offset;
  }
}

}  // namespace early_exit
