#include "layers.h"

#include <algorithm>
#include <cmath>

#include "attention.h"

namespace early_exit {
namespace {

constexpr int ITEMS_AT_ONCE = 48;  // whose inputs stay in a core's cache while all panels pass
constexpr int SHARED_PREPARATION = 16;  // items from which on it is shared

Floats tanh(Floats x) { return 1.f - 2.f / (exponential(2.f * x) + 1.f); }

Floats activate(Floats x, Activation activation) {
  switch (activation) {
    case Activation::RELU: return choose(x <= all(0.f), all(0.f), x);  // NaN stays
    case Activation::SILU: return x / (1.f + exponential(-x));
    case Activation::GELU_TANH:
      return 0.5f * x * (1.f + tanh(0.7978845608028654f * (x + 0.044715f * x * x * x)));
    case Activation::GELU:
      for (int i = 0; i < WIDTH; i++) x[i] = 0.5f * x[i] * (1.f + std::erf(x[i] * 0.7071067811865476f));
      return x;
  }
  return x;
}

// By tiles: the inputs of a tile's items share cache lines, for which two threads would fight.
template <class Work>
void each_item(Team& team, int items, int width, const Work& work) {
  const double effort = items < SHARED_PREPARATION ? 0 : 8e-3 * items * width;
  team.each((items + TILE - 1) / TILE, effort, [&](int tile) {
    for (int item = tile * TILE; item < std::min(items, (tile + 1) * TILE); item++) work(item);
  });
}

}  // namespace

Scratch& scratch() {
  static thread_local Scratch own;
  return own;
}

void multiply_all(Team& team, const Prepared& inputs, const Product* products, int count) {
  int panels = 0;
  double work = 0;
  for (int i = 0; i < count; i++) {
    panels += products[i].matrix->panels;
    work += effort(*products[i].matrix, inputs.items);
  }
  const int blocks = (inputs.items + ITEMS_AT_ONCE - 1) / ITEMS_AT_ONCE;
  // Some eight chunks a thread, so that what is left at the end is little.
  const int parts = std::max(1, std::min(panels, 8 * team.threads() / blocks + (blocks < 8)));
  team.each(blocks * parts, work, [&](int chunk) {
    const int block = chunk / parts, part = chunk % parts;
    const int first = block * ITEMS_AT_ONCE, end = std::min(inputs.items, first + ITEMS_AT_ONCE);
    const int from = (int)((int64_t)panels * part / parts), to = (int)((int64_t)panels * (part + 1) / parts);
    int skipped = 0;
    for (int i = 0; i < count; i++) {
      const Matrix& matrix = *products[i].matrix;
      const Rows& rows = products[i].to;
      for (int panel = std::max(0, from - skipped); panel < std::min(matrix.panels, to - skipped); panel++) {
        const int output = panel * PANEL, outputs = std::min(PANEL, matrix.outputs - output);
        for (int item = first; item < end; item += TILE) {
          const int items = std::min(TILE, end - item);
          float results[TILE][PANEL];
          multiply(matrix, inputs, item, panel, results);
          for (int i = 0; i < items; i++) {
            float* row = rows.base + (size_t)(item + i) * rows.stride + output;
            for (int j = 0; j < outputs; j++) row[j] = rows.add ? row[j] + results[i][j] : results[i][j];
          }
        }
      }
      skipped += matrix.panels;
    }
  });
}

void prepare_normed(Team& team, Prepared& inputs, const Matrix& matrix, const float* states, int items,
                    float epsilon) {
  inputs.resize(matrix, items);
  each_item(team, items, matrix.inputs, [&](int item) {
    const float* state = states + (size_t)item * matrix.inputs;
    inputs.set(matrix, item, state, norm_factor(state, matrix.inputs, epsilon));
  });
}

float norm_factor(const float* state, int width, float epsilon) {
  return 1 / std::sqrt(dot(state, state, width) / (float)width + epsilon);
}

void prepare(Team& team, Prepared& inputs, const Matrix& matrix, const float* values, int items) {
  inputs.resize(matrix, items);
  each_item(team, items, matrix.inputs,
            [&](int item) { inputs.set(matrix, item, values + (size_t)item * matrix.inputs); });
}

void prepare_activated(Team& team, Prepared& inputs, const Matrix& matrix, float* inner, const float* gate,
                       int items, Activation activation) {
  const int width = matrix.inputs;
  inputs.resize(matrix, items);
  each_item(team, items, 2 * width, [&](int item) {
    float* own = inner + (size_t)item * width;
    const float* factors = gate == nullptr ? nullptr : gate + (size_t)item * width;
    for (int i = 0; i < width; i += WIDTH) {
      Floats values = activate(load_some(own + i, width - i), activation);
      if (factors != nullptr) values = values * load_some(factors + i, width - i);
      store_some(own + i, values, width - i);
    }
    inputs.set(matrix, item, own);
  });
}

void feed_forward(Team& team, const Sizes& sizes, const Layer& layer, float* states, int items) {
  Scratch& room = scratch();
  const size_t width = sizes.d_ff;
  prepare_normed(team, room.inputs, layer.inner, states, items, sizes.norm_epsilon);
  room.inner.resize(items * width);
  if (sizes.gated) room.gate.resize(items * width);
  const Product products[] = {{&layer.inner, {room.inner.data(), width}}, {&layer.gate, {room.gate.data(), width}}};
  multiply_all(team, room.inputs, products, sizes.gated ? 2 : 1);
  prepare_activated(team, room.inputs, layer.outer, room.inner.data(), sizes.gated ? room.gate.data() : nullptr,
                    items, sizes.activation);
  const Product outer{&layer.outer, {states, (size_t)sizes.d_model, true}};
  multiply_all(team, room.inputs, &outer, 1);
}

}  // namespace early_exit
