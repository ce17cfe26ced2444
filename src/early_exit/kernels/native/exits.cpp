#include "exits.h"

#include <algorithm>
#include <cmath>

#include "attention.h"

namespace early_exit {

int Exits::planned(int64_t slot) const {
  if (loop_.planned == nullptr) return loop_.last_layer;
  const int64_t step = std::min(loop_.step[slot], loop_.planned_steps - 1);
  return (int)loop_.planned[slot * loop_.planned_steps + step];
}

bool Exits::asks_after(int layer) const {
  return loop_.measure != Measure::NONE && layer >= std::max(loop_.min_layer, 1) && layer <= loop_.max_layer &&
         layer < loop_.last_layer;
}

int Exits::next_stop(const Front& front, int layer) const {
  int stop = loop_.last_layer;
  bool any = false;
  for (size_t item = 0; item < front.size(); item++) {
    any |= front.asks[item] != 0;
    if (front.asks[item]) stop = std::min(stop, planned(front.slots[item]));
  }
  if (!any || loop_.measure == Measure::NONE) return any ? stop : loop_.last_layer;
  return next_asked(layer);
}

int Exits::next_asked(int layer) const {
  for (int deeper = layer + 1; deeper < loop_.last_layer; deeper++) {
    if (asks_after(deeper)) return deeper;
  }
  return loop_.last_layer;
}

void Exits::through(Front& front, int first, int last, std::vector<float>* previous) const {
  const Items items{(int)front.size(), front.slots.data(), front.positions.data()};
  if (loop_.measure == Measure::SATURATION) {
    if (!run(rows_.team, rows_.decoder, items, front.states.data(), first, last - 1, rows_.cache, rows_.sources)) {
      throw ThereAlready();
    }
    *previous = front.states;
    first = last - 1;
  }
  if (!run(rows_.team, rows_.decoder, items, front.states.data(), first, last, rows_.cache, rows_.sources)) {
    throw ThereAlready();
  }
}

double Exits::decay(int64_t slot) const {
  if (loop_.temperature < 0) return 1;
  return 0.9 + 0.1 * std::exp(-loop_.temperature * (double)loop_.step[slot] / (double)loop_.max_new_tokens);
}

std::vector<Decision> Exits::decide(const Front& front, int layer, const std::vector<float>& previous) const {
  std::vector<Decision> decisions(front.size());
  if (loop_.measure == Measure::NONE) {
    for (size_t item = 0; item < front.size(); item++) {
      decisions[item].leaves = front.asks[item] && planned(front.slots[item]) == layer;
    }
    return decisions;
  }
  std::vector<size_t> asking;
  for (size_t item = 0; item < front.size(); item++) {
    if (front.asks[item]) asking.push_back(item);
  }
  confidences(front, layer, asking, previous, decisions);
  for (const size_t item : asking) {
    const int64_t slot = front.slots[item];
    Decision& decision = decisions[item];
    if (decision.confidence != decision.confidence) throw NoNumber();
    const double own = decay(slot);
    decision.leaves = decision.confidence > limit(slot);
    if (decision.leaves) {
      loop_.min_exit[slot] = std::min(loop_.min_exit[slot], decision.confidence / own);
    } else {
      const float most = decision.most == decision.most ? decision.most : decision.confidence;
      loop_.max_stay[slot] = std::max(loop_.max_stay[slot], most / own);
    }
  }
  return decisions;
}

// What an item's confidence has to exceed.
float Exits::limit(int64_t slot) const { return (float)(loop_.thresholds[slot] * decay(slot)); }

void Exits::similarities(const Front& front, const std::vector<size_t>& asking, const std::vector<float>& previous,
                         std::vector<Decision>& decisions) const {
  const int width = rows_.width();
  const auto length = [&](const float* state) { return std::max(std::sqrt(dot(state, state, width)), 1e-8f); };
  for (const size_t item : asking) {
    const float *state = front.state(item), *before = previous.data() + item * width;
    const float cosine = dot(state, before, width) / (length(state) * length(before));
    decisions[item].confidence = cosine < 0 ? 0 : cosine > 1 ? 1 : cosine;
  }
}

// By the exit heads, of some items.
std::vector<float> Exits::head_confidences(const Front& front, int layer, const std::vector<size_t>& chosen) const {
  const ExitHead& head = loop_.exit_heads[layer - 1];
  std::vector<float> states, odds(chosen.size());
  Positions own;
  for (const size_t item : chosen) {
    states.insert(states.end(), front.state(item), front.state(item) + rows_.width());
    own.slots.push_back(front.slots[item]);
    own.positions.push_back(front.positions[item]);
  }
  if (loop_.head_attention == nullptr) {
    log_odds(rows_.team, head, rows_.width(), states.data(), (int)chosen.size(), odds.data());
  } else if (!log_odds(rows_.team, head, *loop_.head_attention, layer, rows_.width(), states.data(), own.items(),
                       odds.data())) {
    throw ThereAlready();
  }
  for (float& each : odds) each = 1 / (1 + exponential(-each));
  return odds;
}

int Exits::next_remembered(int layer) const {
  return loop_.head_attention == nullptr ? loop_.last_layer : next_asked(layer);
}

void Exits::remember(const Front& front, int layer, bool all) const {
  if (loop_.head_attention == nullptr || !asks_after(layer)) return;
  std::vector<size_t> chosen;
  for (size_t item = 0; item < front.size(); item++) {
    if (all || !front.asks[item]) chosen.push_back(item);
  }
  if (!chosen.empty()) head_confidences(front, layer, chosen);
}

void Exits::confidences(const Front& front, int layer, const std::vector<size_t>& asking,
                        const std::vector<float>& previous, std::vector<Decision>& decisions) const {
  if (loop_.measure == Measure::SATURATION) {
    similarities(front, asking, previous, decisions);
  } else if (loop_.measure == Measure::EXIT_HEAD) {
    const std::vector<float> found = head_confidences(front, layer, asking);
    for (size_t place = 0; place < asking.size(); place++) decisions[asking[place]].confidence = found[place];
  } else {
    lm_head_confidences(front, layer, asking, decisions);
  }
}

// And the tokens.
void Exits::lm_head_confidences(const Front& front, int layer, const std::vector<size_t>& asking,
                                std::vector<Decision>& decisions) const {
  std::vector<float> states, limits;
  for (const size_t item : asking) {
    states.insert(states.end(), front.state(item), front.state(item) + rows_.width());
  }
  adapt(states.data(), (int)asking.size(), layer);
  if (loop_.screens_response && loop_.measure == Measure::SOFTMAX) {
    for (const size_t item : asking) limits.push_back(limit(front.slots[item]));
    const std::vector<Screened> found = ask_screen(states.data(), (int)asking.size(), limits.data());
    for (size_t place = 0; place < asking.size(); place++) {
      Decision& decision = decisions[asking[place]];
      decision.confidence = found[place].low;
      decision.most = found[place].high;
      decision.token = found[place].token;
    }
    return;
  }
  const bool entropy = loop_.measure == Measure::ENTROPY;
  const std::vector<Top> tops = early_tops(states, (int)asking.size(), entropy ? Sums::ENTROPY : Sums::TOTAL);
  const auto confidence = [&](const Top& own) {
    switch (loop_.measure) {
      case Measure::ENTROPY: return own.negentropy(rows_.decoder.head.outputs);
      case Measure::SOFTMAX_MAX: return 1 / own.total;
      default: return own.response();
    }
  };
  for (size_t place = 0; place < asking.size(); place++) {
    decisions[asking[place]].confidence = confidence(tops[place]);
    decisions[asking[place]].token = tops[place].token;
  }
}

// The whole of it; with a screen in float32, whatever the decoder's precision.
const Matrix& Exits::lm_head() const { return loop_.screen == nullptr ? rows_.decoder.head : *loop_.screen->exact; }

std::vector<Screened> Exits::ask_screen(const float* states, int items, const float* limits) const {
  const std::vector<Screened> found = screened(rows_.team, *loop_.screen, epsilon(), states, items, limits);
  for (const Screened& each : found) {
    loop_.screened[0]++;
    loop_.screened[each.fell_back ? 2 : 1] += each.fell_back ? 1 : each.candidates;
  }
  return found;
}

// What items choose from the whole head; as `top`.
std::vector<Top> Exits::all_tops(const float* states, int items, Sums sums, const std::vector<int64_t>& wanted) const {
  if (loop_.screen == nullptr || sums != Sums::NONE || !wanted.empty()) {
    return top(rows_.team, lm_head(), epsilon(), states, items, sums, wanted.empty() ? nullptr : wanted.data());
  }
  std::vector<Top> tops(items);
  const std::vector<Screened> found = ask_screen(states, items, nullptr);
  for (int item = 0; item < items; item++) tops[item].token = found[item].token;
  return tops;
}

bool Exits::is_listed(int layer) const {
  return loop_.shortlist != nullptr && (loop_.shortlist_at_full_depth || layer < (int)rows_.decoder.layers.size());
}

// Makes of the states of items after a layer what its exit reads.
void Exits::adapt(float* states, int items, int layer) const {
  if (loop_.adapters == nullptr || layer >= (int)rows_.decoder.layers.size()) return;
  const Matrix& adapter = *loop_.adapters[layer - 1];
  Prepared& inputs = scratch().inputs;
  prepare(rows_.team, inputs, adapter, states, items);
  const Product product{&adapter, {states, (size_t)rows_.width(), true}};
  multiply_all(rows_.team, inputs, &product, 1);
}

// What exits below full depth choose from. wanted: as in `full_depth`, if any; these are on the shortlist.
std::vector<Top> Exits::early_tops(const std::vector<float>& states, int items, Sums sums,
                                   std::vector<int64_t> wanted) const {
  if (loop_.shortlist == nullptr) return all_tops(states.data(), items, sums, wanted);
  const int64_t *first = loop_.shortlisted, *last = first + loop_.shortlist->outputs;
  for (int64_t& token : wanted) {
    if (token >= 0) token = std::lower_bound(first, last, token) - first;
  }
  const int64_t* places = wanted.empty() ? nullptr : wanted.data();
  std::vector<Top> tops = top(rows_.team, *loop_.shortlist, epsilon(), states.data(), items, sums, places);
  for (Top& each : tops) each.token = loop_.shortlisted[each.token];
  return tops;
}

void Exits::note(std::vector<Left>& left, std::vector<float>& unasked, const Front& front, size_t item, int layer,
                 const Decision& decision) const {
  left.push_back({front.slots[item], layer, decision.confidence, decision.token});
  if (decision.token < 0) {
    unasked.insert(unasked.end(), front.state(item), front.state(item) + rows_.width());
  }
}

void Exits::find_tokens(std::vector<Left>& left, std::vector<float>& states) const {
  std::vector<Left*> early, unasked;
  for (Left& each : left) {
    if (each.token < 0) unasked.push_back(&each);
  }
  for (size_t first = 0; first < unasked.size();) {
    size_t next = first;
    while (next < unasked.size() && unasked[next]->layer == unasked[first]->layer) next++;
    adapt(states.data() + first * rows_.width(), (int)(next - first), unasked[first]->layer);
    first = next;
  }
  for (Left* each : unasked) {
    if (is_listed(each->layer)) early.push_back(each);
  }
  const size_t rest = unasked.size() - early.size();
  if (!early.empty()) {
    const std::vector<Top> tops = early_tops(states, (int)early.size(), Sums::NONE);
    for (size_t i = 0; i < early.size(); i++) early[i]->token = tops[i].token;
  }
  if (rest == 0) return;
  const float* others = states.data() + early.size() * rows_.width();
  const std::vector<Top> tops = all_tops(others, (int)rest, Sums::NONE);
  for (size_t i = 0; i < rest; i++) unasked[early.size() + i]->token = tops[i].token;
}

std::vector<Top> Exits::full_depth(const std::vector<float>& states, int items, Sums sums,
                                   const std::vector<int64_t>& wanted) const {
  if (is_listed(loop_.last_layer)) return early_tops(states, items, sums, wanted);
  return all_tops(states.data(), items, sums, wanted);
}

}  // namespace early_exit
