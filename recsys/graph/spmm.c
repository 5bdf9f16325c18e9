/* Products of a sparse matrix (CSR) with rows of float32, on the CPU.
 *
 * Plain C11 without Python.h; recsys/graph/spmm.py calls it through ctypes, which lets other
 * threads run meanwhile. One call writes its own rows only and every sum has a fixed order, so
 * results do not depend on how rows are split over threads. No atomics, no global state.
 *
 * A product gathers one row of x per edge. Sums stay in registers (the width is a constant in
 * the inner loop), and rows needed AHEAD edges later are prefetched.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "../native.h"

#define ABI 3

#if !defined(__GNUC__)
#error "needs the vector types of gcc or clang; recsys works without this file, slower"
#endif
#define INLINE static inline __attribute__((always_inline))

enum { AHEAD = 16, LANES = 16, MOST = 8 /* vectors of a row that are summed at once */ };
typedef float lanes_t __attribute__((vector_size(4 * LANES)));

typedef struct {
    const int64_t *indptr;
    const int32_t *col;
    const float *values;
    int64_t first, last; /* rows to work on */
} part_t;

int64_t recsys_abi(void) { return ABI; }

/* Columns d to d + LANES * n of the product. */
INLINE void product_columns(const part_t *part, const float *x, float *out, int64_t dim, int64_t d,
                            const int n) {
    const int32_t *col = part->col;
    const int64_t last_edge = part->indptr[part->last] - 1;
    for (int64_t row = part->first; row < part->last; ++row) {
        lanes_t sums[MOST], y;
        for (int j = 0; j < n; ++j) sums[j] = (lanes_t){0};
        const int64_t end = part->indptr[row + 1];
        for (int64_t e = part->indptr[row]; e < end; ++e) {
            const int64_t ahead = e + AHEAD < last_edge ? e + AHEAD : last_edge;
            const float *later = x + (int64_t)col[ahead] * dim + d;
            for (int j = 0; j < n; ++j) __builtin_prefetch(later + LANES * j, 0, 3);
            const float *from = x + (int64_t)col[e] * dim + d;
            const float weight = part->values[e];
            for (int j = 0; j < n; ++j) {
                memcpy(&y, from + LANES * j, sizeof y);
                sums[j] += y * weight;
            }
        }
        for (int j = 0; j < n; ++j) memcpy(out + row * dim + d + LANES * j, &sums[j], sizeof y);
    }
}

/* The last columns, fewer than LANES. */
INLINE void product_rest(const part_t *part, const float *x, float *out, int64_t dim, int64_t d) {
    const int64_t rest = dim - d;
    for (int64_t row = part->first; row < part->last; ++row) {
        float sums[LANES] = {0};
        for (int64_t e = part->indptr[row]; e < part->indptr[row + 1]; ++e) {
            const float *from = x + (int64_t)part->col[e] * dim + d;
            for (int64_t j = 0; j < rest; ++j) sums[j] += from[j] * part->values[e];
        }
        memcpy(out + row * dim + d, sums, (size_t)rest * sizeof(float));
    }
}

/* out[row] = sum over the row's edges of value * x[col], for the rows of a part. */
CLONES void recsys_spmm(const part_t *part, const float *x, float *out, int64_t dim) {
    int64_t d = 0;
    for (; dim - d >= 8 * LANES; d += 8 * LANES) product_columns(part, x, out, dim, d, 8);
    if (dim - d >= 4 * LANES) product_columns(part, x, out, dim, d, 4), d += 4 * LANES;
    if (dim - d >= 2 * LANES) product_columns(part, x, out, dim, d, 2), d += 2 * LANES;
    if (dim - d >= LANES) product_columns(part, x, out, dim, d, 1), d += LANES;
    if (d < dim) product_rest(part, x, out, dim, d);
}

