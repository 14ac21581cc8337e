// Text through a suffix automaton (Blumer et al. 1985). src/bimo/evaluate/copying.py builds it and has the twin.
#include "bimo.h"

#include <algorithm>
#include <cstdint>

namespace {

// The state after one more character, or -1.
std::int32_t after(const bimo_automaton &automaton, std::int32_t state, std::uint32_t character) {
    const std::uint32_t *first = automaton.characters + automaton.offsets[state];
    const std::uint32_t *last = automaton.characters + automaton.offsets[state + 1];
    const std::uint32_t *place = std::lower_bound(first, last, character);
    return place != last && *place == character ? automaton.next[place - automaton.characters] : -1;
}

} // namespace

void bimo_walk_suffixes(const bimo_automaton *automaton, const uint32_t *characters, int64_t count, int32_t *found) {
    std::int32_t state = 0, matched = 0;
    for (std::int64_t i = 0; i < count; i++) {
        std::int32_t next = after(*automaton, state, characters[i]);
        while (next < 0 && state > 0) {
            state = automaton->shorter[state];
            matched = automaton->length[state];
            next = after(*automaton, state, characters[i]);
        }
        if (next < 0) continue;
        state = next;
        found[state] = std::max(found[state], ++matched);
    }
}
