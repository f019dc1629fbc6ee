// The loops over time of zpyro/nn/kernels/lstm_loops.py and chain_loops.py, for float and double.
//
// Every phase of a step is a set of tiles (a block of rows times a panel of columns): a matrix
// product over the whole depth, then the pointwise work on the tile while it is in the cache. The
// threads share the tiles of a phase and synchronize after it. Matrices are packed once per call
// into the order in which the products read them. The order of sums, and so the result, does not
// depend on the number of threads.
//
// Row-major arrays throughout: T steps, N rows, H hidden size, Z latent size, M posterior width.

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <omp.h>

namespace {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, BLOCK = 8;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32, BLOCK = 6;
#else
constexpr int VECTOR_BYTES = 16, BLOCK = 8;
#endif
constexpr int DEPTH = 256;      // of a product per pass over the rows: fits into a cache
constexpr int MAX_BLOCKS = 8;   // blocks of rows per tile

template <typename real> struct Vectors {
  typedef real type __attribute__((vector_size(VECTOR_BYTES), may_alias));
  static constexpr int lanes = VECTOR_BYTES / sizeof(real);
  static constexpr int columns = 2 * lanes;
};
template <typename real> using vec = typename Vectors<real>::type;
template <typename real> constexpr int COLUMNS = Vectors<real>::columns;

// Minus zero: the compiler may not leave out "0 +", which would change a negative zero.
template <typename real> inline vec<real> all(real value) { return value - vec<real>{}; }

// -- functions of numbers -------------------------------------------------------------------------

typedef int32_t integers __attribute__((vector_size(VECTOR_BYTES)));

// Cephes expf: 2^n times a polynomial on [-log(2)/2, log(2)/2].
inline vec<float> exponential(vec<float> x) {
  x = x > 88.3f ? all(88.3f) : x;
  x = x < -87.3f ? all(-87.3f) : x;
  const vec<float> round = all(12582912.0f);
  vec<float> n = (x * 1.44269504f + round) - round;
  vec<float> r = x - n * 0.693359375f + n * 2.12194440e-4f;
  vec<float> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  integers power = (__builtin_convertvector(n, integers) + 127) << 23;
  return p * (vec<float>)power;
}

// Cephes tanhf: a polynomial near zero, where 1 - 2 / (exp(2x) + 1) would cancel.
inline vec<float> tangent(vec<float> x) {
  vec<float> size = x < 0.0f ? -x : x, square = x * x;
  vec<float> p = square * -5.70498872745e-3f + 2.06390887954e-2f;
  p = p * square - 5.37397155531e-2f;
  p = p * square + 1.33314422036e-1f;
  p = p * square - 3.33332819422e-1f;
  vec<float> near = p * square * x + x;
  vec<float> far = 1.0f - 2.0f / (exponential(size + size) + 1.0f);
  far = x < 0.0f ? -far : far;
  return size < 0.625f ? near : far;
}

inline vec<double> exponential(vec<double> x) {
  for (int l = 0; l < Vectors<double>::lanes; ++l) x[l] = std::exp(x[l]);
  return x;
}

inline vec<double> tangent(vec<double> x) {
  for (int l = 0; l < Vectors<double>::lanes; ++l) x[l] = std::tanh(x[l]);
  return x;
}

template <typename V> inline V sigmoid(V x) { return 1 / (1 + exponential(-x)); }

template <typename real> inline vec<real> bounded(vec<real> x, real bound) {
  x = x > bound ? all(bound) : x;
  return x < -bound ? all(-bound) : x;
}

// The gradient of a clamp to [-bound, bound], which is not zero on the bounds, as in torch.
template <typename real> inline vec<real> inside(vec<real> gradient, vec<real> x, real bound) {
  vec<real> below = x <= bound ? gradient : all(real(0));
  return x >= -bound ? below : all(real(0));
}

// -- tiles ----------------------------------------------------------------------------------------

// Rows of COLUMNS numbers, zero beyond the last column of an array.
template <typename real> struct Tile {
  alignas(64) real at[MAX_BLOCKS * BLOCK][COLUMNS<real>];

  vec<real> *row(long r) { return reinterpret_cast<vec<real> *>(at[r]); }
};

// An address in an array that may be null.
template <typename real> inline real *maybe(real *start, long offset) {
  return start ? start + offset : nullptr;
}

// An array (rows, columns) whose tiles are read and written.
template <typename real> struct Array {
  real *start;
  long stride;
};

template <typename real>
inline void load(real *to, const Array<real> &from, long row, long column, int width) {
  const real *source = from.start + row * from.stride + column;
  if (width == COLUMNS<real>) {
    std::memcpy(to, source, COLUMNS<real> * sizeof(real));
    return;
  }
  for (int c = 0; c < COLUMNS<real>; ++c) to[c] = c < width ? source[c] : real(0);
}

template <typename real>
inline void store(const real *from, const Array<real> &to, long row, long column, int width) {
  std::memcpy(to.start + row * to.stride + column, from, width * sizeof(real));
}

// One row of a tile, as two vectors.
template <typename real> struct Row {
  alignas(64) real at[COLUMNS<real>];

  Row() {}
  Row(const Array<real> &from, long row, long column, int width) {
    load(at, from, row, column, width);
  }
  vec<real> &operator[](int v) { return reinterpret_cast<vec<real> *>(at)[v]; }
};

// A matrix in the order in which products read it: panel after panel, (depth, COLUMNS) each.
template <typename real> struct Packed {
  real *start;
  long depth;

  const real *panel(long p) const { return start + p * depth * COLUMNS<real>; }
};

// Pack element (k, c) = source[k * along + c * across] of `columns` columns; threads share panels.
template <typename real>
void pack(const Packed<real> &to, const real *source, long along, long across, long columns,
          int thread, int threads) {
  constexpr int W = COLUMNS<real>;
  long panels = (columns + W - 1) / W;
  for (long p = thread; p < panels; p += threads) {
    real *panel = to.start + p * to.depth * W;
    const real *first = source + p * W * across;
    int width = columns - p * W < W ? int(columns - p * W) : W;
    if (width < W) std::memset(panel, 0, to.depth * W * sizeof(real));
    for (long k0 = 0; k0 < to.depth; k0 += 16) {
      long k1 = k0 + 16 < to.depth ? k0 + 16 : to.depth;
      if (across == 1) {
        for (long k = k0; k < k1; ++k)
          std::memcpy(panel + k * W, first + k * along, width * sizeof(real));
      } else {
        for (int c = 0; c < width; ++c)
          for (long k = k0; k < k1; ++k) panel[k * W + c] = first[k * along + c * across];
      }
    }
  }
}

template <typename real, int rows>
inline void multiply_rows(vec<real> *tile, const real *left, long stride, const real *panel,
                          long depth) {
  vec<real> sums[rows][2];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) sums[r][0] = tile[2 * r], sums[r][1] = tile[2 * r + 1];
  for (long k = 0; k < depth; ++k) {
    const vec<real> *right = reinterpret_cast<const vec<real> *>(panel) + 2 * k;
    vec<real> first = right[0], second = right[1];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      vec<real> number = all(left[r * stride + k]);
      sums[r][0] += number * first;
      sums[r][1] += number * second;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) tile[2 * r] = sums[r][0], tile[2 * r + 1] = sums[r][1];
}

