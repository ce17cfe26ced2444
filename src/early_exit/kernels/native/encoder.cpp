#include "encoder.h"

#include <algorithm>
#include <cmath>

#include "attention.h"

namespace early_exit {
namespace {

struct Source {
  int64_t start, end;
  int length() const { return (int)(end - start); }
  int key_panels() const { return (length() + PANEL - 1) / PANEL; }
};

// Up to TILE tokens of a source, from `first` on.
struct Group {
  Source source;
  int64_t first;
  int count() const { return (int)std::min<int64_t>(TILE, source.end - first); }
};

// Keys and values of all heads as products take weights: keys [panels of keys][head_dim][PANEL], values [panels
// of head_dim][length][PANEL], for each head of each source.
class Panels {
 public:
  Panels(const Sizes& sizes, int64_t tokens, int sources)
      : size_(sizes.head_dim),
        value_panels_((sizes.head_dim + PANEL - 1) / PANEL),
        tokens_(tokens + (int64_t)PANEL * sources),
        keys_((size_t)sizes.heads * tokens_ * size_),
        values_((size_t)sizes.heads * tokens * value_panels_ * PANEL),
        number_(tokens) {}

  // `index`: of the source, since its keys are filled up to whole panels.
  float* keys(int head, const Source& source, int index) {
    return keys_.data() + ((size_t)head * tokens_ + source.start + (int64_t)PANEL * index) * size_;
  }
  float* values(int head, const Source& source) {
    return values_.data() + ((size_t)head * number_ + source.start) * value_panels_ * PANEL;
  }
  int value_panels() const { return value_panels_; }

  void pack(const Sizes& sizes, int head, const Source& source, int index, const float* keys, const float* values) {
    const size_t inner = sizes.inner(), offset = (size_t)head * size_;
    float *to_keys = this->keys(head, source, index), *to_values = this->values(head, source);
    const int length = source.length();
    for (int key = 0; key < length; key++) {
      const float *own = keys + (source.start + key) * inner + offset, *value = values + (source.start + key) * inner + offset;
      float* panel = to_keys + (size_t)(key / PANEL) * size_ * PANEL + key % PANEL;
      for (int i = 0; i < size_; i++) panel[(size_t)i * PANEL] = own[i];
      for (int i = 0; i < size_; i++) to_values[((size_t)(i / PANEL) * length + key) * PANEL + i % PANEL] = value[i];
    }
  }

