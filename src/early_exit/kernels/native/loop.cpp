#include "loop.h"

#include <algorithm>
#include <vector>

#include "drafts.h"
#include "exits.h"
#include "rows.h"

namespace early_exit {
namespace {

class Decoding {
 public:
  explicit Decoding(const DecodedRows& rows) : rows_(rows), exits_(rows_), drafts_(rows_, exits_), loop_(rows.loop) {}

  Stop run() {
    while (true) {
      for (int64_t slot = 0; slot < loop_.slots; slot++) {
        if (rows_.occupied(slot) && loop_.position[slot] >= rows_.cache.capacity) return Stop::NO_ROOM;
      }
      rows_.any_ended = false;
      if (loop_.verify == Verify::NONE) {
        step(next_group());
      } else {
        drafts_.step();
      }
      if (rows_.any_ended) return Stop::ENDED;
    }
  }

 private:
  DecodedRows rows_;
  Exits exits_;
  Drafts drafts_;
  const Loop& loop_;

  // Slots of rows that stand at one layer; see `_Call._next_group`.
  std::vector<int64_t> next_group() const {
    std::vector<int64_t> counts(loop_.last_layer + 1), group;
    for (int64_t slot = 0; slot < loop_.slots; slot++) {
      if (rows_.occupied(slot)) counts[loop_.layer[slot]]++;
    }
    int chosen = -1;
    for (int layer = loop_.last_layer; layer >= 0 && chosen < 0; layer--) {
      if (counts[layer] >= loop_.enough) chosen = layer;
    }
    for (int layer = loop_.last_layer; chosen < 0 && layer >= 0; layer--) {
      if (counts[layer] == *std::max_element(counts.begin(), counts.end())) chosen = layer;
    }
    for (int64_t slot = 0; slot < loop_.slots; slot++) {
      if (rows_.occupied(slot) && loop_.layer[slot] == chosen) group.push_back(slot);
    }
    return group;
  }

  // `Exits.run` and `Exits.advance`.
  void step(const std::vector<int64_t>& group) {
    Front front{rows_.width()};
    int layer = (int)loop_.layer[group[0]];
    for (const int64_t slot : group) {
      const int64_t position = loop_.position[slot];
      front.add(slot, position, true, layer == 0 ? rows_.embedding(slot) : rows_.exit_state(slot, position));
    }
    int64_t others = -(int64_t)group.size();
    for (int64_t slot = 0; slot < loop_.slots; slot++) others += rows_.occupied(slot);
    std::vector<Left> left;
    std::vector<float> previous, unasked;
    while (front.size()) {
      const int stop = exits_.next_stop(front, layer);
      exits_.through(front, layer, stop, &previous);
      layer = stop;
      const bool last = layer == loop_.last_layer;
      std::vector<Decision> decisions(front.size());
      if (!last) decisions = exits_.decide(front, layer, previous);
      std::vector<uint8_t> stays(front.size());
      for (size_t item = 0; item < front.size(); item++) {
        stays[item] = !last && !decisions[item].leaves;
        if (stays[item]) continue;
        exits_.note(left, unasked, front, item, layer, decisions[item]);
        if (!last) rows_.leave(front, item);
      }
      front.keep(stays);
      if ((int64_t)front.size() < loop_.enough && others + (int64_t)left.size() > 0) {
        for (size_t item = 0; item < front.size(); item++) {
          rows_.leave(front, item);
          loop_.layer[front.slots[item]] = layer;
        }
        break;
      }
    }
    exits_.find_tokens(left, unasked);
    for (const Left& each : left) {
      if (rows_.advance(each.slot, each.token, each.layer, each.confidence)) rows_.end(each.slot);
    }
  }
};

}  // namespace

Stop decode(Team& team, const Decoder& decoder, const Loop& loop, const KVCache& cache,
            const SourceCache& sources) {
  try {
    return Decoding({team, decoder, loop, cache, sources}).run();
  } catch (const NoNumber&) {
    return Stop::NAN_CONFIDENCE;
  } catch (const ThereAlready&) {
    return Stop::THERE_ALREADY;
  }
}

}  // namespace early_exit