// tile += left[first row .. first row + rows) times one panel.
template <typename real>
void multiply(Tile<real> &tile, const Array<real> &left, long row, long rows,
              const Packed<real> &right, long panel) {
  const real *packed = right.panel(panel);
  for (long k = 0; k < right.depth; k += DEPTH) {
    long depth = right.depth - k < DEPTH ? right.depth - k : DEPTH;
    const real *part = packed + k * COLUMNS<real>;
    for (long r = 0; r < rows; r += BLOCK) {
      const real *numbers = left.start + (row + r) * left.stride + k;
      vec<real> *sums = tile.row(r);
      long some = rows - r;
      if (some >= BLOCK) multiply_rows<real, BLOCK>(sums, numbers, left.stride, part, depth);
      else switch (some) {
        case 1: multiply_rows<real, 1>(sums, numbers, left.stride, part, depth); break;
        case 2: multiply_rows<real, 2>(sums, numbers, left.stride, part, depth); break;
        case 3: multiply_rows<real, 3>(sums, numbers, left.stride, part, depth); break;
        case 4: multiply_rows<real, 4>(sums, numbers, left.stride, part, depth); break;
        case 5: multiply_rows<real, 5>(sums, numbers, left.stride, part, depth); break;
        case 6: multiply_rows<real, 6>(sums, numbers, left.stride, part, depth); break;
        default: multiply_rows<real, 7>(sums, numbers, left.stride, part, depth); break;
      }
    }
  }
}

