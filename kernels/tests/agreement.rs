//! Every kernel gives what the specification gives, over awkward shapes and the worst values.

use kernels::activations::Activations;
use kernels::matmul::{Projection, matmul, matmul_i32};
use kernels::ternary::TernaryMatrix;
use kernels::{Kernel, float};
use proptest::prelude::*;

/// A matrix and activations `x [tokens, cols]` whose quantized values are `x` itself.
#[derive(Clone, Debug)]
struct Case {
    rows: usize,
    cols: usize,
    weights: Vec<i8>,
    x: Vec<f32>,
}

impl Case {
    /// The sums by the definition of a product.
    fn expected(&self) -> Vec<i32> {
        let product = |token: usize, row: usize| {
            let (w, x) = (
                &self.weights[row * self.cols..][..self.cols],
                &self.x[token * self.cols..][..self.cols],
            );
            w.iter().zip(x).map(|(w, x)| i32::from(*w) * *x as i32).sum()
        };
        let tokens = self.x.len() / self.cols;
        (0..tokens)
            .flat_map(|token| (0..self.rows).map(move |row| product(token, row)))
            .collect()
    }

    fn check(&self) {
        let matrix = TernaryMatrix::from_weights(self.rows, self.cols, 0.37, &self.weights).unwrap();
        let mut activations = Activations::new();
        let expected = self.expected();
        for kernel in Kernel::available() {
            activations.quantize(kernel, &self.x, self.cols);
            let mut sums = vec![i32::MIN; expected.len()];
            matmul_i32(kernel, &activations, &matrix, &mut sums);
            assert!(
                sums == expected,
                "{kernel}: {} x {}, {} tokens",
                self.rows,
                self.cols,
                activations.tokens()
            );
            let mut out = vec![f32::NAN; expected.len()];
            matmul(
                kernel,
                &activations,
                &mut [Projection {
                    weights: &matrix,
                    out: &mut out,
                }],
            );
            for (i, (out, sum)) in out.iter().zip(&expected).enumerate() {
                assert_eq!(*out, *sum as f32 * (activations.step(i / self.rows) * 0.37), "{kernel}");
            }
        }
    }
}

