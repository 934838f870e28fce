//! The rotary frequencies of a model, scaled for contexts longer than it was first trained for.
//!
//! As `modeling_rope_utils.py` in transformers computes them, in float32 where it does.

/// How the plain frequencies `base^(−2i / head_dim)` are changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scaling {
    None,
    /// Divided by a factor, all alike.
    Linear(f64),
    /// Llama 3.1: high frequencies stay, low ones are divided by the factor, those between by something between.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_context: f64,
    },
}

/// The frequencies of the pairs of a head's values, `[head_dim / 2]`.
pub(crate) fn frequencies(base: f64, head_dim: usize, scaling: Scaling) -> Vec<f32> {
    let plain = kernels::float::Rope::frequencies(base as f32, head_dim);
    match scaling {
        Scaling::None => plain,
        Scaling::Linear(factor) => plain.into_iter().map(|frequency| frequency / factor as f32).collect(),
        Scaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_context,
        } => {
            let (low, high) = (original_context / low_freq_factor, original_context / high_freq_factor);
            let scale = |frequency: f32| {
                let wavelength = std::f32::consts::TAU / frequency;
                if f64::from(wavelength) < high {
                    frequency
                } else if f64::from(wavelength) > low {
                    frequency / factor as f32
                } else {
                    let kept = (original_context as f32 / wavelength - low_freq_factor as f32)
                        / (high_freq_factor - low_freq_factor) as f32;
                    (1.0 - kept) * frequency / factor as f32 + kept * frequency
                }
            };
            plain.into_iter().map(scale).collect()
        }
    }
}
