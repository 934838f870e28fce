//! `config.json` of Hugging Face: which arithmetic a model wants, and how its weights lie in the files.

use std::path::Path;

use kernels::ternary::LAYOUT;
use serde::Deserialize;
use serde_json::{Value, json};

use super::rope::{self, Scaling};
use super::{Activation, Architecture, Config, SIZE_MAX};
use crate::model::error::LoadError;

/// The mode of `quantization_config` that only our own packed directories have.
const TILES: &str = "tiles";
pub(crate) const BITNET: &str = "BitNetForCausalLM";
pub(crate) const LLAMA: &str = "LlamaForCausalLM";

/// How the ternary weights lie in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WeightForm {
    /// Four ternary values a byte, or one a float, with a `weight_scale` that multiplies the product (`autobitlinear`).
    Multiply,
    /// The same with a `weight_scale` that divides it (`bitlinear`).
    Divide,
    /// Full-precision weights, made ternary at load.
    Master,
    /// In the order that the kernels read, with a `weight_scale` that multiplies: what `convert` writes.
    Tiles,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    architectures: Vec<String>,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: Option<f64>,
    hidden_act: Option<String>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    tie_word_embeddings: Option<bool>,
    rope_theta: Option<f64>,
    rope_parameters: Option<RawRope>,
    rope_scaling: Option<RawRope>,
    rope_frequencies: Option<Vec<f32>>,
    eos_token_id: Option<TokenIds>,
    quantization_config: Option<RawQuantization>,
}

#[derive(Deserialize)]
struct RawRope {
    rope_theta: Option<f64>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    partial_rotary_factor: Option<f64>,
}

#[derive(Deserialize)]
struct RawQuantization {
    quant_method: Option<String>,
    linear_class: Option<String>,
    quantization_mode: Option<String>,
    use_rms_norm: Option<bool>,
    layout: Option<String>,
}

/// `eos_token_id` is one id or a list of them.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum TokenIds {
    One(u32),
    Many(Vec<u32>),
}

impl TokenIds {
    pub(crate) fn into_vec(self) -> Vec<u32> {
        match self {
            TokenIds::One(id) => vec![id],
            TokenIds::Many(ids) => ids,
        }
    }
}

/// Reads the text of a `config.json` that lies at `path`.
pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<(Config, WeightForm), LoadError> {
    let raw: Raw = serde_json::from_slice(text).map_err(|error| LoadError::invalid(path, error.to_string()))?;
    let (architecture, activation) = architecture(path, &raw)?;
    let weights = weight_form(path, raw.quantization_config.as_ref())?;
    let (theta, scaling) = (rope_theta(path, &raw)?, rope_scaling(path, &raw)?);
    let (hidden, heads) = (raw.hidden_size, raw.num_attention_heads);
    let head_dim = raw.head_dim.unwrap_or(hidden.checked_div(heads).unwrap_or(0));
    let config = Config {
        architecture,
        activation,
        layers: raw.num_hidden_layers,
        hidden,
        feed_forward: raw.intermediate_size,
        heads,
        kv_heads: raw.num_key_value_heads.unwrap_or(heads),
        head_dim,
        vocabulary: raw.vocab_size,
        context_length: raw.max_position_embeddings,
        rms_norm_eps: raw.rms_norm_eps.unwrap_or(1e-6) as f32,
        rope_frequencies: raw
            .rope_frequencies
            .unwrap_or_else(|| rope::frequencies(theta, head_dim.min(SIZE_MAX), scaling)),
        tied: raw.tie_word_embeddings.unwrap_or(false),
        eos: raw.eos_token_id.map(TokenIds::into_vec).unwrap_or_default(),
    };
    config.check(path, str::to_owned)?;
    Ok((config, weights))
}

