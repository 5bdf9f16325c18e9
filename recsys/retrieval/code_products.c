/* Inner products of queries with vectors in short form, on the CPU.
 *
 * Plain C11 without Python.h; recsys/retrieval/code_products.py calls it through ctypes, which lets
 * other threads run meanwhile. A call writes its own columns only and every sum has a fixed order,
 * so results do not depend on how rows are split over threads. No global state.
 */
#include <stdint.h>
#include <string.h>

#include "../native.h"

#define ABI 1

#if !defined(__GNUC__)
#error "needs the vector types of gcc or clang; recsys works without this file, slower"
#endif
#define INLINE static inline __attribute__((always_inline))

enum {
    LANES = 8,
    ROWS = 8,    /* unpacked together */
    TILE = 4,    /* queries for which a code is unpacked once */
    CHUNK = 256, /* bytes of a row that are unpacked at once */
    AHEAD = 8
};
typedef float lanes_t __attribute__((vector_size(4 * LANES)));
typedef double wide_t __attribute__((vector_size(8 * LANES)));

int64_t recsys_abi(void) { return ABI; }

/* Sums of neighbours within groups of 2 n lanes, those of a then those of b. */
#define NEIGHBOURS(a, b, n)                                                                        \
    (n == 4   ? __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +                          \
                    __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15)                      \
     : n == 2 ? __builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13) +                          \
                    __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15)                      \
              : __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14) +                         \
                    __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15))

/* Adds up the lanes of every row. */
INLINE void totals(const lanes_t *s, float *out) {
    const lanes_t a = NEIGHBOURS(s[0], s[1], 4), b = NEIGHBOURS(s[2], s[3], 4);
    const lanes_t c = NEIGHBOURS(s[4], s[5], 4), d = NEIGHBOURS(s[6], s[7], 4);
    const lanes_t e = NEIGHBOURS(a, b, 2), f = NEIGHBOURS(c, d, 2);
    const lanes_t g = NEIGHBOURS(e, f, 1);
    memcpy(out, &g, sizeof g);
}

/* Levels of `groups` times LANES bytes of ROWS rows, which are `stride` apart: LANES of the first
 * row, of the second, ..., then the next LANES of the first. */
INLINE void unpack(const uint8_t *codes, int64_t stride, int64_t groups, float *low, float *high,
                   const int halves) {
    for (int64_t r = 0; r < ROWS; ++r) {
        for (int64_t g = 0; g < groups; ++g) {
            const uint8_t *code = codes + r * stride + g * LANES;
            float *l = low + (g * ROWS + r) * LANES, *h = high + (g * ROWS + r) * LANES;
            for (int j = 0; j < LANES; ++j) l[j] = (float)(halves ? code[j] & 15 : code[j]);
            if (halves)
                for (int j = 0; j < LANES; ++j) h[j] = (float)(code[j] >> 4);
        }
    }
}

INLINE void add_products(const float *weights, const float *levels, int64_t groups, lanes_t *sums) {
    lanes_t s[ROWS], w, x;
    for (int r = 0; r < ROWS; ++r) s[r] = sums[r];
    for (int64_t g = 0; g < groups; ++g) {
        memcpy(&w, weights + g * LANES, sizeof w);
        for (int r = 0; r < ROWS; ++r) {
            memcpy(&x, levels + (g * ROWS + r) * LANES, sizeof x);
            s[r] += w * x;
        }
    }
    for (int r = 0; r < ROWS; ++r) sums[r] = s[r];
}

/* Some queries with rows first to last. Weights of a query: one for every byte, filled up to whole
 * LANES with zeros; with `halves` those of low halves of bytes, then those of high ones. */
