#include "decoder.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "attention.h"

namespace early_exit {
namespace {

void fill_waiting(Team& team, const Decoder& decoder, int number, const KVCache& cache, const Positions& waiting) {
  const Sizes& sizes = decoder.sizes;
  const Layer& layer = decoder.layers[number];
  Scratch& room = scratch();
  const Items items = waiting.items();
  const int count = items.count;
  const size_t inner = sizes.inner();
  copy_states(cache, items, sizes.d_model, room.states);
  room.keys.resize(count * inner);
  room.values.resize(count * inner);
  prepare_normed(team, room.inputs, layer.keys, room.states.data(), count, sizes.norm_epsilon);
  const Product products[] = {{&layer.keys, {room.keys.data(), inner}}, {&layer.values, {room.values.data(), inner}}};
  multiply_all(team, room.inputs, products, 2);
  keep(team, sizes, Kept(cache, number), items, room.keys.data(), room.values.data());
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
  const Items items{length, places.data(), positions.data()};
  keep(team, sizes, Kept(sources, number, half), items, room.keys.data(), room.values.data());
  sources.filled[number * sources.slots + place] = 1;
}

void attend_to_sources(Team& team, const Sizes& sizes, int number, const Items& items, const SourceCache& sources,
                       bool half) {
  std::vector<Reader> readers(items.count);
  for (int i = 0; i < items.count; i++) {
    const int64_t place = sources.of_slot[items.slots[i]];
    readers[i] = {place, sources.lengths[place]};
  }
  Scratch& room = scratch();
  attend(team, sizes, Kept(sources, number, half), readers, nullptr, room.queries.data(), room.attended.data());
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
  keep(team, sizes, Kept(cache, number), items, room.keys.data(), room.values.data());
  attend_to_own(team, sizes, number, items, cache, room.queries.data(), room.attended.data());
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
  attend_to_sources(team, sizes, number, items, sources, cache.half);
  prepare(team, room.inputs, layer.cross_output, room.attended.data(), count);
  const Product cross{&layer.cross_output, {states, d_model, true}};
  multiply_all(team, room.inputs, &cross, 1);

  feed_forward(team, sizes, layer, states, count);
}

// Of a part of the vocabulary, from `offset` on.
Top part_of(const float* logits, int count, int offset, Sums sums, int64_t wanted) {
  Top part{-INFINITY, -INFINITY, 0, 0, -INFINITY, offset};
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
  if (nan) return {NAN, NAN, NAN, NAN, NAN, offset};
  if (sums == Sums::NONE) return part;
  Floats totals = {}, information = {};
  int i = 0;
  for (; i + WIDTH <= count; i += WIDTH) {
    const Floats below = load(logits + i) - part.first, shares = exponential(below);
    totals += shares;
    if (sums == Sums::ENTROPY) information += choose(shares > all(0), shares * below, all(0));  // 0 of −inf
  }
  part.total = sum(totals);
  part.information = sum(information);
  for (; i < count; i++) {
    const float below = logits[i] - part.first, share = exponential(below);
    part.total += share;
    if (share > 0) part.information += share * below;
  }
  return part;
}

// Adds to one part's sums those of another whose first logit is not larger.
void add_sums(Top& to, const Top& part) {
  const float below = part.first - to.first, factor = exponential(below);
  if (factor <= 0) return;
  to.total += part.total * factor;
  to.information += (part.information + below * part.total) * factor;
}

Top together(Top before, Top after) {
  if (before.first != before.first) return before;
  if (after.first != after.first) return after;
  if (after.first > before.first) std::swap(before, after);
  before.second = std::max(before.second, after.first);
  before.wanted = std::max(before.wanted, after.wanted);
  add_sums(before, after);
  return before;
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

void read_head(Team& team, const Matrix& head, float epsilon, const float* states, int items, float* logits) {
  Scratch& room = scratch();
  prepare_normed(team, room.inputs, head, states, items, epsilon);
  const Product product{&head, {logits, (size_t)head.outputs}};
  multiply_all(team, room.inputs, &product, 1);
}

float Top::response() const { return (1 - exponential(second - first)) / total; }

float Top::negentropy(int tokens) const {
  const float entropy = std::log(total) - information / total, share = 1 - entropy / std::log((float)tokens);
  return share < 0 ? 0 : share > 1 ? 1 : share;  // NaN stays
}

std::vector<Top> top(Team& team, const Matrix& head, const Prepared& inputs, Sums sums, const int64_t* wanted) {
  const int items = inputs.items;
  const int parts = (head.panels + PANELS_AT_ONCE - 1) / PANELS_AT_ONCE;
  std::vector<Top> found((size_t)parts * items), best(items);
  team.each(parts, effort(head, items), [&](int part) {
    const int first = part * PANELS_AT_ONCE, panels = std::min(PANELS_AT_ONCE, head.panels - first);
    const int outputs = std::min(panels * PANEL, head.outputs - first * PANEL);
    for (int item = 0; item < items; item += TILE) {
      const int count = std::min(TILE, items - item);
      float logits[TILE][PANELS_AT_ONCE * PANEL], results[TILE][PANEL];
      for (int panel = 0; panel < panels; panel++) {
        multiply(head, inputs, item, first + panel, results);
        for (int i = 0; i < count; i++) std::copy(results[i], results[i] + PANEL, logits[i] + panel * PANEL);
      }
      for (int i = 0; i < count; i++) {
        const int64_t own = wanted == nullptr ? -1 : wanted[item + i];
        found[(size_t)part * items + item + i] = part_of(logits[i], outputs, first * PANEL, sums, own);
      }
    }
  });
  for (int item = 0; item < items; item++) {
    best[item] = found[item];
    for (int part = 1; part < parts; part++) best[item] = together(best[item], found[(size_t)part * items + item]);
  }
  return best;
}

std::vector<Top> top(Team& team, const Matrix& head, float epsilon, const float* states, int items, Sums sums,
                     const int64_t* wanted) {
  Scratch& room = scratch();
  prepare_normed(team, room.inputs, head, states, items, epsilon);
  return top(team, head, room.inputs, sums, wanted);
}

}  // namespace early_exit