/* out[e] = left[row of e] . right[col of e], for the edges of the rows of a part. */
CLONES void recsys_edge_dots(const part_t *part, const float *left, const float *right, float *out,
                             int64_t dim) {
    const int64_t whole = dim - dim % LANES, last_edge = part->indptr[part->last] - 1;
    for (int64_t row = part->first; row < part->last; ++row) {
        const float *a = left + row * dim;
        for (int64_t e = part->indptr[row]; e < part->indptr[row + 1]; ++e) {
            const float *b = right + (int64_t)part->col[e] * dim;
            const int64_t ahead = e + AHEAD < last_edge ? e + AHEAD : last_edge;
            const float *later = right + (int64_t)part->col[ahead] * dim;
            lanes_t sums = {0}, u, v;
            for (int64_t d = 0; d < whole; d += LANES) {
                __builtin_prefetch(later + d, 0, 3);
                memcpy(&u, a + d, sizeof u);
                memcpy(&v, b + d, sizeof v);
                sums += u * v;
            }
            float total = 0;
            for (int64_t d = whole; d < dim; ++d) total += a[d] * b[d];
            float parts[LANES];
            memcpy(parts, &sums, sizeof parts);
            for (int width = LANES / 2; width; width /= 2)
                for (int j = 0; j < width; ++j) parts[j] += parts[j + width];
            out[e] = parts[0] + total;
        }
    }
}

/* Numbers of 24 bits by key, row and column: START once a row, NUMBER for each of its columns.
 * recsys/graph/perturbation.py has the same in torch. */
INLINE uint32_t recsys_start(uint64_t key, int64_t row) {
    uint64_t k = key + (uint64_t)row * 0x9e3779b97f4a7c15u;
    k = (k ^ (k >> 30)) * 0xbf58476d1ce4e5b9u;
    k = (k ^ (k >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)(k ^ (k >> 31));
}
INLINE uint32_t recsys_number(uint32_t start, int64_t column) {
    uint32_t u = start + (uint32_t)column * 0x9e3779b9u;
    u = (u ^ (u >> 16)) * 0x21f0aaadu;
    u = (u ^ (u >> 15)) * 0xd35a2d97u;
    return (u ^ (u >> 15)) >> 8;
}

/* out = x + size * sign(x) * u / |u| with u of each row uniform in [0, 1). */
CLONES void recsys_perturb(const float *restrict x, float *restrict out, int64_t first, int64_t last,
                           int64_t dim, uint64_t key, float size) {
    for (int64_t row = first; row < last; ++row) {
        const uint32_t start = recsys_start(key, row);
        const float *restrict from = x + row * dim;
        float *restrict to = out + row * dim, squares[LANES] = {0}, total = 0;
        for (int64_t d = 0; d < dim; ++d) to[d] = (float)(int32_t)recsys_number(start, d) * 0x1p-24f;
        int64_t d = 0;
        for (; d + LANES <= dim; d += LANES)
            for (int j = 0; j < LANES; ++j) squares[j] += to[d + j] * to[d + j];
        for (int j = 0; j < LANES; ++j) total += squares[j];
        for (; d < dim; ++d) total += to[d] * to[d];
        const float length = sqrtf(total), scale = size / (length > 1e-12f ? length : 1e-12f);
        for (d = 0; d < dim; ++d) {
            const float sign = (float)((from[d] > 0) - (from[d] < 0));
            to[d] = from[d] + sign * (to[d] * scale);
        }
    }
}

/* out = x * scale where the number of 24 bits is at least `least`, else 0. */
CLONES void recsys_drop(const float *restrict x, float *restrict out, int64_t first, int64_t last,
                        int64_t dim, uint64_t key, uint32_t least, float scale) {
    for (int64_t row = first; row < last; ++row) {
        const uint32_t start = recsys_start(key, row);
        const float *restrict from = x + row * dim;
        float *restrict to = out + row * dim;
        for (int64_t d = 0; d < dim; ++d)
            to[d] = (int32_t)recsys_number(start, d) >= (int32_t)least ? from[d] * scale : 0.0f;
    }
}