INLINE void level_rows(const float *weights, const float *bias, const uint8_t *codes, int64_t width,
                       float *out, int64_t columns, int64_t first, int64_t last, const int queries,
                       const int halves) {
    const int64_t padded = (width + LANES - 1) / LANES * LANES, stride = padded * (1 + halves);
    float low[ROWS * CHUNK], high[ROWS * CHUNK], found[ROWS];
    uint8_t copy[ROWS * CHUNK];
    memset(copy, 0, sizeof copy);
    for (int64_t row = first; row < last; row += ROWS) {
        const int64_t rows = last - row < ROWS ? last - row : ROWS;
        lanes_t sums[TILE][ROWS];
        for (int q = 0; q < queries; ++q)
            for (int r = 0; r < ROWS; ++r) sums[q][r] = (lanes_t){0};
        for (int64_t start = 0; start < width; start += CHUNK) {
            const int64_t size = width - start < CHUNK ? width - start : CHUNK;
            const int64_t groups = (size + LANES - 1) / LANES;
            const uint8_t *from = codes + row * width + start;
            const uint8_t *end = from + (ROWS - 1) * width + groups * LANES;
            if (rows == ROWS && end <= codes + columns * width) {
                unpack(from, width, groups, low, high, halves);
            } else { /* bytes behind a row have weights of zero, but not all are there to read */
                for (int64_t r = 0; r < rows; ++r) {
                    memcpy(copy + r * CHUNK, from + r * width, (size_t)size);
                    memset(copy + r * CHUNK + size, 0, (size_t)(groups * LANES - size));
                }
                unpack(copy, CHUNK, groups, low, high, halves);
            }
            for (int q = 0; q < queries; ++q) {
                add_products(weights + q * stride + start, low, groups, sums[q]);
                if (halves)
                    add_products(weights + q * stride + padded + start, high, groups, sums[q]);
            }
        }
        for (int q = 0; q < queries; ++q) {
            totals(sums[q], found);
            for (int64_t r = 0; r < rows; ++r) out[q * columns + row + r] = bias[q] + found[r];
        }
    }
}

/* out[q, row] = bias[q] + sum of weights[q] times the levels of a row: bytes, or halves of them.
 * Shapes: weights (queries, 1 or 2, padded), codes (rows, width), out (queries, columns). */
CLONES void recsys_level_products(const float *weights, const float *bias, const uint8_t *codes,
                                  int64_t width, float *out, int64_t columns, int64_t queries,
                                  int64_t halves, int64_t first, int64_t last) {
    const int64_t stride = (width + LANES - 1) / LANES * LANES * (1 + (halves != 0));
    for (int64_t q = 0; q < queries;) {
        const int n = queries - q >= TILE ? TILE : 1;
        const float *w = weights + q * stride, *b = bias + q;
        float *to = out + q * columns;
        if (n == TILE && halves) level_rows(w, b, codes, width, to, columns, first, last, TILE, 1);
        else if (n == TILE) level_rows(w, b, codes, width, to, columns, first, last, TILE, 0);
        else if (halves) level_rows(w, b, codes, width, to, columns, first, last, 1, 1);
        else level_rows(w, b, codes, width, to, columns, first, last, 1, 0);
        q += n;
    }
}

/* out[q, row] = sum over the bytes of a row of tables[q, place, byte].
 * Shapes: tables (queries, width, 256), codes rows of `width` that are `stride` apart. */
CLONES void recsys_table_sums(const float *tables, const uint8_t *codes, int64_t stride,
                              int64_t width, float *out, int64_t columns, int64_t queries,
                              int64_t first, int64_t last) {
    for (int64_t q = 0; q < queries; ++q) {
        const float *table = tables + q * width * 256;
        for (int64_t row = first; row < last; ++row) {
            const uint8_t *code = codes + row * stride;
            float sums[4] = {0};
            int64_t j = 0;
            for (; j + 4 <= width; j += 4)
                for (int n = 0; n < 4; ++n) sums[n] += table[(j + n) * 256 + code[j + n]];
            for (; j < width; ++j) sums[0] += table[j * 256 + code[j]];
            out[q * columns + row] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        }
    }
}

/* out[i] = query of pair i times row of pair i, summed in double. */
CLONES void recsys_pair_dots(const float *queries, const int64_t *query, const float *table,
                             const int64_t *rows, int64_t dim, float *out, int64_t first,
                             int64_t last) {
    const int64_t whole = dim - dim % LANES;
    for (int64_t i = first; i < last; ++i) {
        const float *a = queries + query[i] * dim, *b = table + rows[i] * dim;
        const float *later = table + rows[i + AHEAD < last ? i + AHEAD : last - 1] * dim;
        wide_t sums = {0};
        lanes_t u, v;
        for (int64_t d = 0; d < whole; d += LANES) {
            if (d % 16 == 0) __builtin_prefetch(later + d, 0, 3);
            memcpy(&u, a + d, sizeof u);
            memcpy(&v, b + d, sizeof v);
            sums += __builtin_convertvector(u, wide_t) * __builtin_convertvector(v, wide_t);
        }
        double parts[LANES], rest = 0;
        for (int64_t d = whole; d < dim; ++d) rest += (double)a[d] * b[d];
        memcpy(parts, &sums, sizeof parts);
        for (int width = LANES / 2; width; width /= 2)
            for (int j = 0; j < width; ++j) parts[j] += parts[j + width];
        out[i] = (float)(parts[0] + rest);
    }
}
