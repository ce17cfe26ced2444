#include "loop.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "attention.h"

namespace early_exit {
namespace {

struct NoNumber {};
struct ThereAlready {};

// Items that go through the layers together, ordered by slot and position, and their states.
struct Front {
  std::vector<int64_t> slots, positions;
  std::vector<uint8_t> asks;  // may leave early: the token in flight of a row
  std::vector<float> states;
  size_t size() const { return slots.size(); }
};

class Decoding {
 public:
  Decoding(Team& team, const Decoder& decoder, const Loop& loop, const KVCache& cache, const SourceCache& sources)
      : team_(team), decoder_(decoder), loop_(loop), cache_(cache), sources_(sources) {}

  Stop run() {
    while (true) {
      for (int64_t slot = 0; slot < loop_.slots; slot++) {
        if (occupied(slot) && loop_.position[slot] >= cache_.capacity) return Stop::NO_ROOM;
      }
      any_ended_ = false;
      if (loop_.verify == Verify::NONE) {
        step(next_group());
      } else {
        step_drafts();
      }
      if (any_ended_) return Stop::ENDED;
    }
  }

 private:
  Team& team_;
  const Decoder& decoder_;
  const Loop& loop_;
  const KVCache& cache_;
  const SourceCache& sources_;
  bool any_ended_ = false;
  int width() const { return decoder_.sizes.d_model; }

  bool occupied(int64_t slot) const { return loop_.prompt[slot] >= 0 && !loop_.ended[slot]; }

  float* exit_state(int64_t slot, int64_t position) const {
    return cache_.exit_states + (slot * cache_.capacity + position) * width();
  }

  void leave(const Front& front, size_t item) const {
    const float* state = front.states.data() + item * width();
    std::copy(state, state + width(), exit_state(front.slots[item], front.positions[item]));
  }

  // Adds an item with its state.
  void add(Front& front, int64_t slot, int64_t position, bool asks, const float* state) const {
    front.slots.push_back(slot);
    front.positions.push_back(position);
    front.asks.push_back(asks);
    front.states.insert(front.states.end(), state, state + width());
  }

  void keep(Front& front, const std::vector<uint8_t>& stays) const {
    size_t to = 0;
    for (size_t item = 0; item < front.size(); item++) {
      if (!stays[item]) continue;
      if (to != item) {
        front.slots[to] = front.slots[item];
        front.positions[to] = front.positions[item];
        front.asks[to] = front.asks[item];
        std::copy_n(front.states.begin() + item * width(), width(), front.states.begin() + to * width());
      }
      to++;
    }
    front.slots.resize(to);
    front.positions.resize(to);
    front.asks.resize(to);
    front.states.resize(to * width());
  }

  // Slots of rows that stand at one layer; see `_Call._next_group`.
  std::vector<int64_t> next_group() const {
    std::vector<int64_t> counts(loop_.last_layer + 1), group;
    for (int64_t slot = 0; slot < loop_.slots; slot++) {
      if (occupied(slot)) counts[loop_.layer[slot]]++;
    }
    int chosen = -1;
    for (int layer = loop_.last_layer; layer >= 0 && chosen < 0; layer--) {
      if (counts[layer] >= loop_.enough) chosen = layer;
    }
    for (int layer = loop_.last_layer; chosen < 0 && layer >= 0; layer--) {
      if (counts[layer] == *std::max_element(counts.begin(), counts.end())) chosen = layer;
    }
    for (int64_t slot = 0; slot < loop_.slots; slot++) {
      if (occupied(slot) && loop_.layer[slot] == chosen) group.push_back(slot);
    }
    return group;
  }

  int planned(int64_t slot) const {
    if (loop_.planned == nullptr) return loop_.last_layer;
    const int64_t step = std::min(loop_.step[slot], loop_.planned_steps - 1);
    return (int)loop_.planned[slot * loop_.planned_steps + step];
  }

  bool asks_after(int layer) const {
    return loop_.measure != Measure::NONE && layer >= std::max(loop_.min_layer, 1) && layer <= loop_.max_layer;
  }

  // The next layer after which some item may leave.
  int next_stop(const Front& front, int layer) const {
    int stop = loop_.last_layer;
    bool any = false;
    for (size_t item = 0; item < front.size(); item++) {
      any |= front.asks[item] != 0;
      if (front.asks[item]) stop = std::min(stop, planned(front.slots[item]));
    }
    if (!any || loop_.measure == Measure::NONE) return any ? stop : loop_.last_layer;
    for (int deeper = layer + 1; deeper < loop_.last_layer; deeper++) {
      if (asks_after(deeper)) return deeper;
    }
    return loop_.last_layer;
  }