// Call work(panel, first column, width, first row, rows) for this thread's share of a phase.
template <typename real, typename Work>
inline void share(long rows, long columns, int thread, int threads, Work work) {
  long blocks = (rows + BLOCK - 1) / BLOCK, panels = (columns + COLUMNS<real> - 1) / COLUMNS<real>;
  long tiles = blocks * panels, end = tiles * (thread + 1) / threads;
  for (long tile = tiles * thread / threads; tile < end;) {
    long panel = tile / blocks, block = tile % blocks, some = blocks - block;
    if (some > end - tile) some = end - tile;
    if (some > MAX_BLOCKS) some = MAX_BLOCKS;
    long row = block * BLOCK, last = row + some * BLOCK < rows ? row + some * BLOCK : rows;
    long column = panel * COLUMNS<real>;
    long width = columns - column < COLUMNS<real> ? columns - column : COLUMNS<real>;
    work(panel, column, int(width), row, last - row);
    tile += some;
  }
}

}  // namespace

// -- arguments from Python ------------------------------------------------------------------------

// Sizes, and matrices as (out, in) with the distance between rows.
struct Sizes {
  long steps, rows, hidden, latent, width, threads;
  long hidden_stride, output_stride, gates_stride;
};

// See Tape and Weights in zpyro/nn/kernels/lstm_loops.py.
template <typename real> struct Buffers {
  const real *hidden_weight, *output_weight, *output_bias, *gates_weight;
  real *activations, *gates, *raw, *z, *noise, *hidden, *cell;
};

// Gradients of the outputs (null for zeros), and buffers for those of the inputs.
template <typename real> struct Gradients {
  real *grad_z, *grad_hidden, *grad_mean, *grad_log_variance, *grad_cell;
  real *activations, *gates, *raw, *first_hidden, *first_cell;
};

