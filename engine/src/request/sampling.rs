//! The fields that say how tokens are drawn.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::fields::{Fields, brief};
use crate::job::RequestError;
use crate::sampler::Sampling;

/// OpenAI's bound on biased tokens.
const LOGIT_BIAS_MAX: usize = 300;

/// Reads them with OpenAI's defaults; `top_k`, `min_p` and `repetition_penalty` are vLLM's additions.
pub(super) fn read(fields: &mut Fields<'_>, vocabulary: usize, request_key: &str) -> Result<Sampling, RequestError> {
    let seed = fields.integer("seed", i64::MIN, i64::MAX)?;
    let repetition_penalty = fields.number("repetition_penalty", 0.0, 10.0)?.unwrap_or(1.0);
    if repetition_penalty == 0.0 {
        return Err(RequestError::invalid(
            "repetition_penalty",
            "repetition_penalty is 0, but must be above it",
        ));
    }
    let top_k = match fields.integer("top_k", -1, i64::MAX)? {
        None | Some(-1) => 0,
        Some(count) => usize::try_from(count).unwrap_or(usize::MAX),
    };
    Ok(Sampling {
        temperature: fields.number("temperature", 0.0, 2.0)?.unwrap_or(1.0),
        top_k,
        top_p: fields.number("top_p", 0.0, 1.0)?.unwrap_or(1.0),
        min_p: fields.number("min_p", 0.0, 1.0)?.unwrap_or(0.0),
        repetition_penalty,
        presence_penalty: fields.number("presence_penalty", -2.0, 2.0)?.unwrap_or(0.0),
        frequency_penalty: fields.number("frequency_penalty", -2.0, 2.0)?.unwrap_or(0.0),
        logit_bias: logit_bias(fields, vocabulary)?,
        seed: seed.map_or_else(|| seed_of(request_key), |seed| seed as u64),
    })
}

/// The same request has the same seed, wherever and whenever it runs.
fn seed_of(request_key: &str) -> u64 {
    let digest = Sha256::digest(request_key.as_bytes());
    digest.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}

/// `logit_bias`: an object from token ids, as strings, to biases from −100 to 100.
fn logit_bias(fields: &mut Fields<'_>, vocabulary: usize) -> Result<Vec<(u32, f32)>, RequestError> {
    let Some(value) = fields.value("logit_bias") else {
        return Ok(Vec::new());
    };
    let invalid = |message: String| Err(RequestError::invalid("logit_bias", message));
    let Some(object) = value.as_object().filter(|object| object.len() <= LOGIT_BIAS_MAX) else {
        return invalid(format!(
            "logit_bias is {}, but must be an object of up to {LOGIT_BIAS_MAX} tokens",
            brief(value)
        ));
    };
    let mut biases = Vec::with_capacity(object.len());
    for (key, value) in object {
        let token = key.parse::<u32>().ok().filter(|token| (*token as usize) < vocabulary);
        let bias = Value::as_f64(value).filter(|bias| bias.abs() <= 100.0);
        match (token, bias) {
            (Some(token), Some(bias)) => biases.push((token, bias as f32)),
            (None, _) => {
                return invalid(format!(
                    "logit_bias has the key {}, but token ids go from 0 to {}",
                    brief(&Value::from(key.as_str())),
                    vocabulary - 1
                ));
            }
            (_, None) => {
                return invalid(format!(
                    "logit_bias gives {key} {}, but biases go from -100 to 100",
                    brief(value)
                ));
            }
        }
    }
    Ok(biases)
}