  void through(Front& front, int first, int last, std::vector<float>* previous) {
    const Items items{(int)front.size(), front.slots.data(), front.positions.data()};
    if (loop_.measure == Measure::SATURATION) {
      if (!early_exit::run(team_, decoder_, items, front.states.data(), first, last - 1, cache_, sources_)) {
        throw ThereAlready();
      }
      *previous = front.states;
      first = last - 1;
    }
    if (!early_exit::run(team_, decoder_, items, front.states.data(), first, last, cache_, sources_)) {
      throw ThereAlready();
    }
  }

  double decay(int64_t slot) const {
    if (loop_.temperature < 0) return 1;
    return 0.9 + 0.1 * std::exp(-loop_.temperature * (double)loop_.step[slot] / (double)loop_.max_new_tokens);
  }

  struct Decision {
    bool leaves = false;
    float confidence = NAN;
    int64_t token = -1;  // where the LM head was read
  };

  // For the items that ask; the others stay.
  std::vector<Decision> decide(const Front& front, int layer, const std::vector<float>& previous) {
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
    const std::vector<Top> tops = confidences(front, layer, asking, previous, decisions);
    for (size_t place = 0; place < asking.size(); place++) {
      const size_t item = asking[place];
      const int64_t slot = front.slots[item];
      Decision& decision = decisions[item];
      if (decision.confidence != decision.confidence) throw NoNumber();
      if (!tops.empty()) decision.token = tops[place].token;
      const double own = decay(slot), relative = decision.confidence / own;
      decision.leaves = decision.confidence > (float)(loop_.thresholds[slot] * own);
      if (decision.leaves) {
        loop_.min_exit[slot] = std::min(loop_.min_exit[slot], relative);
      } else {
        loop_.max_stay[slot] = std::max(loop_.max_stay[slot], relative);
      }
    }
    return decisions;
  }

  std::vector<Top> confidences(const Front& front, int layer, const std::vector<size_t>& asking,
                               const std::vector<float>& previous, std::vector<Decision>& decisions) {
    const size_t size = width();
    if (loop_.measure == Measure::SATURATION) {
      for (const size_t item : asking) {
        const float *state = front.states.data() + item * size, *before = previous.data() + item * size;
        const float lengths = std::max(dot(state, state, width()) * dot(before, before, width()), 1e-16f);
        const float cosine = dot(state, before, width()) / std::sqrt(lengths);
        decisions[item].confidence = cosine < 0 ? 0 : cosine > 1 ? 1 : cosine;
      }
      return {};
    }
    std::vector<float> states;
    for (const size_t item : asking) {
      states.insert(states.end(), front.states.begin() + item * size, front.states.begin() + (item + 1) * size);
    }
    if (loop_.measure == Measure::EXIT_HEAD) {
      std::vector<float> odds(asking.size());
      log_odds(team_, loop_.exit_heads[layer - 1], width(), states.data(), (int)asking.size(), odds.data());
      for (size_t place = 0; place < asking.size(); place++) {
        decisions[asking[place]].confidence = 1 / (1 + exponential(-odds[place]));
      }
      return {};
    }
    adapt(states.data(), (int)asking.size(), layer);
    const std::vector<Top> tops = early_tops(states, (int)asking.size(), true);
    for (size_t place = 0; place < asking.size(); place++) {
      const Top& own = tops[place];
      decisions[asking[place]].confidence = loop_.measure == Measure::SOFTMAX ? own.response() : 1 / own.total;
    }
    return tops;
  }

  bool is_listed(int layer) const {
    return loop_.shortlist != nullptr && (loop_.shortlist_at_full_depth || layer < (int)decoder_.layers.size());
  }

  // Makes of the states of items after a layer what its exit reads.
  void adapt(float* states, int items, int layer) {
    if (loop_.adapters == nullptr || layer >= (int)decoder_.layers.size()) return;
    const Matrix& adapter = *loop_.adapters[layer - 1];
    Prepared& inputs = scratch().inputs;
    prepare(team_, inputs, adapter, states, items);
    const Product product{&adapter, {states, (size_t)width(), true}};
    multiply_all(team_, inputs, &product, 1);
  }

  // What exits below full depth choose from.
  std::vector<Top> early_tops(const std::vector<float>& states, int items, bool totals) {
    if (loop_.shortlist == nullptr) return top(team_, decoder_, decoder_.head, states.data(), items, totals);
    std::vector<Top> tops = top(team_, decoder_, *loop_.shortlist, states.data(), items, totals);
    for (Top& each : tops) each.token = loop_.shortlisted[each.token];
    return tops;
  }