namespace {

constexpr double SLOPE = 1.0 / 3.0, ACTIVATION_BOUND = 3.0, GAUSSIAN_BOUND = 8.0;

// Packed matrices of one call, freed at its end.
template <typename real> struct Memory {
  real *start;
  bool failed;

  explicit Memory(long numbers) {
    void *memory = nullptr;
    failed = posix_memalign(&memory, 64, numbers * sizeof(real)) != 0;
    start = static_cast<real *>(memory);
  }
  ~Memory() { std::free(start); }
};

template <typename real> long padded(long columns) {
  return (columns + COLUMNS<real> - 1) / COLUMNS<real> * COLUMNS<real>;
}

// Leaky ReLU: the tile before the clamp into `activations`, after the clamp into `active`.
template <typename real>
void activate(Tile<real> &tile, const Array<real> &activations, const Array<real> &active, long row,
              long rows, long column, int width) {
  const real slope = real(SLOPE), bound = real(ACTIVATION_BOUND);
  for (long r = 0; r < rows; ++r) {
    vec<real> *x = tile.row(r);
    Row<real> clamped;
    for (int v = 0; v < 2; ++v) {
      x[v] = x[v] > 0 ? x[v] : x[v] * slope;
      clamped[v] = bounded(x[v], bound);
    }
    store(tile.at[r], activations, row + r, column, width);
    store(clamped.at, active, row + r, column, width);
  }
}

// From the gradient of its result (the tile) that of its argument.
template <typename real>
void activate_backward(Tile<real> &tile, const Array<real> &activations, const Array<real> &to,
                       long row, long rows, long column, int width) {
  const real slope = real(SLOPE), bound = real(ACTIVATION_BOUND);
  for (long r = 0; r < rows; ++r) {
    Row<real> x(activations, row + r, column, width);
    vec<real> *gradient = tile.row(r);
    for (int v = 0; v < 2; ++v) {
      vec<real> through = x[v] > 0 ? gradient[v] : gradient[v] * slope;
      gradient[v] = inside(through, x[v], bound);
    }
    store(tile.at[r], to, row + r, column, width);
  }
}

// Load a row, or zeros where the array is null.
template <typename real>
inline void load_or_zero(real *to, const Array<real> &from, long row, long column, int width) {
  if (from.start) load(to, from, row, column, width);
  else std::memset(to, 0, COLUMNS<real> * sizeof(real));
}

template <typename real> int run_forward(const Sizes &s, const Buffers<real> &b) {
  const long N = s.rows, H = s.hidden, Z = s.latent, M = s.width;
  const real limit = real(GAUSSIAN_BOUND);
  const long numbers_hidden = H * padded<real>(M), numbers_output = M * padded<real>(Z);
  const long numbers_recurrent = H * padded<real>(H), numbers_latent = Z * padded<real>(H);
  Memory<real> memory(numbers_hidden + 2 * numbers_output + 4 * numbers_recurrent +
                      4 * numbers_latent);
  Memory<real> scratch(N * M);
  if (memory.failed || scratch.failed) return 1;
  real *next = memory.start;
  auto matrix = [&next](long depth, long numbers) {
    Packed<real> packed{next, depth};
    next += numbers;
    return packed;
  };
  const Packed<real> hidden = matrix(H, numbers_hidden);
  const Packed<real> output[2] = {matrix(M, numbers_output), matrix(M, numbers_output)};
  Packed<real> recurrent[4], latent[4];
  for (int q = 0; q < 4; ++q) recurrent[q] = matrix(H, numbers_recurrent);
  for (int q = 0; q < 4; ++q) latent[q] = matrix(Z, numbers_latent);
  const Array<real> active{scratch.start, M};

#pragma omp parallel num_threads(int(s.threads))
  {
    const int thread = omp_get_thread_num(), threads = omp_get_num_threads();
    pack(hidden, b.hidden_weight, 1, s.hidden_stride, M, thread, threads);
    for (int q = 0; q < 2; ++q)
      pack(output[q], b.output_weight + q * Z * s.output_stride, 1, s.output_stride, Z, thread,
           threads);
    for (int q = 0; q < 4; ++q) {
      const real *gate = b.gates_weight + q * H * s.gates_stride;
      pack(recurrent[q], gate, 1, s.gates_stride, H, thread, threads);
      pack(latent[q], gate + H, 1, s.gates_stride, H, thread, threads);
    }
    Tile<real> tiles[4];
#pragma omp barrier
    for (long t = 0; t < s.steps; ++t) {
      const Array<real> h{b.hidden + t * N * H, H}, new_h{b.hidden + (t + 1) * N * H, H};
      const Array<real> c{b.cell + t * N * H, H}, new_c{b.cell + (t + 1) * N * H, H};
      const Array<real> activations{b.activations + t * N * M, M};
      const Array<real> gates{b.gates + t * N * 4 * H, 4 * H};
      const Array<real> raw{b.raw + t * N * 2 * Z, 2 * Z};
      const Array<real> z{b.z + t * N * Z, Z}, noise{b.noise + t * N * Z, Z};

      // The posterior's hidden layer.
      share<real>(N, M, thread, threads, [&](long p, long column, int width, long row, long rows) {
        Tile<real> &tile = tiles[0];
        for (long r = 0; r < rows; ++r) load(tile.at[r], activations, row + r, column, width);
        multiply(tile, h, row, rows, hidden, p);
        activate(tile, activations, active, row, rows, column, width);
      });
#pragma omp barrier
      // Its output, and z_t.
      share<real>(N, Z, thread, threads, [&](long p, long column, int width, long row, long rows) {
        const Array<real> biases{const_cast<real *>(b.output_bias), 0};
        for (int q = 0; q < 2; ++q) {
          for (long r = 0; r < rows; ++r) load(tiles[q].at[r], biases, 0, q * Z + column, width);
          multiply(tiles[q], active, row, rows, output[q], p);
        }
        for (long r = 0; r < rows; ++r) {
          Row<real> sample(noise, row + r, column, width);
          vec<real> *mean = tiles[0].row(r), *log_variance = tiles[1].row(r);
          for (int q = 0; q < 2; ++q) store(tiles[q].at[r], raw, row + r, q * Z + column, width);
          for (int v = 0; v < 2; ++v) {
            vec<real> deviation = exponential(bounded(log_variance[v], limit) * real(0.5));
            sample[v] = bounded(mean[v], limit) + deviation * sample[v];
          }
          store(sample.at, z, row + r, column, width);
        }
      });
#pragma omp barrier
      // The gates, c_t and h_t.
      share<real>(N, H, thread, threads, [&](long p, long column, int width, long row, long rows) {
        for (int q = 0; q < 4; ++q) {
          for (long r = 0; r < rows; ++r)
            load(tiles[q].at[r], gates, row + r, q * H + column, width);
          multiply(tiles[q], h, row, rows, recurrent[q], p);
          multiply(tiles[q], z, row, rows, latent[q], p);
        }
        for (long r = 0; r < rows; ++r) {
          Row<real> cell(c, row + r, column, width), state;
          vec<real> *i = tiles[0].row(r), *f = tiles[1].row(r);
          vec<real> *g = tiles[2].row(r), *o = tiles[3].row(r);
          for (int v = 0; v < 2; ++v) {
            i[v] = sigmoid(i[v]), f[v] = sigmoid(f[v]), o[v] = sigmoid(o[v]);
            g[v] = tangent(g[v]);
            cell[v] = f[v] * cell[v] + i[v] * g[v];
            state[v] = o[v] * tangent(cell[v]);
          }
          for (int q = 0; q < 4; ++q) store(tiles[q].at[r], gates, row + r, q * H + column, width);
          store(cell.at, new_c, row + r, column, width);
          store(state.at, new_h, row + r, column, width);
        }
      });
#pragma omp barrier
    }
  }
  return 0;
}

template <typename real>
int run_backward(const Sizes &s, const Buffers<real> &b, const Gradients<real> &d) {
  const long T = s.steps, N = s.rows, H = s.hidden, Z = s.latent, M = s.width;
  const real limit = real(GAUSSIAN_BOUND);
  const long numbers_latent = 4 * H * padded<real>(Z), numbers_output = 2 * Z * padded<real>(M);
  const long numbers_recurrent = 4 * H * padded<real>(H), numbers_hidden = M * padded<real>(H);
  Memory<real> memory(numbers_latent + numbers_output + numbers_recurrent + numbers_hidden);
  if (memory.failed) return 1;
  const Packed<real> latent{memory.start, 4 * H};
  const Packed<real> output{latent.start + numbers_latent, 2 * Z};
  const Packed<real> recurrent{output.start + numbers_output, 4 * H};
  const Packed<real> hidden{recurrent.start + numbers_recurrent, M};
  const Array<real> running_cell{d.first_cell, H}, first_hidden{d.first_hidden, H};

#pragma omp parallel num_threads(int(s.threads))
  {
    const int thread = omp_get_thread_num(), threads = omp_get_num_threads();
    pack(latent, b.gates_weight + H, s.gates_stride, 1, Z, thread, threads);
    pack(output, b.output_weight, s.output_stride, 1, M, thread, threads);
    pack(recurrent, b.gates_weight, s.gates_stride, 1, H, thread, threads);
    pack(hidden, b.hidden_weight, s.hidden_stride, 1, H, thread, threads);
    Tile<real> tile;
#pragma omp barrier
    for (long t = T; t >= 0; --t) {
      // The gradient of h_t: that of the output, and for t < T that through the next step.
      share<real>(N, H, thread, threads, [&](long p, long column, int width, long row, long rows) {
        const Array<real> grad_hidden{t > 0 ? maybe(d.grad_hidden, (t - 1) * N * H) : nullptr, H};
        for (long r = 0; r < rows; ++r)
          load_or_zero(tile.at[r], grad_hidden, row + r, column, width);
        if (t < T) {
          multiply(tile, {d.gates + t * N * 4 * H, 4 * H}, row, rows, recurrent, p);
          multiply(tile, {d.activations + t * N * M, M}, row, rows, hidden, p);
        }
        if (t == 0) {
          for (long r = 0; r < rows; ++r) store(tile.at[r], first_hidden, row + r, column, width);
          return;
        }
        // The LSTM's pointwise part at step t, into buffers of step t - 1.
        const Array<real> gates{b.gates + (t - 1) * N * 4 * H, 4 * H};
        const Array<real> d_gates{d.gates + (t - 1) * N * 4 * H, 4 * H};
        const Array<real> c{b.cell + (t - 1) * N * H, H}, new_c{b.cell + t * N * H, H};
        for (long r = 0; r < rows; ++r) {
          Row<real> i(gates, row + r, column, width), f(gates, row + r, H + column, width);
          Row<real> g(gates, row + r, 2 * H + column, width);
          Row<real> o(gates, row + r, 3 * H + column, width);
          Row<real> before(c, row + r, column, width), after(new_c, row + r, column, width);
          Row<real> d_cell(running_cell, row + r, column, width);
          vec<real> *d_hidden = tile.row(r);
          for (int v = 0; v < 2; ++v) {
            vec<real> tanh_c = tangent(after[v]);
            vec<real> d_c = d_cell[v] + d_hidden[v] * o[v] * (1 - tanh_c * tanh_c);
            d_cell[v] = d_c * f[v];
            vec<real> d_i = d_c * g[v] * i[v] * (1 - i[v]);
            f[v] = d_c * before[v] * f[v] * (1 - f[v]);
            g[v] = d_c * i[v] * (1 - g[v] * g[v]);
            o[v] = d_hidden[v] * tanh_c * o[v] * (1 - o[v]);
            i[v] = d_i;
          }
          store(i.at, d_gates, row + r, column, width);
          store(f.at, d_gates, row + r, H + column, width);
          store(g.at, d_gates, row + r, 2 * H + column, width);
          store(o.at, d_gates, row + r, 3 * H + column, width);
          store(d_cell.at, running_cell, row + r, column, width);
        }
      });
      if (t == 0) break;
#pragma omp barrier
      const long step = (t - 1) * N;
      const Array<real> d_gates{d.gates + step * 4 * H, 4 * H}, d_raw{d.raw + step * 2 * Z, 2 * Z};
      const Array<real> d_activations{d.activations + step * M, M};
      // The gradients of z_t and of the posterior's output.
      share<real>(N, Z, thread, threads, [&](long p, long column, int width, long row, long rows) {
        const Array<real> raw{b.raw + step * 2 * Z, 2 * Z}, noise{b.noise + step * Z, Z};
        const Array<real> grad_z{maybe(d.grad_z, step * Z), Z};
        const Array<real> grad_mean{maybe(d.grad_mean, step * Z), Z};
        const Array<real> grad_log_variance{maybe(d.grad_log_variance, step * Z), Z};
        for (long r = 0; r < rows; ++r) load_or_zero(tile.at[r], grad_z, row + r, column, width);
        multiply(tile, d_gates, row, rows, latent, p);
        for (long r = 0; r < rows; ++r) {
          Row<real> mean(raw, row + r, column, width), spread(raw, row + r, Z + column, width);
          Row<real> sample(noise, row + r, column, width), d_mean, d_spread;
          load_or_zero(d_mean.at, grad_mean, row + r, column, width);
          load_or_zero(d_spread.at, grad_log_variance, row + r, column, width);
          vec<real> *d_z = tile.row(r);
          for (int v = 0; v < 2; ++v) {
            vec<real> deviation = exponential(bounded(spread[v], limit) * real(0.5));
            d_spread[v] += real(0.5) * d_z[v] * deviation * sample[v];
            d_mean[v] = inside(d_mean[v] + d_z[v], mean[v], limit);
            d_spread[v] = inside(d_spread[v], spread[v], limit);
          }
          store(d_mean.at, d_raw, row + r, column, width);
          store(d_spread.at, d_raw, row + r, Z + column, width);
        }
      });
#pragma omp barrier
      // The gradient of the posterior's hidden layer.
      share<real>(N, M, thread, threads, [&](long p, long column, int width, long row, long rows) {
        const Array<real> activations{b.activations + step * M, M};
        for (long r = 0; r < rows; ++r) std::memset(tile.at[r], 0, sizeof(tile.at[r]));
        multiply(tile, d_raw, row, rows, output, p);
        activate_backward(tile, activations, d_activations, row, rows, column, width);
      });
#pragma omp barrier
    }
  }
  return 0;
}

}  // namespace

