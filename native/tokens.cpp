// The tokens that an automaton allows. src/bimo/generate/constraints/trie.py builds the tree and has the twin.
#include "bimo.h"

#include <cstdint>

std::int32_t bimo_walk_tokens(bimo_token_walk *walk, const std::int32_t *table, const std::uint8_t *expanded) {
    while (walk->node < walk->nodes) {
        const std::int32_t node = walk->node, depth = walk->depths[node], state = walk->states[depth - 1];
        if (!expanded[state]) return state;
        const std::int32_t after = table[std::int64_t{state} * 256 + walk->bytes[node]];
        walk->node = after ? node + 1 : walk->behind[node];
        if (!after) continue;
        walk->states[depth] = after;
        for (std::int32_t token = walk->tokens[node]; token < walk->tokens[node + 1]; token++) {
            walk->allowed[walk->found] = walk->ids[token];
            walk->after[walk->found++] = after;
        }
    }
    return -1;
}