  // A row's next token, which left at a layer. Returns whether it ends the text.
  bool advance(int64_t slot, int64_t token, int layer, float confidence) const {
    const int64_t place = slot * loop_.max_new_tokens + loop_.step[slot];
    loop_.tokens[place] = loop_.token[slot] = token;
    loop_.exit_layers[place] = layer;
    loop_.confidences[place] = confidence;
    loop_.position[slot]++;
    loop_.step[slot]++;
    loop_.layer[slot] = 0;
    return loop_.step[slot] >= loop_.max_new_tokens ||
           std::find(loop_.ends, loop_.ends + loop_.number_of_ends, token) != loop_.ends + loop_.number_of_ends;
  }

  void end(int64_t slot) {
    loop_.ended[slot] = 1;
    any_ended_ = true;
  }

  struct Left {
    int64_t slot;
    int layer;
    float confidence;
    int64_t token;
  };

  // Finds the tokens of rows that left without a question to the LM head; states: of these, in order of their
  // layers; overwritten by what the exits read.
  void find_tokens(std::vector<Left>& left, std::vector<float>& states) {
    std::vector<Left*> early, unasked;
    for (Left& each : left) {
      if (each.token < 0) unasked.push_back(&each);
    }
    for (size_t first = 0; first < unasked.size();) {
      size_t next = first;
      while (next < unasked.size() && unasked[next]->layer == unasked[first]->layer) next++;
      adapt(states.data() + first * width(), (int)(next - first), unasked[first]->layer);
      first = next;
    }
    for (Left* each : unasked) {
      if (is_listed(each->layer)) early.push_back(each);
    }
    const size_t rest = unasked.size() - early.size();
    if (!early.empty()) {
      const std::vector<Top> tops = early_tops(states, (int)early.size(), false);
      for (size_t i = 0; i < early.size(); i++) early[i]->token = tops[i].token;
    }
    if (rest == 0) return;
    const float* others = states.data() + early.size() * width();
    const std::vector<Top> tops = top(team_, decoder_, decoder_.head, others, (int)rest, false);
    for (size_t i = 0; i < rest; i++) unasked[early.size() + i]->token = tops[i].token;
  }

  void note(std::vector<Left>& left, std::vector<float>& unasked, const Front& front, size_t item, int layer,
            const Decision& decision) const {
    left.push_back({front.slots[item], layer, decision.confidence, decision.token});
    if (decision.token < 0) {
      const auto state = front.states.begin() + item * width();
      unasked.insert(unasked.end(), state, state + width());
    }
  }

  // `Exits.run` and `Exits.advance`.
  void step(const std::vector<int64_t>& group) {
    Front front;
    int layer = (int)loop_.layer[group[0]];
    for (const int64_t slot : group) {
      const int64_t position = loop_.position[slot];
      const float* state = layer == 0 ? loop_.embedding + loop_.token[slot] * width() : exit_state(slot, position);
      add(front, slot, position, true, state);
    }
    int64_t others = -(int64_t)group.size();
    for (int64_t slot = 0; slot < loop_.slots; slot++) others += occupied(slot);
    std::vector<Left> left;
    std::vector<float> previous, unasked;
    while (front.size()) {
      const int stop = next_stop(front, layer);
      through(front, layer, stop, &previous);
      layer = stop;
      const bool last = layer == loop_.last_layer;
      std::vector<Decision> decisions(front.size());
      if (!last) decisions = decide(front, layer, previous);
      std::vector<uint8_t> stays(front.size());
      for (size_t item = 0; item < front.size(); item++) {
        stays[item] = !last && !decisions[item].leaves;
        if (stays[item]) continue;
        note(left, unasked, front, item, layer, decisions[item]);
        if (!last) leave(front, item);
      }
      keep(front, stays);
      if ((int64_t)front.size() < loop_.enough && others + (int64_t)left.size() > 0) {
        for (size_t item = 0; item < front.size(); item++) {
          leave(front, item);
          loop_.layer[front.slots[item]] = layer;
        }
        break;
      }
    }
    find_tokens(left, unasked);
    for (const Left& each : left) {
      if (advance(each.slot, each.token, each.layer, each.confidence)) end(each.slot);
    }
  }

  // From here on, `Drafts`.
  int32_t* stands(int64_t slot) const { return loop_.stands + slot * loop_.max_draft; }
  int64_t& count(int64_t slot, int which) const { return loop_.counts[slot * 6 + which]; }
  enum Counts { LAYERS, READS, BLOCKS, DRAFTED, ACCEPTED, DROPPED };

