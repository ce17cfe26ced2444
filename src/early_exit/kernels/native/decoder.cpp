#include "decoder.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "attention.h"

namespace early_exit {
namespace {

struct Positions {
  std::vector<int64_t> slots, positions;
};

// Marks the items' positions, and all before them, as filled at a layer. Returns those that lack keys and values
// and are not of these items; see `KVCache.enter`. False where an item is there already.
bool enter(const KVCache& cache, int layer, const Items& items, Positions& waiting) {
  int64_t* filled = cache.filled + layer * cache.slots;
  waiting.slots.clear();
  waiting.positions.clear();
  for (int i = 0; i < items.count; i++) {
    if (items.positions[i] < filled[items.slots[i]]) return false;
  }
  for (int i = 0; i < items.count; i++) {  // of one row by rising position
    const int64_t slot = items.slots[i];
    for (int64_t position = filled[slot]; position < items.positions[i]; position++) {
      waiting.slots.push_back(slot);
      waiting.positions.push_back(position);
    }
    filled[slot] = items.positions[i] + 1;
  }
  return true;
}

// Keys and values of one head: [capacity, head_dim].
template <class Value>
struct Head {
  Value* keys;
  Value* values;
  Head(void* layer, int64_t slots, int64_t capacity, const Sizes& sizes, int64_t slot, int head) {
    const size_t own = (size_t)capacity * sizes.head_dim;
    keys = (Value*)layer + (size_t)(slot * sizes.heads + head) * own;
    values = keys + (size_t)slots * sizes.heads * own;
  }
};

template <class Value>
void keep(const Sizes& sizes, void* layer, int64_t slots, int64_t capacity, int64_t slot, int64_t position,
          const float* keys, const float* values) {
  for (int head = 0; head < sizes.heads; head++) {
    const Head<Value> to(layer, slots, capacity, sizes, slot, head);
    for (int i = 0; i < sizes.head_dim; i++) {
      from_float(keys[head * sizes.head_dim + i], to.keys + position * sizes.head_dim + i);
      from_float(values[head * sizes.head_dim + i], to.values + position * sizes.head_dim + i);
    }
  }
}

void keep_all(Team& team, const Sizes& sizes, void* layer, int64_t slots, int64_t capacity, bool half, int count,
              const int64_t* slot, const int64_t* position, const float* keys, const float* values) {
  team.each(count, count < 8 ? 0 : 2e-3 * count * sizes.inner(), [&](int i) {
    const size_t place = (size_t)i * sizes.inner();
    const auto put = half ? keep<uint16_t> : keep<float>;
    put(sizes, layer, slots, capacity, slot[i], position[i], keys + place, values + place);
  });
}

void fill_waiting(Team& team, const Decoder& decoder, int number, const KVCache& cache, const Positions& waiting) {
  const Sizes& sizes = decoder.sizes;
  const Layer& layer = decoder.layers[number];
  Scratch& room = scratch();
  const int count = (int)waiting.slots.size();
  const size_t inner = sizes.inner();
  room.states.resize((size_t)count * sizes.d_model);
  for (int i = 0; i < count; i++) {
    const float* state = cache.exit_states + (waiting.slots[i] * cache.capacity + waiting.positions[i]) * sizes.d_model;
    std::copy(state, state + sizes.d_model, room.states.data() + (size_t)i * sizes.d_model);
  }
  room.keys.resize(count * inner);
  room.values.resize(count * inner);
  prepare_normed(team, room.inputs, layer.keys, room.states.data(), count, sizes.norm_epsilon);
  const Product products[] = {{&layer.keys, {room.keys.data(), inner}}, {&layer.values, {room.values.data(), inner}}};
  multiply_all(team, room.inputs, products, 2);
  keep_all(team, sizes, cache.layers[number], cache.slots, cache.capacity, cache.half, count, waiting.slots.data(),
           waiting.positions.data(), room.keys.data(), room.values.data());
}

void fill_source(Team& team, const Decoder& decoder, int number, const SourceCache& sources, bool half,
                 int64_t place) {
  const Sizes& sizes = decoder.sizes;
  const Layer& layer = decoder.layers[number];
  Scratch& room = scratch();
  const int length = (int)sources.lengths[place];
  const size_t inner = sizes.inner();
  room.keys.resize(length * inner);
  room.values.resize(length * inner);
  prepare(team, room.inputs, layer.cross_keys, sources.states + place * sources.capacity * sizes.d_model, length);
  const Product products[] = {{&layer.cross_keys, {room.keys.data(), inner}},
                              {&layer.cross_values, {room.values.data(), inner}}};
  multiply_all(team, room.inputs, products, 2);
  std::vector<int64_t> places(length, place), positions(length);
  for (int i = 0; i < length; i++) positions[i] = i;
  keep_all(team, sizes, sources.layers[number], sources.slots, sources.capacity, half, length, places.data(),
           positions.data(), room.keys.data(), room.values.data());
  sources.filled[number * sources.slots + place] = 1;
}

template <class Value>
void attend_to_own(Team& team, const Sizes& sizes, int number, const Items& items, const KVCache& cache) {
  Scratch& room = scratch();
  const float *queries = room.queries.data(), *bias = cache.biases[number];
  float* attended = room.attended.data();
  double keys = 0;
  for (int i = 0; i < items.count; i++) keys += (double)items.positions[i] + 1;
  team.each(items.count * sizes.heads, 1e-3 * keys * sizes.inner(), [&](int chunk) {
    const int item = chunk / sizes.heads, head = chunk % sizes.heads;
    const int64_t position = items.positions[item];
    const Head<Value> from(cache.layers[number], cache.slots, cache.capacity, sizes, items.slots[item], head);
    const float* own = bias == nullptr ? nullptr : bias + (head + 1) * cache.capacity - 1 - position;
    std::vector<float>& scores = scratch().scores;
    scores.resize(position + 1);
    attend<Value>(queries + (size_t)chunk * sizes.head_dim, from.keys, from.values, own, (int)position + 1,
                  sizes.head_dim, scores.data(), attended + (size_t)chunk * sizes.head_dim);
  });
}

template <class Value>
void attend_to_sources(Team& team, const Sizes& sizes, int number, const Items& items, const SourceCache& sources) {
  Scratch& room = scratch();
  const float* queries = room.queries.data();
  float* attended = room.attended.data();
  double keys = 0;
  for (int i = 0; i < items.count; i++) keys += (double)sources.lengths[sources.of_slot[items.slots[i]]];
  team.each(items.count * sizes.heads, 1e-3 * keys * sizes.inner(), [&](int chunk) {
    const int item = chunk / sizes.heads, head = chunk % sizes.heads;
    const int64_t place = sources.of_slot[items.slots[item]];
    const Head<Value> from(sources.layers[number], sources.slots, sources.capacity, sizes, place, head);
    const int count = (int)sources.lengths[place];
    std::vector<float>& scores = scratch().scores;
    scores.resize(count);
    attend<Value>(queries + (size_t)chunk * sizes.head_dim, from.keys, from.values, nullptr, count, sizes.head_dim,
                  scores.data(), attended + (size_t)chunk * sizes.head_dim);
  });
}

void run_layer(Team& team, const Decoder& decoder, int number, const Items& items, float* states,
               const KVCache& cache, const SourceCache& sources) {
  const Sizes& sizes = decoder.sizes;
  const Layer& layer = decoder.layers[number];
  Scratch& room = scratch();
  const size_t inner = sizes.inner(), d_model = sizes.d_model;
  const int count = items.count;
  for (auto* values : {&room.queries, &room.keys, &room.values, &room.attended}) values->resize(count * inner);

  prepare_normed(team, room.inputs, layer.queries, states, count, sizes.norm_epsilon);
  const Product own[] = {{&layer.queries, {room.queries.data(), inner}},
                         {&layer.keys, {room.keys.data(), inner}},
                         {&layer.values, {room.values.data(), inner}}};
  multiply_all(team, room.inputs, own, 3);
  keep_all(team, sizes, cache.layers[number], cache.slots, cache.capacity, cache.half, count, items.slots,
           items.positions, room.keys.data(), room.values.data());
  const auto to_own = cache.half ? attend_to_own<uint16_t> : attend_to_own<float>;
  to_own(team, sizes, number, items, cache);
  prepare(team, room.inputs, layer.output, room.attended.data(), count);
  const Product output{&layer.output, {states, d_model, true}};
  multiply_all(team, room.inputs, &output, 1);

  for (int i = 0; i < count; i++) {
    const int64_t place = sources.of_slot[items.slots[i]];
    if (!sources.filled[number * sources.slots + place]) {
      fill_source(team, decoder, number, sources, cache.half, place);
    }
  }
  prepare_normed(team, room.inputs, layer.cross_queries, states, count, sizes.norm_epsilon);
  const Product queries{&layer.cross_queries, {room.queries.data(), inner}};
  multiply_all(team, room.inputs, &queries, 1);
  const auto to_sources = cache.half ? attend_to_sources<uint16_t> : attend_to_sources<float>;
  to_sources(team, sizes, number, items, sources);
  prepare(team, room.inputs, layer.cross_output, room.attended.data(), count);
  const Product cross{&layer.cross_output, {states, d_model, true}};
  multiply_all(team, room.inputs, &cross, 1);

  feed_forward(team, sizes, layer, states, count);
}

// Of a part of the vocabulary, from `offset` on.
Top part_of(const float* logits, int count, int offset, bool totals, int64_t wanted) {
  Top part{-INFINITY, -INFINITY, 0, -INFINITY, offset};
  bool nan = false;
  for (int i = 0; i < count; i++) {
    nan |= logits[i] != logits[i];
    if (logits[i] > part.first) {
      part.second = part.first;
      part.first = logits[i];
      part.token = offset + i;
    } else if (logits[i] > part.second) {
      part.second = logits[i];
    }
  }
  if (wanted >= offset && wanted < offset + count) part.wanted = logits[wanted - offset];
  if (nan) return {NAN, NAN, NAN, NAN, offset};
  if (!totals) return part;
  Floats sums = {};
  int i = 0;
  for (; i + WIDTH <= count; i += WIDTH) sums += exponential(load(logits + i) - part.first);
  part.total = sum(sums);
  for (; i < count; i++) part.total += exponential(logits[i] - part.first);
  return part;
}

Top together(const Top& before, const Top& after) {
  if (before.first != before.first) return before;
  if (after.first != after.first) return after;
  const float wanted = std::max(before.wanted, after.wanted);
  if (before.first >= after.first) {
    const float total = before.total + after.total * exponential(after.first - before.first);
    return {before.first, std::max(before.second, after.first), total, wanted, before.token};
  }
  const float total = after.total + before.total * exponential(before.first - after.first);
  return {after.first, std::max(before.first, after.second), total, wanted, after.token};
}

constexpr int PANELS_AT_ONCE = 16;

}  // namespace

bool run(Team& team, const Decoder& decoder, const Items& items, float* states, int first, int last,
         const KVCache& cache, const SourceCache& sources) {
  static thread_local Positions waiting;
  for (int layer = first; layer < last; layer++) {
    if (!enter(cache, layer, items, waiting)) return false;
    if (!waiting.slots.empty()) fill_waiting(team, decoder, layer, cache, waiting);
    run_layer(team, decoder, layer, items, states, cache, sources);
  }
  return true;
}

void read_head(Team& team, const Decoder& decoder, const Matrix& head, const float* states, int items,
               float* logits) {
  Scratch& room = scratch();
  prepare_normed(team, room.inputs, head, states, items, decoder.sizes.norm_epsilon);
  const Product product{&head, {logits, (size_t)head.outputs}};
  multiply_all(team, room.inputs, &product, 1);
}

float Top::response() const { return (1 - exponential(second - first)) / total; }

std::vector<Top> top(Team& team, const Decoder& decoder, const Matrix& head, const float* states, int items,
                     bool totals, const int64_t* wanted) {
  Scratch& room = scratch();
  prepare_normed(team, room.inputs, head, states, items, decoder.sizes.norm_epsilon);
  const int parts = (head.panels + PANELS_AT_ONCE - 1) / PANELS_AT_ONCE;
  std::vector<Top> found((size_t)parts * items), best(items);
  team.each(parts, effort(head, items), [&](int part) {
    const int first = part * PANELS_AT_ONCE, panels = std::min(PANELS_AT_ONCE, head.panels - first);
    const int outputs = std::min(panels * PANEL, head.outputs - first * PANEL);
    for (int item = 0; item < items; item += TILE) {
      const int count = std::min(TILE, items - item);
      float logits[TILE][PANELS_AT_ONCE * PANEL], results[TILE][PANEL];
      for (int panel = 0; panel < panels; panel++) {
        multiply(head, room.inputs, item, first + panel, results);
        for (int i = 0; i < count; i++) std::copy(results[i], results[i] + PANEL, logits[i] + panel * PANEL);
      }
      for (int i = 0; i < count; i++) {
        const int64_t own = wanted == nullptr ? -1 : wanted[item + i];
        found[(size_t)part * items + item + i] = part_of(logits[i], outputs, first * PANEL, totals, own);
      }
    }
  });
  for (int item = 0; item < items; item++) {
    best[item] = found[item];
    for (int part = 1; part < parts; part++) best[item] = together(best[item], found[(size_t)part * items + item]);
  }
  return best;
}

}  // namespace early_exit