/// Awkward shapes; the first activation of each token is ±127, so that its scale is 1 and `x` stays as it is.
fn case() -> impl Strategy<Value = Case> {
    (0usize..140, 1usize..600, prop_oneof![0usize..14, 14usize..80]).prop_flat_map(|(rows, cols, tokens)| {
        let weights = prop::collection::vec(-1i8..=1, rows * cols);
        let x = prop::collection::vec(-127i8..=127, tokens * cols);
        (weights, x).prop_map(move |(weights, x)| {
            let mut x: Vec<f32> = x.into_iter().map(f32::from).collect();
            x.chunks_mut(cols)
                .for_each(|token| token[0] = 127f32.copysign(token[0]));
            Case { rows, cols, weights, x }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn products_agree(case in case()) {
        case.check();
    }

    #[test]
    fn float_passes_agree(x in prop::collection::vec(-30f32..30.0, 0..300), shift in -3f32..3.0) {
        let y: Vec<f32> = x.iter().rev().map(|x| x + shift).collect();
        for (name, pass) in PASSES {
            let expected = pass(Kernel::Scalar, &x, &y);
            for kernel in Kernel::available() {
                prop_assert_eq!(&pass(kernel, &x, &y), &expected, "{} with {}", name, kernel);
            }
        }
    }
}

type FloatPass = fn(Kernel, &[f32], &[f32]) -> Vec<u32>;

/// Each float kernel as a function of two rows, its result as bits.
const PASSES: [(&str, FloatPass); 9] = [
    ("relu_squared", |kernel, x, y| {
        in_place(x, |x| float::relu_squared(kernel, x, y))
    }),
    ("silu", |kernel, x, y| in_place(x, |x| float::silu(kernel, x, y))),
    ("add", |kernel, x, y| in_place(x, |x| float::add(kernel, x, y))),
    ("rms_norm", |kernel, x, y| {
        in_place(x, |x| float::rms_norm(kernel, x, y, 1e-5))
    }),
    ("softmax", |kernel, x, _| in_place(x, |x| float::softmax(kernel, x))),
    ("log_softmax", |kernel, x, _| {
        in_place(x, |x| float::log_softmax(kernel, x))
    }),
    ("rotate", |kernel, x, _| {
        let head_dim = x.len() / 4 * 2;
        let rope = float::Rope::new(&float::Rope::frequencies(1e4, head_dim), 8);
        in_place(&x[..head_dim * 2], |x| {
            rope.rotate(kernel, &[3, 7][..if x.is_empty() { 0 } else { 2 }], x)
        })
    }),
    ("logits", |kernel, x, y| {
        let matrix = float::DenseMatrix::from_f32(1, y.len(), y.to_vec()).unwrap();
        in_place(&[0.0][..usize::from(!x.is_empty())], |out| {
            matrix.logits(kernel, x, out)
        })
    }),
    ("quantize", |kernel, x, _| {
        let mut activations = Activations::new();
        activations.quantize(kernel, x, x.len());
        let token = |t| {
            activations
                .values(t)
                .map(|q| q as u32)
                .chain([activations.step(t).to_bits()])
                .collect::<Vec<_>>()
        };
        (0..activations.tokens()).flat_map(token).collect()
    }),
];

fn in_place(x: &[f32], work: impl FnOnce(&mut [f32])) -> Vec<u32> {
    let mut out = x.to_vec();
    work(&mut out);
    out.into_iter().map(f32::to_bits).collect()
}

/// What one kernel quantized, every other can multiply, in whatever order the values lie.
#[test]
fn kernels_take_each_others_activations() {
    let weights: Vec<i8> = (0..70 * 133)
        .map(|i| (i * 31 + i / 7) % 3)
        .map(|w| w as i8 - 1)
        .collect();
    let matrix = TernaryMatrix::from_weights(70, 133, 1.0, &weights).unwrap();
    for tokens in [1, 12, 13, 40] {
        let x: Vec<f32> = (0..tokens * 133).map(|i| ((i * 53) % 97) as f32 - 48.0).collect();
        let products = |quantizer, multiplier| {
            let (mut activations, mut sums) = (Activations::new(), vec![0; tokens * 70]);
            activations.quantize(quantizer, &x, 133);
            matmul_i32(multiplier, &activations, &matrix, &mut sums);
            sums
        };
        let expected = products(Kernel::Scalar, Kernel::Scalar);
        for (quantizer, multiplier) in Kernel::available().flat_map(|q| Kernel::available().map(move |m| (q, m))) {
            assert!(
                products(quantizer, multiplier) == expected,
                "{quantizer}, {multiplier}, {tokens} tokens"
            );
        }
    }
}

#[test]
fn a_matrix_without_rows_and_a_batch_without_tokens_do_nothing() {
    for (rows, tokens) in [(0, 3), (3, 0), (0, 0)] {
        Case {
            rows,
            cols: 5,
            weights: vec![1; rows * 5],
            x: vec![127.0; tokens * 5],
        }
        .check();
    }
}

#[test]
fn the_number_of_threads_does_not_show() {
    let weights: Vec<i8> = (0..500 * 300)
        .map(|i| (i * 31 + i / 7) % 3)
        .map(|w| w as i8 - 1)
        .collect();
    let matrix = TernaryMatrix::from_weights(500, 300, 0.01, &weights).unwrap();
    let x: Vec<f32> = (0..9 * 300).map(|i| ((i * 53) % 97) as f32 * 0.1 - 4.0).collect();
    let product = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut activations = Activations::new();
            activations.quantize(Kernel::best(), &x, 300);
            let (mut a, mut b) = (vec![0.0; 9 * 500], vec![0.0; 9 * 500]);
            let projection = |out| Projection { weights: &matrix, out };
            matmul(
                Kernel::best(),
                &activations,
                &mut [projection(&mut a), projection(&mut b)],
            );
            (a, b)
        })
    };
    let expected = product(1);
    assert_eq!(expected.0, expected.1);
    for threads in [2, 3, 7] {
        assert!(product(threads) == expected, "{threads} threads");
    }
}