  void step_drafts() {
    std::vector<int64_t> rows;
    Front front;
    for (int64_t slot = 0; slot < loop_.slots; slot++) {
      if (!occupied(slot)) continue;
      rows.push_back(slot);
      const float* state = loop_.embedding + loop_.token[slot] * width();
      add(front, slot, loop_.position[slot], loop_.drafts[slot] < loop_.max_draft, state);
    }
    std::vector<Left> drafted;
    take(front, rows, 0, drafted);
    std::vector<int64_t> last;
    for (const Left& each : drafted) {
      count(each.slot, DRAFTED)++;
      if (advance(each.slot, each.token, each.layer, each.confidence)) last.push_back(each.slot);
    }
    catch_up(last);
    settle(front);
  }

  // Checks the drafts of rows whose last one ends the text.
  void catch_up(const std::vector<int64_t>& rows) {
    if (rows.empty()) return;
    if (loop_.verify == Verify::PARALLEL) {
      for (const int64_t slot : rows) {
        count(slot, ACCEPTED) += loop_.drafts[slot];
        loop_.drafts[slot] = 0;
        end(slot);
      }
      return;
    }
    int layer = loop_.last_layer;
    for (const int64_t slot : rows) layer = std::min(layer, (int)stands(slot)[loop_.drafts[slot] - 1]);
    Front front;
    std::vector<Left> drafted;
    take(front, rows, layer, drafted);
    settle(front);
  }

  // `Drafts._run`: takes items from a layer as deep as they go, and with them the drafts of their rows.
  void take(Front& front, std::vector<int64_t> rows, int layer, std::vector<Left>& drafted) {
    std::vector<float> previous, unasked;
    while (!rows.empty() && layer < loop_.last_layer) {
      join(front, rows, layer);
      const int stop = next_stop(front, layer);
      int reached = stop;
      for (const int64_t slot : rows) {
        for (int i = 0; i < loop_.drafts[slot]; i++) {
          if (stands(slot)[i] > layer) reached = std::min(reached, (int)stands(slot)[i]);
        }
      }
      count_layers(front, reached - layer);
      through(front, layer, reached, &previous);
      layer = reached;
      if (layer == stop && layer < loop_.last_layer) ask(front, previous, rows, layer, drafted, unasked);
    }
    find_tokens(drafted, unasked);
  }

  void count_layers(const Front& front, int layers) const {
    for (size_t item = 0; item < front.size(); item++) {
      count(front.slots[item], LAYERS) += layers;
      if (item == 0 || front.slots[item] != front.slots[item - 1]) count(front.slots[item], READS) += layers;
    }
  }

  void join(Front& front, const std::vector<int64_t>& rows, int layer) const {
    struct Place {
      int64_t slot, position;
      size_t from;  // of the front; its size stands for a draft
    };
    std::vector<Place> places;
    for (size_t item = 0; item < front.size(); item++) places.push_back({front.slots[item], front.positions[item], item});
    for (const int64_t slot : rows) {
      const int64_t first = loop_.position[slot] - loop_.drafts[slot];
      for (int i = 0; i < loop_.drafts[slot]; i++) {
        if (stands(slot)[i] == layer) places.push_back({slot, first + i, front.size()});
      }
    }
    if (places.size() == front.size()) return;
    std::sort(places.begin(), places.end(), [](const Place& one, const Place& other) {
      return one.slot != other.slot ? one.slot < other.slot : one.position < other.position;
    });
    Front together;
    for (const Place& place : places) {
      const bool draft = place.from == front.size();
      const float* state = draft ? exit_state(place.slot, place.position) : front.states.data() + place.from * width();
      add(together, place.slot, place.position, !draft && front.asks[place.from], state);
    }
    front = std::move(together);
  }

  void ask(Front& front, const std::vector<float>& previous, std::vector<int64_t>& rows, int layer,
           std::vector<Left>& drafted, std::vector<float>& unasked) {
    const std::vector<Decision> decisions = decide(front, layer, previous);
    std::vector<uint8_t> gone(loop_.slots), stays(front.size(), 1);
    for (size_t item = 0; item < front.size(); item++) {
      if (!decisions[item].leaves) continue;
      gone[front.slots[item]] = 1;
      note(drafted, unasked, front, item, layer, decisions[item]);
    }
    for (size_t item = 0; item < front.size(); item++) {
      if (!gone[front.slots[item]]) continue;
      leave(front, item);
      stays[item] = 0;
    }
    keep(front, stays);
    for (const int64_t slot : rows) {
      if (!gone[slot]) continue;
      int32_t* own = stands(slot);
      for (int i = 0; i < loop_.drafts[slot]; i++) own[i] = std::max(own[i], layer);
      own[loop_.drafts[slot]++] = layer;
    }
    rows.erase(std::remove_if(rows.begin(), rows.end(), [&](int64_t slot) { return gone[slot] != 0; }), rows.end());
  }

