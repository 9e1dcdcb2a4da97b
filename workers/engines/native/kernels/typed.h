/* The kernels for one type of numbers; kernels.c includes this once for each, with REAL (the type),
 * NAME(), load() and store() (16 numbers at a time) defined.
 *
 * Arithmetic is in float. Results are rounded to REAL where transformers' own modules round theirs,
 * so that both stay as close as can be.
 */

static inline f16 NAME(round)(f16 x) {
    REAL rounded[16];
    NAME(store)(rounded, x);
    return NAME(load)(rounded);
}

/* One vector of a root mean square norm (Zhang and Sennrich 2019); `plain` rounds before the weight
 * is applied, as Llama's does, else after it, as Gemma's. */
static inline void NAME(norm_row)(REAL *out, const REAL *x, const float *weight, long size, float eps,
                                  int plain) {
    f16 squares = {0};
    for (long i = 0; i < size; i += 16) {
        f16 v = NAME(load)(x + i);
        squares += v * v;
    }
    float scale = 1.0f / sqrtf(sum16(squares) / size + eps);
    for (long i = 0; i < size; i += 16) {
        f16 v = NAME(load)(x + i) * scale;
        if (plain) v = NAME(round)(v);
        NAME(store)(out + i, v * load_float(weight + i));
    }
}

/* residual += delta (unless null); out = norm(residual). Shapes (tokens, size). */
void NAME(add_norm)(REAL *out, REAL *residual, const REAL *delta, const float *weight, long tokens,
                    long size, float eps, int plain) {
#pragma omp parallel for if (tokens * size > 16384)
    for (long t = 0; t < tokens; t++) {
        REAL *row = residual + t * size;
        if (delta)
            for (long i = 0; i < size; i += 16)
                NAME(store)(row + i, NAME(load)(row + i) + NAME(load)(delta + t * size + i));
        NAME(norm_row)(out + t * size, row, weight, size, eps, plain);
    }
}

/* out = act(gate) * up, of rows that hold gate and up side by side: (tokens, 2 * size). */
void NAME(gated)(REAL *out, const REAL *x, long tokens, long size, int gelu) {
#pragma omp parallel for if (tokens * size > 16384)
    for (long t = 0; t < tokens; t++) {
        const REAL *gate = x + t * 2 * size, *up = gate + size;
        for (long i = 0; i < size; i += 16) {
            f16 g = NAME(load)(gate + i);
            f16 activated = gelu ? gelu16(g) : g / (1.0f + exp16(-g));
            NAME(store)(out + t * size + i, NAME(round)(activated) * NAME(load)(up + i));
        }
    }
}

/* Each row (tokens, size) as whole numbers from -127 to 127, to which 128 is added, and the scale
 * that they are of. Sizes are compared as integers, among which NaN is the largest: so it
 * reaches the scale, and none is hidden. */
void NAME(quantize)(uint8_t *codes, float *scales, const REAL *x, long tokens, long size) {
#pragma omp parallel for if (tokens * size > 16384)
    for (long t = 0; t < tokens; t++) {
        const REAL *row = x + t * size;
        i16 sizes = {0};
        for (long i = 0; i < size; i += 16) {
            i16 bits = (i16)NAME(load)(row + i) & 0x7FFFFFFF;
            i16 larger = bits > sizes;
            sizes = (bits & larger) | (sizes & ~larger);
        }
        i16 largest = {0};
        for (int i = 0; i < 16; i++) largest[0] = sizes[i] > largest[0] ? sizes[i] : largest[0];
        float most = ((f16)largest)[0], inverse = most > 0 ? 127 / most : 0;
        scales[t] = most / 127;
        for (long i = 0; i < size; i += 16) {
            /* Adding 1.5 * 2^23 rounds to an integer in the low bits. */
            i16 rounded = (i16)(NAME(load)(row + i) * inverse + 12582912.0f) + 128;
            b16 bytes = __builtin_convertvector(rounded, b16);
            memcpy(codes + t * size + i, &bytes, sizeof bytes);
        }
    }
}

/* out = product * the scale of its row + bias (unless null), all but the scales (tokens, size). */
void NAME(rescale)(REAL *out, const float *product, const float *scales, const float *bias,
                   long tokens, long size) {
#pragma omp parallel for if (tokens * size > 16384)
    for (long t = 0; t < tokens; t++)
        for (long i = 0; i < size; i += 16) {
            f16 x = load_float(product + t * size + i) * scales[t];
            NAME(store)(out + t * size + i, bias ? x + load_float(bias + i) : x);
        }
}

/* Rotary position embedding (Su et al. 2021) of one head, halves rotated against each other. */
static inline void NAME(rotate)(REAL *x, const float *cos, const float *sin, long dim) {
    long half = dim / 2;
    for (long i = 0; i < half; i += 8) {
        float first[16] = {0}, second[16] = {0};
        REAL rounded[16];
        for (int j = 0; j < 8; j++) {
            float a = NAME(one)(x + i + j), b = NAME(one)(x + half + i + j);
            first[j] = a * cos[i + j] - b * sin[i + j];
            second[j] = b * cos[i + j] + a * sin[i + j];
        }
        NAME(store)(rounded, load_float(first));
        memcpy(x + i, rounded, 8 * sizeof(REAL));
        NAME(store)(rounded, load_float(second));
        memcpy(x + half + i, rounded, 8 * sizeof(REAL));
    }
}