// -- the chain in which only z feeds back ---------------------------------------------------------

// Widths of the hidden layers of all networks and of the posterior's; the rest is the prior's.
struct ChainSizes {
  long steps, rows, latent, width, posterior_width, threads;
  long latent_stride, raw_stride;
};

// See Tape and Weights in zpyro/nn/kernels/chain_loops.py.
template <typename real> struct ChainBuffers {
  const real *from_latent, *to_raw, *bias;
  real *activations, *raw, *z, *noise, *mean, *log_variance;
};

// Gradients of the outputs (null for zeros), and buffers for those of the inputs.
template <typename real> struct ChainGradients {
  real *grad_z, *grad_mean, *grad_log_variance;
  real *activations, *raw, *noise, *first;
};

namespace {

template <typename real> int run_chain_forward(const ChainSizes &s, const ChainBuffers<real> &b) {
  const long N = s.rows, Z = s.latent, M = s.width, Q = s.posterior_width, P = M - Q;
  const int outputs = P ? 3 : 2;
  const real limit = real(GAUSSIAN_BOUND);
  const long numbers_latent = Z * padded<real>(M), numbers_output = Q * padded<real>(Z);
  Memory<real> memory(numbers_latent + 2 * numbers_output + P * padded<real>(Z));
  Memory<real> scratch(N * M);
  if (memory.failed || scratch.failed) return 1;
  const Packed<real> latent{memory.start, Z};
  real *first = latent.start + numbers_latent;
  const Packed<real> output[3] = {
      {first, Q}, {first + numbers_output, Q}, {first + 2 * numbers_output, P}};
  const Array<real> active{scratch.start, M}, active_prior{scratch.start + Q, M};

#pragma omp parallel num_threads(int(s.threads))
  {
    const int thread = omp_get_thread_num(), threads = omp_get_num_threads();
    pack(latent, b.from_latent, 1, s.latent_stride, M, thread, threads);
    for (int q = 0; q < outputs; ++q)
      pack(output[q], b.to_raw + q * Z * s.raw_stride + (q == 2 ? Q : 0), 1, s.raw_stride, Z,
           thread, threads);
    Tile<real> tiles[3];
#pragma omp barrier
    for (long t = 0; t < s.steps; ++t) {
      const Array<real> before{b.z + t * N * Z, Z}, z{b.z + (t + 1) * N * Z, Z};
      const Array<real> activations{b.activations + t * N * M, M};
      const Array<real> raw{b.raw + t * N * outputs * Z, outputs * Z};
      const Array<real> noise{b.noise + t * N * Z, Z}, means{b.mean + t * N * Z, Z};
      const Array<real> log_variances{b.log_variance + t * N * Z, Z};

      // The hidden layers.
      share<real>(N, M, thread, threads, [&](long p, long column, int width, long row, long rows) {
        Tile<real> &tile = tiles[0];
        for (long r = 0; r < rows; ++r) load(tile.at[r], activations, row + r, column, width);
        multiply(tile, before, row, rows, latent, p);
        activate(tile, activations, active, row, rows, column, width);
      });
#pragma omp barrier
      // The outputs, and z_t.
      share<real>(N, Z, thread, threads, [&](long p, long column, int width, long row, long rows) {
        const Array<real> biases{const_cast<real *>(b.bias), 0};
        for (int q = 0; q < outputs; ++q) {
          for (long r = 0; r < rows; ++r) load(tiles[q].at[r], biases, 0, q * Z + column, width);
          multiply(tiles[q], q == 2 ? active_prior : active, row, rows, output[q], p);
        }
        for (long r = 0; r < rows; ++r) {
          for (int q = 0; q < outputs; ++q)
            store(tiles[q].at[r], raw, row + r, q * Z + column, width);
          Row<real> sample(noise, row + r, column, width);
          vec<real> *mean = tiles[0].row(r), *log_variance = tiles[1].row(r);
          for (int v = 0; v < 2; ++v) {
            mean[v] = bounded(mean[v], limit);
            if (outputs == 3) mean[v] += bounded(tiles[2].row(r)[v], limit);
            log_variance[v] = bounded(log_variance[v], limit);
            sample[v] = mean[v] + exponential(log_variance[v] * real(0.5)) * sample[v];
          }
          store(tiles[0].at[r], means, row + r, column, width);
          store(tiles[1].at[r], log_variances, row + r, column, width);
          store(sample.at, z, row + r, column, width);
        }
      });
#pragma omp barrier
    }
  }
  return 0;
}

template <typename real>
int run_chain_backward(const ChainSizes &s, const ChainBuffers<real> &b,
                       const ChainGradients<real> &d) {
  const long T = s.steps, N = s.rows, Z = s.latent, M = s.width, Q = s.posterior_width, P = M - Q;
  const int outputs = P ? 3 : 2;
  const real limit = real(GAUSSIAN_BOUND);
  const long numbers_latent = M * padded<real>(Z), numbers_posterior = 2 * Z * padded<real>(Q);
  Memory<real> memory(numbers_latent + numbers_posterior + Z * padded<real>(P));
  if (memory.failed) return 1;
  const Packed<real> latent{memory.start, M};
  const Packed<real> posterior{latent.start + numbers_latent, 2 * Z};
  const Packed<real> prior{posterior.start + numbers_posterior, Z};
  const Array<real> first{d.first, Z};

#pragma omp parallel num_threads(int(s.threads))
  {
    const int thread = omp_get_thread_num(), threads = omp_get_num_threads();
    pack(latent, b.from_latent, s.latent_stride, 1, Z, thread, threads);
    pack(posterior, b.to_raw, s.raw_stride, 1, Q, thread, threads);
    if (P) pack(prior, b.to_raw + 2 * Z * s.raw_stride + Q, s.raw_stride, 1, P, thread, threads);
    Tile<real> tile;
#pragma omp barrier
    for (long t = T - 1; t >= -1; --t) {
      const long step = t * N;
      const Array<real> d_raw{d.raw + step * outputs * Z, outputs * Z};
      // The gradients of z_t and of the outputs.
      share<real>(N, Z, thread, threads, [&](long p, long column, int width, long row, long rows) {
        const Array<real> grad_z{t < 0 ? nullptr : maybe(d.grad_z, step * Z), Z};
        for (long r = 0; r < rows; ++r) load_or_zero(tile.at[r], grad_z, row + r, column, width);
        if (t < T - 1) multiply(tile, {d.activations + (t + 1) * N * M, M}, row, rows, latent, p);
        if (t < 0) {
          for (long r = 0; r < rows; ++r) store(tile.at[r], first, row + r, column, width);
          return;
        }
        const Array<real> raw{b.raw + step * outputs * Z, outputs * Z};
        const Array<real> raw_prior{P ? raw.start + 2 * Z : nullptr, raw.stride};
        const Array<real> noise{b.noise + step * Z, Z};
        const Array<real> d_noise{d.noise + step * Z, Z};
        const Array<real> grad_mean{maybe(d.grad_mean, step * Z), Z};
        const Array<real> grad_log_variance{maybe(d.grad_log_variance, step * Z), Z};
        for (long r = 0; r < rows; ++r) {
          Row<real> mean(raw, row + r, column, width), spread(raw, row + r, Z + column, width);
          Row<real> residual, sample(noise, row + r, column, width), d_mean, d_spread;
          load_or_zero(residual.at, raw_prior, row + r, column, width);
          load_or_zero(d_mean.at, grad_mean, row + r, column, width);
          load_or_zero(d_spread.at, grad_log_variance, row + r, column, width);
          vec<real> *d_z = tile.row(r);
          for (int v = 0; v < 2; ++v) {
            vec<real> deviation = exponential(bounded(spread[v], limit) * real(0.5));
            d_spread[v] += real(0.5) * d_z[v] * deviation * sample[v];
            d_spread[v] = inside(d_spread[v], spread[v], limit);
            d_mean[v] += d_z[v];
            residual[v] = inside(d_mean[v], residual[v], limit);
            d_mean[v] = inside(d_mean[v], mean[v], limit);
            d_z[v] *= deviation;
          }
          store(tile.at[r], d_noise, row + r, column, width);
          store(d_mean.at, d_raw, row + r, column, width);
          store(d_spread.at, d_raw, row + r, Z + column, width);
          if (P) store(residual.at, d_raw, row + r, 2 * Z + column, width);
        }
      });
      if (t < 0) break;
#pragma omp barrier
      // The gradients of the hidden layers.
      auto hidden = [&](long columns, const Packed<real> &output, long before, long unit) {
        share<real>(N, columns, thread, threads,
                    [&](long p, long column, int width, long row, long rows) {
          const Array<real> activations{b.activations + step * M + unit, M};
          const Array<real> d_activations{d.activations + step * M + unit, M};
          const Array<real> gradients{d_raw.start + before, d_raw.stride};
          for (long r = 0; r < rows; ++r) std::memset(tile.at[r], 0, sizeof(tile.at[r]));
          multiply(tile, gradients, row, rows, output, p);
          activate_backward(tile, activations, d_activations, row, rows, column, width);
        });
      };
      hidden(Q, posterior, 0, 0);
      if (P) hidden(P, prior, 2 * Z, Q);
#pragma omp barrier
    }
  }
  return 0;
}

}  // namespace

// Each returns 0, or 1 if memory could not be allocated.
extern "C" {
int forward_float(const Sizes *s, const Buffers<float> *b) { return run_forward(*s, *b); }
int forward_double(const Sizes *s, const Buffers<double> *b) { return run_forward(*s, *b); }
int backward_float(const Sizes *s, const Buffers<float> *b, const Gradients<float> *d) {
  return run_backward(*s, *b, *d);
}
int backward_double(const Sizes *s, const Buffers<double> *b, const Gradients<double> *d) {
  return run_backward(*s, *b, *d);
}
int chain_forward_float(const ChainSizes *s, const ChainBuffers<float> *b) {
  return run_chain_forward(*s, *b);
}
int chain_forward_double(const ChainSizes *s, const ChainBuffers<double> *b) {
  return run_chain_forward(*s, *b);
}
int chain_backward_float(const ChainSizes *s, const ChainBuffers<float> *b,
                         const ChainGradients<float> *d) {
  return run_chain_backward(*s, *b, *d);
}
int chain_backward_double(const ChainSizes *s, const ChainBuffers<double> *b,
                          const ChainGradients<double> *d) {
  return run_chain_backward(*s, *b, *d);
}
}