  // Checks drafts whose items have come through all layers, and lets the rows choose from there.
  void settle(Front& front) {
    if (!front.size()) return;
    std::vector<int64_t> wanted(front.size(), -1);  // the token that was drafted in an item's place
    for (size_t item = 0; item < front.size(); item++) {
      const int64_t slot = front.slots[item], first = loop_.position[slot] - loop_.drafts[slot];
      const int64_t draft = front.positions[item] - first;
      if (draft < loop_.drafts[slot]) wanted[item] = text(slot)[loop_.step[slot] - loop_.drafts[slot] + draft];
    }
    const bool shares = loop_.verify == Verify::ROLLBACK;
    if (loop_.verify == Verify::PARALLEL) {
      std::vector<uint8_t> in_flight(front.size());
      for (size_t item = 0; item < front.size(); item++) in_flight[item] = wanted[item] < 0;
      for (size_t item = 0; item < front.size(); item++) {
        if (in_flight[item]) continue;
        count(front.slots[item], ACCEPTED)++;
      }
      keep(front, in_flight);
      wanted.assign(front.size(), -1);
      for (const int64_t slot : front.slots) loop_.drafts[slot] = 0;
    }
    const std::vector<Top> tops =
        is_listed(loop_.last_layer)
            ? early_tops(front.states, (int)front.size(), false)
            : top(team_, decoder_, decoder_.head, front.states.data(), (int)front.size(), shares, wanted.data());
    for (size_t first = 0; first < front.size();) {
      size_t next = first;
      while (next < front.size() && front.slots[next] == front.slots[first]) next++;
      settle_row(front, first, next, tops, wanted);
      first = next;
    }
  }

  void settle_row(const Front& front, size_t first, size_t next, const std::vector<Top>& tops,
                  const std::vector<int64_t>& wanted) {
    const int64_t slot = front.slots[first];
    size_t place = first;
    while (place < next && wanted[place] >= 0 && stays(tops[place], wanted[place])) place++;
    count(slot, BLOCKS)++;
    count(slot, ACCEPTED) += (int64_t)(place - first);
    loop_.drafts[slot] = 0;
    if (place == next) return end(slot);  // all stay, and the last one ends the text
    const int64_t dropped = loop_.position[slot] - front.positions[place];
    drop(slot, dropped);
    loop_.position[slot] -= dropped;
    loop_.step[slot] -= dropped;
    for (int layer = 0; layer < loop_.last_layer; layer++) {
      int64_t& filled = cache_.filled[layer * cache_.slots + slot];
      filled = std::min(filled, front.positions[place] + 1);
    }
    if (advance(slot, tops[place].token, loop_.last_layer, NAN)) end(slot);
  }

  // Notes which tokens at the end of a text are dropped.
  void drop(int64_t slot, int64_t number) {
    const int64_t room = loop_.max_new_tokens * loop_.max_draft;
    for (int64_t place = loop_.step[slot] - number; place < loop_.step[slot]; place++) {
      int32_t* note = loop_.dropped + (slot * room + count(slot, DROPPED)++) * 2;
      note[0] = (int32_t)place;
      note[1] = (int32_t)text(slot)[place];
    }
  }

  bool stays(const Top& full, int64_t draft) const {
    if (loop_.verify == Verify::EXACT) return full.token == draft;
    const float share = exponential(full.wanted - full.first);
    if (loop_.verify == Verify::ROLLBACK) return share / full.total >= loop_.limit;
    return share >= loop_.limit;
  }

  int64_t* text(int64_t slot) const { return loop_.tokens + slot * loop_.max_new_tokens; }
};

}  // namespace

Stop decode(Team& team, const Decoder& decoder, const Loop& loop, const KVCache& cache,
            const SourceCache& sources) {
  try {
    return Decoding(team, decoder, loop, cache, sources).run();
  } catch (const NoNumber&) {
    return Stop::NAN_CONFIDENCE;
  } catch (const ThereAlready&) {
    return Stop::THERE_ALREADY;
  }
}

}  // namespace early_exit
