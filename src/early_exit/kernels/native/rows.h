// The rows that are decoded, and the items of them that go through the layers together.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "decoder.h"
#include "loop.h"

namespace early_exit {

// Ends of a decoding that `decode` answers for.
struct NoNumber {};
struct ThereAlready {};

// Items, ordered by slot and position, and their states.
struct Front {
  int width;
  std::vector<int64_t> slots = {}, positions = {};
  std::vector<uint8_t> asks = {};  // may leave early: the token in flight of a row
  std::vector<float> states = {};

  size_t size() const { return slots.size(); }
  const float* state(size_t item) const { return states.data() + item * width; }

  // Adds an item with its state.
  void add(int64_t slot, int64_t position, bool may_leave, const float* state) {
    slots.push_back(slot);
    positions.push_back(position);
    asks.push_back(may_leave);
    states.insert(states.end(), state, state + width);
  }

  // Drops the items that do not stay.
  void keep(const std::vector<uint8_t>& stays) {
    size_t to = 0;
    for (size_t item = 0; item < size(); item++) {
      if (!stays[item]) continue;
      if (to != item) {
        slots[to] = slots[item];
        positions[to] = positions[item];
        asks[to] = asks[item];
        std::copy_n(state(item), width, states.data() + to * width);
      }
      to++;
    }
    slots.resize(to);
    positions.resize(to);
    asks.resize(to);
    states.resize(to * width);
  }
};

// The rows of one call of `decode`, with what decodes them.
struct DecodedRows {
  Team& team;
  const Decoder& decoder;
  const Loop& loop;
  const KVCache& cache;
  const SourceCache& sources;
  bool any_ended = false;

  int width() const { return decoder.sizes.d_model; }
  bool occupied(int64_t slot) const { return loop.prompt[slot] >= 0 && !loop.ended[slot]; }
  int64_t* text(int64_t slot) const { return loop.tokens + slot * loop.max_new_tokens; }
  const float* embedding(int64_t slot) const { return loop.embedding + loop.token[slot] * width(); }

  float* exit_state(int64_t slot, int64_t position) const {
    return cache.exit_states + (slot * cache.capacity + position) * width();
  }

  // Keeps the state with which an item leaves, or waits.
  void leave(const Front& front, size_t item) const {
    const float* state = front.state(item);
    std::copy(state, state + width(), exit_state(front.slots[item], front.positions[item]));
  }

  // A row's next token, which left at a layer. Returns whether it ends the text.
  bool advance(int64_t slot, int64_t token, int layer, float confidence) const {
    const int64_t place = slot * loop.max_new_tokens + loop.step[slot];
    loop.tokens[place] = loop.token[slot] = token;
    loop.exit_layers[place] = layer;
    loop.confidences[place] = confidence;
    loop.position[slot]++;
    loop.step[slot]++;
    loop.layer[slot] = 0;
    return loop.step[slot] >= loop.max_new_tokens ||
           std::find(loop.ends, loop.ends + loop.number_of_ends, token) != loop.ends + loop.number_of_ends;
  }

  // Forgets what is kept of a row's positions from `length` on.
  void truncate(int64_t slot, int64_t length) const {
    forget_from(cache, loop.last_layer, slot, length);
    if (loop.head_attention != nullptr) forget_from(*loop.head_attention->cache, loop.last_layer - 1, slot, length);
  }

  void end(int64_t slot) {
    loop.ended[slot] = 1;
    any_ended = true;
  }

 private:
  static void forget_from(const KVCache& cache, int layers, int64_t slot, int64_t length) {
    for (int layer = 0; layer < layers; layer++) {
      int64_t& filled = cache.filled[layer * cache.slots + slot];
      filled = std::min(filled, length);
    }
  }
};

}  // namespace early_exit
