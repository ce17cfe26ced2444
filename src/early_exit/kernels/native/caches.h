// What items attend to: keys and values of their own rows and of their sources.
#pragma once

#include <cstdint>
#include <vector>

#include "layers.h"

namespace early_exit {

// `KVCache` of decoding/kv_cache.py. Keys and values of a layer: [2, slots, heads, capacity, head_dim], in
// bfloat16 if `half`. filled: [layers, slots]. exit_states: [slots, capacity, d_model].
struct KVCache {
  void** layers;
  int64_t* filled;
  float* exit_states;
  const float** biases;  // of each layer: [heads, capacity], the largest distance first; or null
  int64_t slots, capacity;
  int32_t half;
};

// `SourceCache` of the same file. of_slot: [slots]; filled: [layers, slots]; states: [slots, capacity, d_model].
struct SourceCache {
  void** layers;
  uint8_t* filled;
  const int64_t* lengths;
  const int64_t* of_slot;
  const float* states;
  int64_t slots, capacity;
};

// slots, positions: [count].
struct Items {
  int count;
  const int64_t* slots;
  const int64_t* positions;
};

struct Positions {
  std::vector<int64_t> slots, positions;
  Items items() const { return {(int)slots.size(), slots.data(), positions.data()}; }
};

// Marks the items' positions, and all before them, as filled at a layer. Gives those that lack keys and values and
// are not of these items; see `KVCache.enter`. False where an item is there already.
bool enter(const KVCache& cache, int layer, const Items& items, Positions& waiting);

// The states [items, d_model] that items were left with.
void copy_states(const KVCache& cache, const Items& items, int d_model, std::vector<float>& states);

// Keys and values of one layer, in bfloat16 if `half`: [2, slots, heads, capacity, head_dim].
struct Kept {
  void* layer;
  int64_t slots, capacity;
  bool half;
  Kept(const KVCache& cache, int layer)
      : layer(cache.layers[layer]), slots(cache.slots), capacity(cache.capacity), half(cache.half != 0) {}
  Kept(const SourceCache& cache, int layer, bool half)
      : layer(cache.layers[layer]), slots(cache.slots), capacity(cache.capacity), half(half) {}
};

// keys, values: [items, inner].
void keep(Team& team, const Sizes& sizes, const Kept& to, const Items& items, const float* keys, const float* values);

// Attention of an item each over the first `length` keys of a slot. queries, results: [items, inner]; bias: [heads,
// capacity], that of a query's own position last; or null.
struct Reader {
  int64_t slot, length;
};
void attend(Team& team, const Sizes& sizes, const Kept& from, const std::vector<Reader>& readers, const float* bias,
            const float* queries, float* results);

// Of items over their rows, up to their own positions.
void attend_to_own(Team& team, const Sizes& sizes, int layer, const Items& items, const KVCache& cache,
                   const float* queries, float* results);

}  // namespace early_exit
