// N-grams of texts as hashes, and linear scores from them. src/bimo/tasks/classify/grams.py says what an n-gram is; its
// twin and that of the scores stand there and in linear.py.
#ifndef BIMO_GRAMS_H
#define BIMO_GRAMS_H

#include <cstdint>

namespace bimo::grams {

enum Kind { BLANK, MARK, LETTER, HAN };

constexpr int LONGEST_HAN = 4, SHORTEST_LETTERS = 2, LONGEST_LETTERS = 5;
constexpr std::uint32_t EDGE = ' ';

struct Range {
    std::uint32_t first, last;
};
constexpr Range HANS[] = {{0x3005, 0x3007}, {0x3400, 0x4dbf}, {0x4e00, 0x9fff}, {0xf900, 0xfaff}, {0x20000, 0x3ffff}};
constexpr Range LETTERS[] = {{0x30, 0x39}, {0x61, 0x7a}, {0xaa, 0xaa}, {0xb5, 0xb5}, {0xba, 0xba}, {0xc0, 0xd6},
                             {0xd8, 0xf6}, {0xf8, 0x1fff}, {0x2c00, 0x2dff}, {0x3040, 0x31ff}, {0xa000, 0xd7ff},
                             {0xfb00, 0xfdff}, {0xfe70, 0xfefc}, {0xff10, 0xff19}, {0xff41, 0xff5a}, {0xff66, 0xffdc},
                             {0x10000, 0x1efff}};
constexpr Range BLANKS[] = {{0, 0x20}, {0x7f, 0xa0}, {0x2000, 0x200f}, {0x2028, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000}};

template <int N>
constexpr bool among(const Range (&ranges)[N], std::uint32_t character) {
    for (const Range &range : ranges)
        if (character >= range.first && character <= range.last) return true;
    return false;
}

inline Kind kind_of(std::uint32_t character) {
    if (among(HANS, character)) return HAN;
    if (among(LETTERS, character)) return LETTER;
    return among(BLANKS, character) ? BLANK : MARK;
}

// FNV-1a over whole characters, spread at the end (the finaliser of MurmurHash3); the lowest bit says what it is of.
struct Hash {
    std::uint64_t state = 0xcbf29ce484222325;

    void add(std::uint32_t character) { state = (state ^ character) * 0x100000001b3; }
    std::uint64_t of(bool words) const {
        std::uint64_t z = state;
        z = (z ^ (z >> 33)) * 0xff51afd7ed558ccd;
        z = (z ^ (z >> 33)) * 0xc4ceb9fe1a85ec53;
        z ^= z >> 33;
        return (z & ~std::uint64_t(1)) | std::uint64_t(words);
    }
};

// Calls take(hash) for every n-gram of characters[0 .. count). cuts[i] is 1 where a Chinese word begins.
template <class Take>
void each(const std::uint32_t *characters, const std::uint8_t *cuts, std::int64_t count, Take take) {
    std::int64_t before_first = 0, before_end = 0;  // the word before this one; none where it is empty
    const auto word = [&](std::int64_t first, std::int64_t end) {
        Hash one;
        for (std::int64_t i = first; i < end; i++) one.add(characters[i]);
        take(one.of(true));
        if (before_end > before_first) {
            Hash two;
            for (std::int64_t i = before_first; i < before_end; i++) two.add(characters[i]);
            two.add(EDGE);
            for (std::int64_t i = first; i < end; i++) two.add(characters[i]);
            take(two.of(true));
        }
        before_first = first, before_end = end;
    };
    for (std::int64_t at = 0; at < count;) {
        const Kind kind = kind_of(characters[at]);
        std::int64_t end = at + 1;
        if (kind == LETTER || kind == HAN)
            while (end < count && kind_of(characters[end]) == kind) end++;
        if (kind == MARK) word(at, end);
        if (kind == LETTER) {
            word(at, end);
            const std::int64_t length = end - at + 2;  // with an edge on both sides
            for (std::int64_t start = 0; start < length; start++) {
                Hash hash;
                for (int n = 1; n <= LONGEST_LETTERS && start + n <= length; n++) {
                    const std::int64_t place = start + n - 1;
                    hash.add(place == 0 || place == length - 1 ? EDGE : characters[at + place - 1]);
                    if (n >= SHORTEST_LETTERS) take(hash.of(false));
                }
            }
        }
        if (kind == HAN) {
            for (std::int64_t first = at, i = at + 1; i <= end; i++)
                if (i == end || cuts[i]) word(first, i), first = i;
            for (std::int64_t start = at; start < end; start++) {
                Hash hash;
                for (int n = 1; n <= LONGEST_HAN && start + n <= end; n++) {
                    hash.add(characters[start + n - 1]);
                    take(hash.of(false));
                }
            }
        }
        at = end;
    }
}

} // namespace bimo::grams

#endif
