#include "encoder.h"

#include <algorithm>
#include <cmath>

#include "attention.h"

namespace early_exit {
namespace {

constexpr int QUERIES = 4;  // that read keys and values together

struct Source {
  int64_t start, end;
};

// The source of each group of up to QUERIES tokens, and where the group begins.
struct Group {
  Source source;
  int64_t first;
};

// Several queries of one head. keys, values: [count] rows, `stride` apart.
void attend_together(const float* const* queries, int number, const float* keys, const float* values,
                     const float* const* biases, int count, size_t stride, int size, float* scores,
                     float* const* results) {
  for (int query = 0; query < number; query++) {
    score(queries[query], keys, stride, biases[query], count, size, scores + (size_t)query * count);
  }
  float factors[QUERIES];
  for (int query = 0; query < number; query++) factors[query] = exponentials(scores + (size_t)query * count, count);
  int first = 0;
  for (; first + 2 * WIDTH <= size; first += 2 * WIDTH) {
    Floats sums[QUERIES][2] = {};
    for (int key = 0; key < count; key++) {
      const Floats low = load(values + key * stride + first), high = load(values + key * stride + first + WIDTH);
      for (int query = 0; query < QUERIES; query++) {
        const Floats weight = all(scores[(size_t)std::min(query, number - 1) * count + key]);
        sums[query][0] = multiply_add(weight, low, sums[query][0]);
        sums[query][1] = multiply_add(weight, high, sums[query][1]);
      }
    }
    for (int query = 0; query < number; query++) {
      store(results[query] + first, sums[query][0] * factors[query]);
      store(results[query] + first + WIDTH, sums[query][1] * factors[query]);
    }
  }
  for (; first < size; first++) {
    for (int query = 0; query < number; query++) {
      float total = 0;
      for (int key = 0; key < count; key++) total += scores[(size_t)query * count + key] * values[key * stride + first];
      results[query][first] = total * factors[query];
    }
  }
}

void attend_all(Team& team, const Sizes& sizes, const std::vector<Group>& groups, const float* bias, int longest) {
  Scratch& room = scratch();
  const size_t inner = sizes.inner();
  const float *queries = room.queries.data(), *keys = room.keys.data(), *values = room.values.data();
  float* attended = room.attended.data();
  double work = 0;
  for (const Group& group : groups) work += 8e-3 * (double)(group.source.end - group.source.start) * (double)inner;
  team.each((int)groups.size(), work, [&](int chunk) {
    const Group& group = groups[chunk];
    const int count = (int)(group.source.end - group.source.start);
    const int number = (int)std::min<int64_t>(QUERIES, group.source.end - group.first);
    std::vector<float>& scores = scratch().scores;
    scores.resize((size_t)QUERIES * count);
    for (int head = 0; head < sizes.heads; head++) {
      const size_t offset = (size_t)head * sizes.head_dim, source = group.source.start * inner + offset;
      const float *own_queries[QUERIES], *own_biases[QUERIES];
      float* results[QUERIES];
      for (int i = 0; i < number; i++) {
        const int64_t token = group.first + i, place = token - group.source.start;
        own_queries[i] = queries + token * inner + offset;
        results[i] = attended + token * inner + offset;
        own_biases[i] = bias == nullptr ? nullptr : bias + (size_t)head * (2 * longest - 1) + longest - 1 - place;
      }
      attend_together(own_queries, number, keys + source, values + source, own_biases, count, inner, sizes.head_dim,
                      scores.data(), results);
    }
  });
}

std::vector<Group> groups_of(const int64_t* starts, int sources) {
  std::vector<Group> groups;
  for (int i = 0; i < sources; i++) {
    for (int64_t first = starts[i]; first < starts[i + 1]; first += QUERIES) {
      groups.push_back({{starts[i], starts[i + 1]}, first});
    }
  }
  return groups;
}

}  // namespace

void encode(Team& team, const Encoder& encoder, float* states, const int64_t* starts, int sources,
            const float* const* biases, int longest) {
  const Sizes& sizes = encoder.sizes;
  const int tokens = (int)starts[sources];
  const size_t inner = sizes.inner(), d_model = sizes.d_model;
  const std::vector<Group> groups = groups_of(starts, sources);
  Scratch& room = scratch();
  for (auto* values : {&room.queries, &room.keys, &room.values, &room.attended}) values->resize(tokens * inner);
  for (size_t number = 0; number < encoder.layers.size(); number++) {
    const Layer& layer = encoder.layers[number];
    prepare_normed(team, room.inputs, layer.queries, states, tokens, sizes.norm_epsilon);
    const Product own[] = {{&layer.queries, {room.queries.data(), inner}},
                           {&layer.keys, {room.keys.data(), inner}},
                           {&layer.values, {room.values.data(), inner}}};
    multiply_all(team, room.inputs, own, 3);
    attend_all(team, sizes, groups, biases[number], longest);
    prepare(team, room.inputs, layer.output, room.attended.data(), tokens);
    const Product output{&layer.output, {states, d_model, true}};
    multiply_all(team, room.inputs, &output, 1);
    feed_forward(team, sizes, layer, states, tokens);
  }
  team.each(tokens, tokens < 16 ? 0 : 4e-3 * tokens * (double)d_model, [&](int token) {
    float* state = states + token * d_model;
    const float mean = dot(state, state, (int)d_model) / (float)d_model;
    const float factor = 1 / std::sqrt(mean + sizes.norm_epsilon);
    for (size_t i = 0; i < d_model; i++) state[i] = state[i] * factor * encoder.final_norm[i];
  });
}

}  // namespace early_exit
