#include "drafts.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "attention.h"

namespace early_exit {
namespace {

// Of the counts of a row.
enum Counts { LAYERS, READS, BLOCKS, DRAFTED, ACCEPTED, DROPPED };

}  // namespace

void Drafts::step() {
  std::vector<int64_t> rows;
  Front front{rows_.width()};
  for (int64_t slot = 0; slot < loop_.slots; slot++) {
    if (!rows_.occupied(slot) || loop_.waits[slot] != DRAFTING) continue;
    rows.push_back(slot);
    front.add(slot, loop_.position[slot], loop_.since[slot] < loop_.max_draft, rows_.embedding(slot));
  }
  std::vector<Left> drafted;
  const int layer = take(front, rows, drafted);
  for (const Left& each : drafted) {
    count(each.slot, DRAFTED)++;
    if (rows_.advance(each.slot, each.token, each.layer, each.confidence)) finish(each.slot);
  }
  for (size_t item = 0; item < front.size(); item++) rows_.leave(front, item);
  for (const int64_t slot : rows) {
    loop_.waits[slot] = layer;
    for (int i = 0; i < loop_.drafts[slot]; i++) stands(slot)[i] = std::max(stands(slot)[i], layer);
  }
  if (enough_wait()) block();
}

// The last draft of a row ends its text.
void Drafts::finish(int64_t slot) {
  if (loop_.verify != Verify::PARALLEL) {
    loop_.waits[slot] = FINISHED;
    return;
  }
  count(slot, ACCEPTED) += loop_.drafts[slot];
  rows_.end(slot);
}

// Whether a block is to run; see `Drafts._enough_wait`.
bool Drafts::enough_wait() const {
  int64_t waiting = 0, rows = 0;
  for (int64_t slot = 0; slot < loop_.slots; slot++) {
    if (!rows_.occupied(slot)) continue;
    rows++;
    waiting += loop_.waits[slot] != DRAFTING;
  }
  return waiting > 0 && (waiting == rows || (waiting >= loop_.enough && waiting >= loop_.block_share * (double)rows));
}

// Takes tokens in flight to where they leave, or past the last question, and with them the drafts of their rows.
// Returns the layer where those have come that did not leave, which the front and `rows` are then.
int Drafts::take(Front& front, std::vector<int64_t>& rows, std::vector<Left>& drafted) {
  std::vector<float> previous, unasked;
  int layer = 0;
  while (std::find(front.asks.begin(), front.asks.end(), 1) != front.asks.end()) {
    join(front, rows, layer);
    const int stop = exits_.next_stop(front, layer);
    if (stop == loop_.last_layer) break;
    const int reached = std::min(stop, next_stand(rows, layer));
    count_layers(front, reached - layer);
    exits_.through(front, layer, reached, &previous);
    layer = reached;
    if (layer == stop) ask(front, previous, rows, layer, drafted, unasked);
  }
  exits_.find_tokens(drafted, unasked);
  return layer;
}

// Takes tokens in flight that wait for it to full depth, and the drafts before them; and those of all other rows, if
// they are checked there anyway.
void Drafts::block() {
  const bool checks = loop_.verify != Verify::PARALLEL;
  std::vector<int64_t> rows;
  for (int64_t slot = 0; slot < loop_.slots; slot++) {
    const bool waits = loop_.waits[slot] != DRAFTING;
    if (rows_.occupied(slot) && (waits || (checks && loop_.drafts[slot]))) rows.push_back(slot);
  }
  Front front{rows_.width()};
  std::vector<float> previous;
  for (int layer = next_stand(rows, -1); layer < loop_.last_layer;) {
    join(front, rows, layer);
    const int reached = std::min(exits_.next_remembered(layer), next_stand(rows, layer));
    count_layers(front, reached - layer);
    exits_.through(front, layer, reached, &previous);
    layer = reached;
    exits_.remember(front, layer, true);
  }
  settle(front, rows);
}

// The next layer where something of some rows stands; the last one where nothing does.
int Drafts::next_stand(const std::vector<int64_t>& rows, int layer) const {
  int next = loop_.last_layer;
  for (const int64_t slot : rows) {
    for (int i = 0; i < loop_.drafts[slot]; i++) {
      if (stands(slot)[i] > layer) next = std::min(next, (int)stands(slot)[i]);
    }
    if (loop_.waits[slot] > layer) next = std::min(next, (int)loop_.waits[slot]);
  }
  return next;
}

void Drafts::count_layers(const Front& front, int layers) const {
  for (size_t item = 0; item < front.size(); item++) {
    count(front.slots[item], LAYERS) += layers;
    if (item == 0 || front.slots[item] != front.slots[item - 1]) count(front.slots[item], READS) += layers;
  }
}

void Drafts::join(Front& front, const std::vector<int64_t>& rows, int layer) const {
  struct Place {
    int64_t slot, position;
    size_t from;  // of the front; its size stands for an item that waited
  };
  std::vector<Place> places;
  for (size_t item = 0; item < front.size(); item++) places.push_back({front.slots[item], front.positions[item], item});
  for (const int64_t slot : rows) {
    const int64_t first = loop_.position[slot] - loop_.drafts[slot];
    for (int i = 0; i < loop_.drafts[slot]; i++) {
      if (stands(slot)[i] == layer) places.push_back({slot, first + i, front.size()});
    }
    if (loop_.waits[slot] == layer) places.push_back({slot, loop_.position[slot], front.size()});
  }
  if (places.size() == front.size()) return;
  std::sort(places.begin(), places.end(), [](const Place& one, const Place& other) {
    return one.slot != other.slot ? one.slot < other.slot : one.position < other.position;
  });
  Front together{rows_.width()};
  for (const Place& place : places) {
    const bool waited = place.from == front.size();
    const float* state = waited ? rows_.exit_state(place.slot, place.position) : front.state(place.from);
    together.add(place.slot, place.position, !waited && front.asks[place.from], state);
  }
  front = std::move(together);
}

void Drafts::ask(Front& front, const std::vector<float>& previous, std::vector<int64_t>& rows, int layer,
                 std::vector<Left>& drafted, std::vector<float>& unasked) {
  exits_.remember(front, layer, false);
  const std::vector<Decision> decisions = exits_.decide(front, layer, previous);
  std::vector<uint8_t> gone(loop_.slots), stays(front.size(), 1);
  for (size_t item = 0; item < front.size(); item++) {
    if (!decisions[item].leaves) continue;
    gone[front.slots[item]] = 1;
    exits_.note(drafted, unasked, front, item, layer, decisions[item]);
  }
  for (size_t item = 0; item < front.size(); item++) {
    if (!gone[front.slots[item]]) continue;
    rows_.leave(front, item);
    stays[item] = 0;
  }
  front.keep(stays);
  for (const int64_t slot : rows) {
    if (!gone[slot]) continue;
    int32_t* own = stands(slot);
    for (int i = 0; i < loop_.drafts[slot]; i++) own[i] = std::max(own[i], layer);
    own[loop_.drafts[slot]++] = layer;
    loop_.since[slot]++;
  }
  rows.erase(std::remove_if(rows.begin(), rows.end(), [&](int64_t slot) { return gone[slot] != 0; }), rows.end());
}

// Checks drafts whose items have come through all layers, and lets the rows choose from there.
void Drafts::settle(Front& front, const std::vector<int64_t>& rows) {
  std::vector<int64_t> wanted(front.size(), -1);  // the token that was drafted in an item's place
  for (size_t item = 0; item < front.size(); item++) {
    const int64_t slot = front.slots[item], first = loop_.position[slot] - loop_.drafts[slot];
    const int64_t draft = front.positions[item] - first;
    if (draft < loop_.drafts[slot]) wanted[item] = rows_.text(slot)[loop_.step[slot] - loop_.drafts[slot] + draft];
  }
  if (loop_.verify == Verify::PARALLEL) {
    std::vector<uint8_t> in_flight(front.size());
    for (size_t item = 0; item < front.size(); item++) in_flight[item] = wanted[item] < 0;
    front.keep(in_flight);
    wanted.assign(front.size(), -1);
    for (const int64_t slot : rows) {
      count(slot, ACCEPTED) += loop_.drafts[slot];
      loop_.drafts[slot] = 0;
    }
  }
  const Sums sums = loop_.verify == Verify::ROLLBACK ? Sums::TOTAL : Sums::NONE;
  const bool asks = loop_.verify == Verify::ROLLBACK || loop_.verify == Verify::LENIENT;
  const std::vector<Top> tops =
      exits_.full_depth(front.states, (int)front.size(), sums, asks ? wanted : std::vector<int64_t>());
  for (size_t first = 0; first < front.size();) {
    size_t next = first;
    while (next < front.size() && front.slots[next] == front.slots[first]) next++;
    settle_row(front, first, next, tops, wanted);
    first = next;
  }
}

void Drafts::settle_row(const Front& front, size_t first, size_t next, const std::vector<Top>& tops,
                        const std::vector<int64_t>& wanted) {
  const int64_t slot = front.slots[first];
  size_t place = first;
  while (place < next && wanted[place] >= 0 && stays(tops[place], wanted[place])) place++;
  count(slot, BLOCKS)++;
  count(slot, ACCEPTED) += (int64_t)(place - first);
  loop_.drafts[slot] = 0;
  if (place == next) {  // all stay, and nothing was in flight after them
    if (loop_.waits[slot] == FINISHED) rows_.end(slot);
    return;
  }
  loop_.waits[slot] = DRAFTING;
  loop_.since[slot] = 0;
  const int64_t dropped = loop_.position[slot] - front.positions[place];
  drop(slot, dropped);
  loop_.position[slot] -= dropped;
  loop_.step[slot] -= dropped;
  rows_.truncate(slot, front.positions[place] + 1);
  if (rows_.advance(slot, tops[place].token, loop_.last_layer, NAN)) rows_.end(slot);
}

// Notes which tokens at the end of a text are dropped.
void Drafts::drop(int64_t slot, int64_t number) {
  const int64_t room = loop_.max_new_tokens * loop_.max_draft;
  for (int64_t place = loop_.step[slot] - number; place < loop_.step[slot]; place++) {
    int32_t* note = loop_.dropped + (slot * room + count(slot, DROPPED)++) * 2;
    note[0] = (int32_t)place;
    note[1] = (int32_t)rows_.text(slot)[place];
  }
}

bool Drafts::stays(const Top& full, int64_t draft) const {
  if (loop_.verify == Verify::EXACT) return full.token == draft;
  const float share = exponential(full.wanted - full.first);
  if (loop_.verify == Verify::ROLLBACK) return share / full.total >= loop_.limit;
  return share >= loop_.limit;
}

}  // namespace early_exit
