//! The LM head: every logit, and the largest of each state.

use kernels::float::{DenseMatrix, argmax};
use kernels::head::Head;

use crate::Results;
use crate::cases::{Bench, Work, noise};
use crate::limits::Unit;

/// Rows and columns.
const SHAPE: (usize, usize) = (128_256, 2560);
/// States in a batch.
const STATES: [usize; 3] = [1, 8, 64];

impl Bench<'_> {
    pub(crate) fn head(&self, results: &mut Results) {
        let (rows, cols) = SHAPE;
        let dense_name = |states| format!("bf16 head {rows} x {cols}, {states} states");
        let greedy_name = |states| format!("greedy head {rows} x {cols}, {states} states");
        let asked = |states: &usize| self.asked(&dense_name(*states)) || self.asked(&greedy_name(*states));
        if !STATES.iter().any(asked) {
            return;
        }
        let kernel = self.options.kernel;
        let bits: Vec<u16> = noise(3, rows * cols).map(|x| (x.to_bits() >> 16) as u16).collect();
        let matrix = DenseMatrix::from_bf16(rows, cols, bits).expect("the length is right");
        let head = Head::new(kernel, &matrix);
        for states in STATES.into_iter().filter(asked) {
            let x: Vec<f32> = noise(4, states * cols).collect();
            let mut out = vec![f32::NAN; states * rows];
            matrix.logits(kernel, &x, &mut out);
            check_logits(&matrix, &x, &out);
            let largest: Vec<Option<usize>> = out.chunks(rows).map(|logits| argmax(kernel, logits)).collect();
            let written = states * (cols + rows) * 4;
            let work = Work {
                macs: rows * cols * states,
                bytes: matrix.bytes_len() + written,
            };
            if self.asked(&dense_name(states)) {
                let run = || matrix.logits(kernel, &x, &mut out);
                results
                    .cases
                    .push(self.measure(dense_name(states), Unit::F32, work, run));
            }
            // Without a copy in int8 the greedy head is the other one.
            let Some(bytes_len) = head.bytes_len().filter(|_| self.asked(&greedy_name(states))) else {
                continue;
            };
            out.fill(f32::NAN);
            let run = || head.largest_logits(kernel, &matrix, &x, &mut out);
            // A state is two int8 values for each of its own.
            let work = Work {
                macs: 2 * rows * cols * states,
                bytes: bytes_len + written,
            };
            results
                .cases
                .push(self.measure(greedy_name(states), Unit::Int8, work, run));
            let same = out.chunks(rows).map(|logits| argmax(kernel, logits)).eq(largest);
            assert!(same, "the greedy head chose another row");
        }
    }
}

/// Panics unless a sample of the logits is close to the sum in f64.
fn check_logits(matrix: &DenseMatrix, x: &[f32], out: &[f32]) {
    let mut row = vec![0.0; matrix.cols()];
    for i in (0..out.len()).step_by(out.len() / 500 + 1) {
        matrix.row(i % matrix.rows(), &mut row);
        let x = &x[i / matrix.rows() * matrix.cols()..][..matrix.cols()];
        let exact: f64 = row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
        assert!(
            (f64::from(out[i]) - exact).abs() < 1e-3,
            "logit {i} is {} instead of {exact}",
            out[i]
        );
    }
    assert!(out.iter().all(|x| x.is_finite()), "some logits were not written");
}