/// The `config.json` of a directory with tiles in it.
pub(crate) fn tiles_json(config: &Config) -> Value {
    let (architecture, model_type) = match config.architecture {
        Architecture::BitNet => (BITNET, "bitnet"),
        Architecture::Llama => (LLAMA, "llama"),
    };
    let hidden_act = match config.activation {
        Activation::ReluSquared => "relu2",
        Activation::Silu => "silu",
    };
    json!({
        "architectures": [architecture], "model_type": model_type, "hidden_act": hidden_act,
        "num_hidden_layers": config.layers, "hidden_size": config.hidden, "intermediate_size": config.feed_forward,
        "num_attention_heads": config.heads, "num_key_value_heads": config.kv_heads, "head_dim": config.head_dim,
        "vocab_size": config.vocabulary, "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.rms_norm_eps, "rope_frequencies": config.rope_frequencies,
        "tie_word_embeddings": config.tied, "eos_token_id": config.eos,
        "quantization_config": {
            "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": TILES, "layout": LAYOUT,
        },
    })
}

fn architecture(path: &Path, raw: &Raw) -> Result<(Architecture, Activation), LoadError> {
    let (architecture, usual) = match &raw.architectures[..] {
        [name] if name == BITNET => (Architecture::BitNet, Activation::ReluSquared),
        [name] if name == LLAMA => (Architecture::Llama, Activation::Silu),
        other => {
            let message = format!("architectures is {other:?}, but only [{BITNET:?}] and [{LLAMA:?}] are supported");
            return Err(LoadError::unsupported(path, message));
        }
    };
    let activation = match raw.hidden_act.as_deref() {
        None => usual,
        Some("relu2") => Activation::ReluSquared,
        Some("silu") => Activation::Silu,
        Some(other) => {
            let message = format!("hidden_act is {other:?}, but only \"relu2\" and \"silu\" are supported");
            return Err(LoadError::unsupported(path, message));
        }
    };
    for (key, bias) in [("attention_bias", raw.attention_bias), ("mlp_bias", raw.mlp_bias)] {
        if bias {
            let message = format!("{key} is true, but projections with a bias are not supported");
            return Err(LoadError::unsupported(path, message));
        }
    }
    Ok((architecture, activation))
}

fn weight_form(path: &Path, raw: Option<&RawQuantization>) -> Result<WeightForm, LoadError> {
    let unsupported = |key: &str, value: &str, supported: &str| {
        let message = format!("quantization_config.{key} is {value:?}, but only {supported} is supported");
        Err(LoadError::unsupported(path, message))
    };
    let Some(raw) = raw else {
        let message =
            "quantization_config is missing, so the weights are not ternary; expected quant_method \"bitnet\"";
        return Err(LoadError::unsupported(path, message));
    };
    let method = raw.quant_method.as_deref().unwrap_or_default();
    if method != "bitnet" {
        return unsupported("quant_method", method, "\"bitnet\"");
    }
    if raw.use_rms_norm == Some(true) {
        return unsupported("use_rms_norm", "true", "false");
    }
    // Both defaults are those of transformers' `BitNetQuantConfig`.
    let class = raw.linear_class.as_deref().unwrap_or("bitlinear");
    let mode = raw.quantization_mode.as_deref().unwrap_or("offline");
    match (class, mode) {
        ("autobitlinear", "offline") => Ok(WeightForm::Multiply),
        ("autobitlinear", "online") => Ok(WeightForm::Master),
        ("bitlinear", "offline") => Ok(WeightForm::Divide),
        ("autobitlinear", TILES) => match raw.layout.as_deref() {
            Some(LAYOUT) => Ok(WeightForm::Tiles),
            other => {
                let message = format!(
                    "quantization_config.layout is {other:?}, but this version reads {LAYOUT:?}; convert the original again"
                );
                Err(LoadError::unsupported(path, message))
            }
        },
        ("bitlinear" | "autobitlinear", _) => unsupported(
            "quantization_mode",
            mode,
            "\"offline\", or \"online\" with autobitlinear,",
        ),
        _ => unsupported("linear_class", class, "\"autobitlinear\" or \"bitlinear\""),
    }
}