 private:
  int size_, value_panels_;
  int64_t tokens_;
  std::vector<float> keys_, values_;
  int64_t number_;
};

// One head of a group of queries. queries, results: of the first one, `inner` apart. bias: of the first query and
// the first key; a query further on begins one place earlier. Null for none.
void attend_group(const Sizes& sizes, Panels& panels, int head, const Group& group, int index, const float* queries,
                  const float* bias, float* results) {
  const int count = group.count(), size = sizes.head_dim, length = group.source.length();
  const size_t inner = sizes.inner(), room = (size_t)group.source.key_panels() * PANEL;
  std::vector<float>& scores = scratch().scores;
  scores.resize(count * room + (size_t)TILE * std::max(length, size));
  float *side_by_side = scores.data() + count * room, products[TILE][PANEL], factors[TILE];
  for (int i = 0; i < count; i++) {
    for (int k = 0; k < size; k++) side_by_side[(size_t)k * count + i] = queries[i * inner + k];
  }
  const float* keys = panels.keys(head, group.source, index);
  for (int panel = 0; panel < group.source.key_panels(); panel++) {
    multiply_panel(keys + (size_t)panel * size * PANEL, size, side_by_side, count, products);
    for (int i = 0; i < count; i++) std::copy(products[i], products[i] + PANEL, scores.data() + i * room + panel * PANEL);
  }
  for (int i = 0; i < count; i++) {
    float* own = scores.data() + i * room;
    for (int key = 0; bias != nullptr && key < length; key++) own[key] += bias[key - i];
    factors[i] = exponentials(own, length);
    for (int key = 0; key < length; key++) side_by_side[(size_t)key * count + i] = own[key];
  }
  const float* values = panels.values(head, group.source);
  for (int panel = 0; panel < panels.value_panels(); panel++) {
    multiply_panel(values + (size_t)panel * length * PANEL, length, side_by_side, count, products);
    const int first = panel * PANEL, width = std::min(PANEL, size - first);
    for (int i = 0; i < count; i++) {
      for (int j = 0; j < width; j++) results[i * inner + first + j] = products[i][j] * factors[i];
    }
  }
}

void attend_all(Team& team, const Sizes& sizes, const std::vector<Source>& sources, const std::vector<Group>& groups,
                Panels& panels, const float* bias, int longest) {
  Scratch& room = scratch();
  const size_t inner = sizes.inner();
  const float *queries = room.queries.data(), *keys = room.keys.data(), *values = room.values.data();
  float* attended = room.attended.data();
  const int heads = sizes.heads, number = (int)sources.size();
  team.each(heads * number, 1e-3 * (double)sources.back().end * (double)inner, [&](int chunk) {
    panels.pack(sizes, chunk / number, sources[chunk % number], chunk % number, keys, values);
  });
  double work = 0;
  for (const Group& group : groups) work += 4e-3 * group.source.length() * (double)inner;
  const int all = (int)groups.size();
  team.each(heads * all, work, [&](int chunk) {
    const int head = chunk / all;
    const Group& group = groups[chunk % all];
    const auto own = std::lower_bound(sources.begin(), sources.end(), group.source.start,
                                      [](const Source& source, int64_t start) { return source.start < start; });
    const size_t place = group.first * inner + (size_t)head * sizes.head_dim;
    const float* own_bias =
        bias == nullptr ? nullptr
                        : bias + (size_t)head * (2 * longest - 1) + longest - 1 - (group.first - group.source.start);
    attend_group(sizes, panels, head, group, (int)(own - sources.begin()), queries + place, own_bias, attended + place);
  });
}

std::vector<Group> groups_of(const std::vector<Source>& sources) {
  std::vector<Group> groups;
  for (const Source& source : sources) {
    for (int64_t first = source.start; first < source.end; first += TILE) groups.push_back({source, first});
  }
  return groups;
}

}  // namespace

void encode(Team& team, const Encoder& encoder, float* states, const int64_t* starts, int number_of_sources,
            const float* const* biases, int longest) {
  const Sizes& sizes = encoder.sizes;
  const int tokens = (int)starts[number_of_sources];
  const size_t inner = sizes.inner(), d_model = sizes.d_model;
  std::vector<Source> sources;
  for (int i = 0; i < number_of_sources; i++) sources.push_back({starts[i], starts[i + 1]});
  const std::vector<Group> groups = groups_of(sources);
  Panels panels(sizes, tokens, number_of_sources);
  Scratch& room = scratch();
  for (auto* values : {&room.queries, &room.keys, &room.values, &room.attended}) values->resize(tokens * inner);
  for (size_t number = 0; number < encoder.layers.size(); number++) {
    const Layer& layer = encoder.layers[number];
    prepare_normed(team, room.inputs, layer.queries, states, tokens, sizes.norm_epsilon);
    const Product own[] = {{&layer.queries, {room.queries.data(), inner}},
                           {&layer.keys, {room.keys.data(), inner}},
                           {&layer.values, {room.values.data(), inner}}};
    multiply_all(team, room.inputs, own, 3);
    attend_all(team, sizes, sources, groups, panels, biases[number], longest);
    prepare(team, room.inputs, layer.output, room.attended.data(), tokens);
    const Product output{&layer.output, {states, d_model, true}};
    multiply_all(team, room.inputs, &output, 1);
    feed_forward(team, sizes, layer, states, tokens);
  }
  team.each(tokens, tokens < 16 ? 0 : 4e-3 * tokens * (double)d_model, [&](int token) {
    float* state = states + token * d_model;
    const float factor = norm_factor(state, (int)d_model, sizes.norm_epsilon);
    for (size_t i = 0; i < d_model; i++) state[i] = state[i] * factor * encoder.final_norm[i];
  });
}

}  // namespace early_exit
