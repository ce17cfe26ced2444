#include "caches.h"

#include <algorithm>

#include "attention.h"

namespace early_exit {
namespace {

// Keys and values of one head: [capacity, head_dim].
template <class Value>
struct Head {
  Value* keys;
  Value* values;
  Head(const Kept& kept, const Sizes& sizes, int64_t slot, int head) {
    const size_t own = (size_t)kept.capacity * sizes.head_dim;
    keys = (Value*)kept.layer + (size_t)(slot * sizes.heads + head) * own;
    values = keys + (size_t)kept.slots * sizes.heads * own;
  }
};

template <class Value>
void keep_one(const Sizes& sizes, const Kept& kept, int64_t slot, int64_t position, const float* keys,
              const float* values) {
  for (int head = 0; head < sizes.heads; head++) {
    const Head<Value> to(kept, sizes, slot, head);
    for (int i = 0; i < sizes.head_dim; i++) {
      from_float(keys[head * sizes.head_dim + i], to.keys + position * sizes.head_dim + i);
      from_float(values[head * sizes.head_dim + i], to.values + position * sizes.head_dim + i);
    }
  }
}

template <class Value>
void attend_one(const Sizes& sizes, const Kept& kept, const Reader& reader, int head, const float* bias,
                const float* query, float* result) {
  const Head<Value> from(kept, sizes, reader.slot, head);
  const float* own = bias == nullptr ? nullptr : bias + (head + 1) * kept.capacity - reader.length;
  std::vector<float>& scores = scratch().scores;
  scores.resize(reader.length);
  attend<Value>(query, from.keys, from.values, own, (int)reader.length, sizes.head_dim, scores.data(), result);
}

}  // namespace

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

void copy_states(const KVCache& cache, const Items& items, int d_model, std::vector<float>& states) {
  states.resize((size_t)items.count * d_model);
  for (int i = 0; i < items.count; i++) {
    const float* state = cache.exit_states + (items.slots[i] * cache.capacity + items.positions[i]) * d_model;
    std::copy(state, state + d_model, states.data() + (size_t)i * d_model);
  }
}

void keep(Team& team, const Sizes& sizes, const Kept& to, const Items& items, const float* keys, const float* values) {
  const auto put = to.half ? keep_one<uint16_t> : keep_one<float>;
  team.each(items.count, items.count < 8 ? 0 : 2e-3 * items.count * sizes.inner(), [&](int i) {
    const size_t place = (size_t)i * sizes.inner();
    put(sizes, to, items.slots[i], items.positions[i], keys + place, values + place);
  });
}

void attend(Team& team, const Sizes& sizes, const Kept& from, const std::vector<Reader>& readers, const float* bias,
            const float* queries, float* results) {
  const auto read = from.half ? attend_one<uint16_t> : attend_one<float>;
  double keys = 0;
  for (const Reader& reader : readers) keys += (double)reader.length;
  team.each((int)readers.size() * sizes.heads, 1e-3 * keys * sizes.inner(), [&](int chunk) {
    const size_t place = (size_t)chunk * sizes.head_dim;
    read(sizes, from, readers[chunk / sizes.heads], chunk % sizes.heads, bias, queries + place, results + place);
  });
}

void attend_to_own(Team& team, const Sizes& sizes, int layer, const Items& items, const KVCache& cache,
                   const float* queries, float* results) {
  std::vector<Reader> readers(items.count);
  for (int i = 0; i < items.count; i++) readers[i] = {items.slots[i], items.positions[i] + 1};
  attend(team, sizes, Kept(cache, layer), readers, cache.biases[layer], queries, results);
}

}  // namespace early_exit
