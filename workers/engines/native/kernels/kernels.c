/* What a step on the CPU does between its matrix products: norms, rotation, attention over blocks of
 * keys and values, gates. PyTorch has no operation that attends over such blocks on a CPU, and one
 * call here replaces some ten of its small ones.
 *
 * Plain C with the vector types of GCC and Clang, so that the same lines serve every processor.
 * Heads and hidden sizes are multiples of 16.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 16 /* tokens in a block */
#define TILE 8   /* new tokens of a row that are attended together */

typedef float f16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef uint32_t u16 __attribute__((vector_size(64)));
typedef uint16_t h16 __attribute__((vector_size(32)));
typedef uint8_t b16 __attribute__((vector_size(16)));

/* One step, the same for all layers; see batch.py. */
typedef struct {
    int64_t tokens, heads, kv_heads, dim, tiles, table_width, plain, window;
    const int32_t *positions, *places, *starts, *tables, *tile_rows, *tile_firsts;
    float scale, softcap, eps;
    const float *cos, *sin; /* (positions, dim / 2) */
} Step;

static inline f16 load_float(const float *p) {
    f16 x;
    memcpy(&x, p, sizeof x);
    return x;
}

static inline float sum16(f16 x) {
    float total = 0;
    for (int i = 0; i < 16; i++) total += x[i];
    return total;
}

static inline float max16(f16 x) {
    float largest = x[0];
    for (int i = 1; i < 16; i++) largest = x[i] > largest ? x[i] : largest;
    return largest;
}

static inline f16 choose16(i16 where, f16 yes, f16 no) {
    return (f16)((where & (i16)yes) | (~where & (i16)no));
}

/* e to the x, to about a unit in the last place: x = n ln 2 + r, and the Taylor series of e to the r. */
static inline f16 exp16(f16 x) {
    const f16 zero = {0};
    x = choose16(x < zero - 87.0f, zero - 87.0f, x);
    x = choose16(x > zero + 88.0f, zero + 88.0f, x);
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
    f16 shifted = x * 1.44269504f + magic, n = shifted - magic;
    f16 r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    f16 p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    i16 exponent = ((i16)shifted - 0x4B400000 + 127) << 23;
    return p * (f16)exponent;
}

/* The approximation of GELU by tanh (Hendrycks and Gimpel 2016). */
static inline f16 gelu16(f16 x) {
    f16 inner = (x + x * x * x * 0.044715f) * 0.7978845608f;
    f16 tanh = 1.0f - 2.0f / (exp16(inner * 2.0f) + 1.0f);
    return x * 0.5f * (tanh + 1.0f);
}

/* A query (dim,) against the keys of a block (dim, BLOCK). */
static inline f16 dots(const float *q, const float k[][BLOCK], long dim) {
    f16 a = {0}, b = {0}, c = {0}, d = {0};
    for (long i = 0; i < dim; i += 4) { /* four sums, so that none waits for the last */
        a += q[i] * *(const f16 *)k[i];
        b += q[i + 1] * *(const f16 *)k[i + 1];
        c += q[i + 2] * *(const f16 *)k[i + 2];
        d += q[i + 3] * *(const f16 *)k[i + 3];
    }
    return (a + b) + (c + d);
}

/* sums (dim,) += weights (BLOCK,) @ values (BLOCK, dim). */
static inline void gather(float *sums, f16 weights, const float *v, long dim) {
    for (long d = 0; d < dim; d += 16) {
        f16 a = *(f16 *)(sums + d), b = {0};
        for (int i = 0; i < BLOCK; i += 2) {
            a += weights[i] * *(const f16 *)(v + i * dim + d);
            b += weights[i + 1] * *(const f16 *)(v + (i + 1) * dim + d);
        }
        *(f16 *)(sums + d) = a + b;
    }
}

/* The scores of a block that begins at token `base`, as the token at `position` may see them. */
static inline f16 masked(f16 scores, long base, long position, long window, float softcap) {
    if (softcap > 0) {
        f16 e = exp16(scores * (2.0f / softcap));
        scores = softcap * (1.0f - 2.0f / (e + 1.0f));
    }
    long oldest = window ? position - window + 1 : 0;
    if (base + BLOCK - 1 <= position && base >= oldest) return scores;
    for (int i = 0; i < BLOCK; i++)
        if (base + i > position || base + i < oldest) scores[i] = -INFINITY;
    return scores;
}

/* Cuts the new tokens of each row into tiles; returns how many. */
long tile(const int32_t *starts, long rows, int32_t *tile_rows, int32_t *tile_firsts) {
    long tiles = 0;
    for (long row = 0; row < rows; row++)
        for (long first = starts[row]; first < starts[row + 1]; first += TILE) {
            tile_rows[tiles] = row;
            tile_firsts[tiles++] = first;
        }
    return tiles;
}

/* float32 */
static inline f16 f32_load(const float *p) { return load_float(p); }
static inline void f32_store(float *p, f16 x) { memcpy(p, &x, sizeof x); }
static inline float f32_one(const float *p) { return *p; }

/* bfloat16: the upper half of a float; stored rounded to nearest, ties to even. */
static inline f16 bf16_load(const uint16_t *p) {
    h16 half;
    memcpy(&half, p, sizeof half);
    return (f16)(__builtin_convertvector(half, u16) << 16);
}
static inline void bf16_store(uint16_t *p, f16 x) {
    u16 bits = (u16)x;
    h16 half = __builtin_convertvector((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, h16);
    memcpy(p, &half, sizeof half);
}
static inline float bf16_one(const uint16_t *p) {
    uint32_t bits = (uint32_t)*p << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

#define REAL float
#define NAME(name) f32_##name
#include "typed.h"
#undef NAME
#undef REAL

#define REAL uint16_t
#define NAME(name) bf16_##name
#include "typed.h"
