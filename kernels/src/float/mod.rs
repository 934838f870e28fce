//! The float kernels around the products. Each is written once, as a [`Pass`](crate::cpu::Pass) over lanes.

pub mod rms_norm;
pub mod gate;
pub mod rope;
pub mod softmax;
pub mod kv_cache;
pub mod attention;
pub mod dense;
pub(crate) mod lanes;
pub(crate) mod simd;

pub use attention::{QuerySpan, attention};
pub use dense::{DenseError, DenseMatrix};
pub use gate::{add, relu_squared, silu};
pub use kv_cache::{KvCache, KvShape, KvShapeError};
pub use rms_norm::rms_norm;
pub use rope::Rope;
pub use softmax::{argmax, log_softmax, softmax};