/// The rotary base stands in `rope_theta`, or since transformers 5 in `rope_parameters`.
fn rope_theta(path: &Path, raw: &Raw) -> Result<f64, LoadError> {
    let nested = raw.rope_parameters.as_ref().and_then(|rope| rope.rope_theta);
    let theta = nested.or(raw.rope_theta).unwrap_or(10_000.0);
    if !((theta as f32).is_finite() && theta >= 1.0) {
        return Err(LoadError::invalid(
            path,
            format!("rope_theta is {theta}, but must be at least 1"),
        ));
    }
    Ok(theta)
}

/// The scaling stands in `rope_scaling`, or since transformers 5 in `rope_parameters`.
fn rope_scaling(path: &Path, raw: &Raw) -> Result<Scaling, LoadError> {
    let (key, rope) = match (&raw.rope_parameters, &raw.rope_scaling) {
        (Some(rope), _) if rope.rope_type.is_some() => ("rope_parameters", rope),
        (_, Some(rope)) => ("rope_scaling", rope),
        (Some(rope), None) => ("rope_parameters", rope),
        (None, None) => return Ok(Scaling::None),
    };
    if rope.partial_rotary_factor.is_some_and(|factor| factor != 1.0) {
        let message = format!("{key}.partial_rotary_factor is not 1, and no other is supported");
        return Err(LoadError::unsupported(path, message));
    }
    let positive = |name: &str, value: Option<f64>| match value {
        Some(value) if value > 0.0 && (value as f32).is_finite() => Ok(value),
        Some(value) => Err(LoadError::invalid(
            path,
            format!("{key}.{name} is {value}, but must be positive"),
        )),
        None => Err(LoadError::invalid(path, format!("{key}.{name} is missing"))),
    };
    match rope.rope_type.as_deref().unwrap_or("default") {
        "default" => Ok(Scaling::None),
        "linear" => Ok(Scaling::Linear(positive("factor", rope.factor)?)),
        "llama3" => {
            let trained = rope
                .original_max_position_embeddings
                .or(Some(raw.max_position_embeddings as f64));
            let (low, high) = (
                positive("low_freq_factor", rope.low_freq_factor)?,
                positive("high_freq_factor", rope.high_freq_factor)?,
            );
            if low >= high {
                let message = format!("{key}.low_freq_factor is {low}, but must be below high_freq_factor, {high}");
                return Err(LoadError::invalid(path, message));
            }
            Ok(Scaling::Llama3 {
                factor: positive("factor", rope.factor)?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_context: positive("original_max_position_embeddings", trained)?,
            })
        }
        other => {
            let message =
                format!("{key}.rope_type is {other:?}, but only \"default\", \"linear\" and \"llama3\" are supported");
            Err(LoadError::unsupported(path, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demo() -> Value {
        json!({
            "architectures": ["BitNetForCausalLM"], "hidden_size": 256, "intermediate_size": 640,
            "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 4096,
            "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "hidden_act": "relu2", "rope_theta": 500000.0,
            "tie_word_embeddings": true, "eos_token_id": [2, 3],
            "quantization_config": { "quant_method": "bitnet", "linear_class": "autobitlinear" },
        })
    }

    fn parse_with(key: &str, value: Value) -> Result<(Config, WeightForm), LoadError> {
        let mut config = demo();
        config[key] = value;
        parse(Path::new("config.json"), config.to_string().as_bytes())
    }

    fn frequencies(key: &str, value: Value) -> Vec<f32> {
        parse_with(key, value).unwrap().0.rope_frequencies
    }

    #[test]
    fn reads_both_places_of_the_rotary_base() {
        let plain = |theta| rope::frequencies(theta, 64, Scaling::None);
        assert_eq!(frequencies("rope_theta", json!(500000.0)), plain(500000.0));
        let nested = json!({ "rope_theta": 7.0, "rope_type": "default" });
        assert_eq!(frequencies("rope_parameters", nested.clone()), plain(7.0));
        let (config, _) = parse_with("rope_parameters", nested).unwrap();
        assert_eq!(config.eos, [2, 3]);
        assert_eq!((config.head_dim, config.kv_dim()), (64, 128));
    }

    #[test]
    fn reads_both_places_of_the_rotary_scaling() {
        let linear = rope::frequencies(500000.0, 64, Scaling::Linear(4.0));
        assert_eq!(
            frequencies("rope_scaling", json!({ "type": "linear", "factor": 4.0 })),
            linear
        );
        let nested = json!({ "rope_theta": 500000.0, "rope_type": "linear", "factor": 4.0 });
        assert_eq!(frequencies("rope_parameters", nested), linear);
        let llama3 = json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192 });
        let (plain, scaled) = (
            frequencies("rope_theta", json!(500000.0)),
            frequencies("rope_scaling", llama3),
        );
        assert_eq!(scaled[0], plain[0]);
        assert_eq!(scaled[31], plain[31] / 8.0);
        let between = (0..32)
            .filter(|&i| scaled[i] < plain[i] && scaled[i] > plain[i] / 8.0)
            .count();
        assert!(between > 0);
    }

    #[test]
    fn what_convert_writes_reads_back() {
        let (config, _) = parse_with("rope_scaling", json!({ "type": "linear", "factor": 3.0 })).unwrap();
        let text = tiles_json(&config).to_string();
        let read = parse(Path::new("config.json"), text.as_bytes()).unwrap();
        assert_eq!(read, (config.clone(), WeightForm::Tiles));
        let old = text.replace(LAYOUT, "older");
        let error = parse(Path::new("config.json"), old.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("older") && error.contains("convert"), "{error}");
    }

    #[test]
    fn linear_class_and_mode_choose_the_weight_form() {
        let form = |value: Value| parse_with("quantization_config", value).map(|(_, weights)| weights);
        assert_eq!(form(json!({ "quant_method": "bitnet" })).unwrap(), WeightForm::Divide);
        let online =
            json!({ "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online" });
        assert_eq!(form(online).unwrap(), WeightForm::Master);
    }

    #[test]
    fn refusal_names_key_and_value() {
        let check = |key: &str, value: Value, said: &str| {
            let error = parse_with(key, value).unwrap_err().to_string();
            assert!(error.starts_with("config.json: ") && error.contains(said), "{error}");
        };
        check(
            "architectures",
            json!(["GPT2LMHeadModel"]),
            "architectures is [\"GPT2LMHeadModel\"]",
        );
        check("hidden_act", json!("gelu"), "hidden_act is \"gelu\"");
        check(
            "rope_scaling",
            json!({ "rope_type": "yarn", "factor": 4.0 }),
            "rope_scaling.rope_type is \"yarn\"",
        );
        check(
            "rope_scaling",
            json!({ "rope_type": "llama3" }),
            "rope_scaling.low_freq_factor is missing",
        );
        check(
            "rope_scaling",
            json!({ "rope_type": "linear", "factor": 0 }),
            "rope_scaling.factor is 0",
        );
        check("hidden_size", json!(0), "hidden_size is 0");
        check("hidden_size", json!(u64::MAX), "hidden_size is 18446744073709551615");
        check("num_attention_heads", json!(1 << 20), "head_dim is 0");
        check("num_attention_heads", json!(0), "num_attention_heads is 0");
        check("num_key_value_heads", json!(3), "multiple of num_key_value_heads, 3");
        check("head_dim", json!(1 << 19), "at most 1048576");
        check("quantization_config", Value::Null, "quantization_config is missing");
        check("rope_theta", json!(-1.0), "rope_theta is -1");
        check(
            "num_hidden_layers",
            json!(1u64 << 40),
            "num_hidden_layers is 1099511627776",
        );
    }
}
