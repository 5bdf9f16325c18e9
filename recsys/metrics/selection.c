/* The k largest of every row of float32, falling, in one total order.
 *
 * Plain C11 without Python.h; recsys/metrics/selection.py calls it through ctypes, which lets other
 * threads run meanwhile. No global state; a call writes its own rows only.
 *
 * A score and its place become one 64-bit key whose order is the order of the lists, so no two keys
 * are equal. Scores above the k-th of those seen so far are collected; whenever the buffer is
 * full, the k largest of it are kept. Most scores are only compared, many at a time.
 */
#include <stdint.h>
#include <string.h>

#include "../native.h"

#define ABI 1


enum { AT_ONCE = 64 /* scores compared together */, FEW = 16 /* sorted by insertion */ };

int64_t recsys_abi(void) { return ABI; }

/* Larger keys come first: higher scores (NaN the highest, -0 as 0), then lower places. */
static uint64_t key_of(float score, uint32_t place) {
    uint32_t bits;
    score += 0.0f;
    memcpy(&bits, &score, sizeof bits);
    bits = bits >> 31 ? ~bits : bits | 0x80000000u;
    if (score != score) bits = 0xffffffffu;
    return (uint64_t)bits << 32 | (0xffffffffu - place);
}

static float score_of(uint64_t key) {
    uint32_t bits = (uint32_t)(key >> 32);
    float score;
    bits = bits >> 31 ? bits & 0x7fffffffu : ~bits;
    memcpy(&score, &bits, sizeof score);
    return score;
}

/* Splits keys of [low, high], at least two: those up to the returned place are not below the others,
 * and both parts have one or more. */
static int64_t split(uint64_t *keys, int64_t low, int64_t high) {
    const uint64_t a = keys[low], b = keys[low + (high - low) / 2], c = keys[high];
    const uint64_t most = a > b ? a : b, least = a > b ? b : a;
    const uint64_t middle = c > most ? most : c < least ? least : c;
    for (;;) {
        while (keys[low] > middle) ++low;
        while (keys[high] < middle) --high;
        if (low >= high) return high;
        const uint64_t other = keys[low];
        keys[low++] = keys[high];
        keys[high--] = other;
    }
}

/* Brings the k largest of n keys to the front, in any order. */
static void keep_largest(uint64_t *keys, int64_t n, int64_t k) {
    int64_t low = 0, high = n - 1;
    while (low < high) {
        const int64_t end = split(keys, low, high);
        if (k - 1 <= end) high = end;
        else low = end + 1;
    }
}

static void sort_falling(uint64_t *keys, int64_t n) {
    while (n > FEW) {
        const int64_t first = split(keys, 0, n - 1) + 1;
        if (first < n - first) sort_falling(keys, first), keys += first, n -= first;
        else sort_falling(keys + first, n - first), n = first;
    }
    for (int64_t i = 1; i < n; ++i) {
        const uint64_t key = keys[i];
        int64_t j = i;
        for (; j > 0 && keys[j - 1] < key; --j) keys[j] = keys[j - 1];
        keys[j] = key;
    }
}

/* The k largest of rows first to last of a matrix whose rows are `stride` apart. Where fewer than k
 * are above -inf, the rest is -inf and -1. `keys` has room for 2 k + 2 * AT_ONCE. */
CLONES void recsys_select(const float *scores, int64_t stride, int64_t size, int64_t k,
                          int64_t first, int64_t last, uint64_t *keys, float *values,
                          int64_t *places) {
    const int64_t room = 2 * k + AT_ONCE;
    for (int64_t row = first; row < last; ++row) {
        const float *from = scores + row * stride;
        float least = -__builtin_inff();
        int64_t held = 0;
        for (int64_t start = 0; start < size; start += AT_ONCE) {
            int any = 1;
            int64_t stop = size;
            if (start + AT_ONCE <= size) {
                any = 0, stop = start + AT_ONCE;
                for (int64_t i = start; i < start + AT_ONCE; ++i) any |= !(from[i] <= least);
            }
            if (!any) continue;
            for (int64_t i = start; i < stop; ++i)
                if (!(from[i] <= least)) keys[held++] = key_of(from[i], (uint32_t)i);
            if (held > room) {
                keep_largest(keys, held, k);
                held = k;
                uint64_t lowest = keys[0];
                for (int64_t i = 1; i < k; ++i) lowest = keys[i] < lowest ? keys[i] : lowest;
                least = score_of(lowest);
            }
        }
        if (held > k) keep_largest(keys, held, k), held = k;
        sort_falling(keys, held);
        for (int64_t i = 0; i < k; ++i) {
            values[row * k + i] = i < held ? score_of(keys[i]) : -__builtin_inff();
            places[row * k + i] = i < held ? (int64_t)(0xffffffffu - (uint32_t)keys[i]) : -1;
        }
    }
}
