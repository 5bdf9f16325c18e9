/* What the C files of this package share; each is found and run by recsys/native.py. */
#ifndef RECSYS_NATIVE_H
#define RECSYS_NATIVE_H

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
/* One wheel, fast everywhere: the loader picks the variant of this processor. Results are equal,
 * because sums have a fixed order and -ffp-contract=off forbids fused multiply-add. */
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONES
#endif

#endif
