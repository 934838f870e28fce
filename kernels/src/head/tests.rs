use super::*;
use crate::float::argmax;

fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next() * next() * next()).collect()
}

/// The largest logits of every kernel, and how many rows have exact ones.
fn check(matrix: &DenseMatrix, x: &[f32]) -> usize {
    let (rows, states) = (matrix.rows(), x.len() / matrix.cols());
    let mut exact_rows = 0;
    for kernel in Kernel::available() {
        let (mut exact, mut out) = (vec![0.0; states * rows], vec![0.0; states * rows]);
        matrix.logits(kernel, x, &mut exact);
        Head::new(kernel, matrix).largest_logits(kernel, matrix, x, &mut out);
        for (state, (exact, out)) in exact.chunks(rows).zip(out.chunks(rows)).enumerate() {
            let best = argmax(kernel, exact);
            assert_eq!(argmax(kernel, out), best, "{kernel}, state {state} of {states}");
            if let Some(best) = best {
                assert_eq!(out[best].to_bits(), exact[best].to_bits(), "{kernel}, state {state}");
            }
            let right = |(out, exact): (&f32, &f32)| out == exact || *out > *exact || exact.is_nan();
            assert!(out.iter().zip(exact).all(right), "{kernel}: a bound is below its logit");
        }
        exact_rows = out.iter().zip(&exact).filter(|(out, exact)| out == exact).count();
    }
    exact_rows
}

#[test]
fn the_largest_logit_is_the_dense_one() {
    for (rows, cols, states) in [
        (1, 1, 1),
        (70, 33, 6),
        (130, 64, 1),
        (1000, 256, 7),
        (64, 100, 40),
        (3, 8, 0),
    ] {
        let matrix = DenseMatrix::from_f32(rows, cols, noise(1, rows * cols)).unwrap();
        check(&matrix, &noise(2, states * cols));
    }
}

#[test]
fn few_rows_remain_of_many() {
    let matrix = DenseMatrix::from_f32(8192, 512, noise(3, 8192 * 512)).unwrap();
    let exact_rows = check(&matrix, &noise(4, 512));
    let shortlisted = Head::new(Kernel::best(), &matrix).bytes_len().is_some();
    assert!(
        !shortlisted || exact_rows < 256,
        "{exact_rows} rows were computed exactly"
    );
}

#[test]
fn equal_and_close_logits_are_told_apart() {
    let mut weights = vec![0.5; 300 * 40];
    weights[170 * 40] = 0.500_000_06; // by the last bit
    let matrix = DenseMatrix::from_f32(300, 40, weights).unwrap();
    check(&matrix, &[1.0; 40]);
    check(&matrix, &[0.0; 80]);
}

#[test]
fn what_is_not_finite_is_computed_as_ever() {
    let mut weights = noise(5, 200 * 16);
    (weights[16 * 3], weights[16 * 90]) = (f32::NAN, f32::INFINITY);
    let matrix = DenseMatrix::from_f32(200, 16, weights).unwrap();
    check(&matrix, &[0.25; 16]);
    check(&matrix, &[f32::NAN; 16]);
    check(&matrix, &[f32::MAX; 32]);
}