/* Norm (where the model has one) and rotate the new queries and keys of one token; its keys and values
 * go to their place in the cache. */
static void NAME(place)(const Step *s, REAL *qkv, REAL *keys, REAL *values, const float *query_norm,
                        const float *key_norm, long t) {
    long dim = s->dim, block = s->places[t] / BLOCK, at = s->places[t] % BLOCK;
    const float *cos = s->cos + s->positions[t] * (dim / 2), *sin = s->sin + s->positions[t] * (dim / 2);
    REAL *row = qkv + t * (s->heads + 2 * s->kv_heads) * dim;
    for (long h = 0; h < s->heads + s->kv_heads; h++) {
        const float *norm = h < s->heads ? query_norm : key_norm;
        if (norm) NAME(norm_row)(row + h * dim, row + h * dim, norm, dim, s->eps, s->plain);
        NAME(rotate)(row + h * dim, cos, sin, dim);
    }
    for (long h = 0; h < s->kv_heads; h++) {
        const REAL *key = row + (s->heads + h) * dim, *value = key + s->kv_heads * dim;
        REAL *k = keys + (block * s->kv_heads + h) * dim * BLOCK + at;
        for (long d = 0; d < dim; d++) k[d * BLOCK] = key[d];
        memcpy(values + ((block * s->kv_heads + h) * BLOCK + at) * dim, value, dim * sizeof(REAL));
    }
}

/* A few new tokens of one row, and the query heads that share one head of keys and values, against all
 * that the row has before them; softmax on the way (Milakov and Gimelshein 2018). */
static void NAME(attend_tile)(const Step *s, const REAL *qkv, REAL *out, const REAL *keys,
                              const REAL *values, long tile, long head) {
    long dim = s->dim, group = s->heads / s->kv_heads, row = s->tile_rows[tile];
    long first = s->tile_firsts[tile], last = first + TILE, stride = (s->heads + 2 * s->kv_heads) * dim;
    if (last > s->starts[row + 1]) last = s->starts[row + 1];
    long queries = (last - first) * group;
    float q[queries][dim] __attribute__((aligned(64))), sums[queries][dim] __attribute__((aligned(64)));
    float top[queries], total[queries], k[dim][BLOCK] __attribute__((aligned(64)));
    float v[BLOCK][dim] __attribute__((aligned(64)));
    for (long m = 0; m < queries; m++) {
        const REAL *from = qkv + (first + m / group) * stride + (head * group + m % group) * dim;
        for (long d = 0; d < dim; d += 16) *(f16 *)(q[m] + d) = NAME(load)(from + d) * s->scale;
        memset(sums[m], 0, sizeof sums[m]);
        top[m] = -INFINITY;
        total[m] = 0;
    }
    long from = s->window ? s->positions[first] - s->window + 1 : 0;
    for (long b = from > 0 ? from / BLOCK : 0; b * BLOCK <= s->positions[last - 1]; b++) {
        long block = s->tables[row * s->table_width + b] * s->kv_heads + head;
        for (long d = 0; d < dim; d++) *(f16 *)k[d] = NAME(load)(keys + (block * dim + d) * BLOCK);
        for (long i = 0; i < BLOCK * dim; i += 16)
            *(f16 *)((float *)v + i) = NAME(load)(values + block * BLOCK * dim + i);
        /* Behind the row's last token is what the block held before; a NaN times a weight of 0 is one. */
        for (long i = s->positions[last - 1] + 1 - b * BLOCK; i < BLOCK; i++) memset(v[i], 0, sizeof v[i]);
        for (long m = 0; m < queries; m++) {
            long position = s->positions[first + m / group];
            f16 scores = masked(dots(q[m], k, dim), b * BLOCK, position, s->window, s->softcap);
            float largest = max16(scores);
            if (largest == -INFINITY) continue;
            if (largest > top[m]) {
                float fade = expf(top[m] - largest);
                for (long d = 0; d < dim; d += 16) *(f16 *)(sums[m] + d) *= fade;
                total[m] *= fade;
                top[m] = largest;
            }
            f16 weights = exp16(scores - top[m]);
            total[m] += sum16(weights);
            gather(sums[m], weights, (const float *)v, dim);
        }
    }
    for (long m = 0; m < queries; m++) {
        REAL *to = out + ((first + m / group) * s->heads + head * group + m % group) * dim;
        for (long d = 0; d < dim; d += 16) NAME(store)(to + d, *(f16 *)(sums[m] + d) / total[m]);
    }
}

/* Attention of one layer. qkv: (tokens, heads + 2 * kv_heads, dim), changed; out: (tokens, heads, dim);
 * keys: (blocks, kv_heads, dim, BLOCK); values: (blocks, kv_heads, BLOCK, dim). */
void NAME(attend)(const Step *s, REAL *qkv, REAL *out, REAL *keys, REAL *values, const float *query_norm,
                  const float *key_norm, const float *cos, const float *sin, long window) {
    Step step = *s;
    step.cos = cos, step.sin = sin, step.window = window;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (long t = 0; t < step.tokens; t++)
            NAME(place)(&step, qkv, keys, values, query_norm, key_norm, t);
#pragma omp for schedule(dynamic, 1)
        for (long item = 0; item < step.tiles * step.kv_heads; item++)
            NAME(attend_tile)(&step, qkv, out, keys, values, item / step.kv_heads, item % step.kv_heads);
    }
}
