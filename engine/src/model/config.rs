//! `config.json`: which arithmetic a model wants, and the shape of each of its tensors.
//!
//! Everything is checked here once, bounds included, so that later code may multiply sizes without overflow.

use std::path::Path;

use serde::Deserialize;

use crate::model::error::LoadError;

/// No size in a configuration may exceed this; their products then fit 64 bits.
const SIZE_MAX: usize = 1 << 20;
const LAYERS_MAX: usize = 4096;
/// Bytes of `config.json` and its like.
pub(crate) const JSON_BYTES_MAX: u64 = 256 << 20;

/// A checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    pub(crate) architecture: Architecture,
    pub(crate) layers: usize,
    pub(crate) hidden: usize,
    pub(crate) feed_forward: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) vocabulary: usize,
    pub(crate) context_length: usize,
    pub(crate) rms_norm_eps: f32,
    pub(crate) rope_theta: f32,
    /// The LM head is the embedding.
    pub(crate) tied: bool,
    /// Tokens that end a text.
    pub(crate) eos: Vec<u32>,
    pub(crate) weights: WeightForm,
}

/// What surrounds the projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    /// `BitNetForCausalLM`: norms before the output projections too, squared ReLU.
    BitNet,
    /// `LlamaForCausalLM` with ternary projections: no such norms, SiLU.
    Llama,
}

/// How the ternary weights lie in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WeightForm {
    /// Four ternary values a byte, or one a float, with a `weight_scale` that multiplies the product (`autobitlinear`).
    Multiply,
    /// The same with a `weight_scale` that divides it (`bitlinear`).
    Divide,
    /// Full-precision weights, made ternary at load.
    Master,
}

impl Config {
    /// Values across all query heads.
    pub(crate) fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Values across all key heads, and across all value heads.
    pub(crate) fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }
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
    eos_token_id: Option<TokenIds>,
    quantization_config: Option<RawQuantization>,
}

#[derive(Deserialize)]
struct RawRope {
    rope_theta: Option<f64>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
}

#[derive(Deserialize)]
struct RawQuantization {
    quant_method: Option<String>,
    linear_class: Option<String>,
    quantization_mode: Option<String>,
    use_rms_norm: Option<bool>,
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
pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<Config, LoadError> {
    let raw: Raw = serde_json::from_slice(text).map_err(|error| LoadError::invalid(path, error.to_string()))?;
    let architecture = architecture(path, &raw)?;
    let weights = weight_form(path, raw.quantization_config.as_ref())?;
    let rope_theta = rope_theta(path, &raw)?;

    let heads = sized(path, "num_attention_heads", raw.num_attention_heads)?;
    let kv_heads = sized(path, "num_key_value_heads", raw.num_key_value_heads.unwrap_or(heads))?;
    let hidden = sized(path, "hidden_size", raw.hidden_size)?;
    let head_dim = sized(path, "head_dim", raw.head_dim.unwrap_or(hidden / heads))?;
    let config = Config {
        architecture,
        layers: raw.num_hidden_layers,
        hidden,
        feed_forward: sized(path, "intermediate_size", raw.intermediate_size)?,
        heads,
        kv_heads,
        head_dim,
        vocabulary: sized(path, "vocab_size", raw.vocab_size)?,
        context_length: sized(path, "max_position_embeddings", raw.max_position_embeddings)?,
        rms_norm_eps: raw.rms_norm_eps.unwrap_or(1e-6) as f32,
        rope_theta: rope_theta as f32,
        tied: raw.tie_word_embeddings.unwrap_or(false),
        eos: raw.eos_token_id.map(TokenIds::into_vec).unwrap_or_default(),
        weights,
    };
    check_sizes(path, &config)?;
    Ok(config)
}

fn architecture(path: &Path, raw: &Raw) -> Result<Architecture, LoadError> {
    let (architecture, expected_act) = match &raw.architectures[..] {
        [name] if name == "BitNetForCausalLM" => (Architecture::BitNet, "relu2"),
        [name] if name == "LlamaForCausalLM" => (Architecture::Llama, "silu"),
        other => {
            let message = format!(
                "architectures is {other:?}, but only [\"BitNetForCausalLM\"] and [\"LlamaForCausalLM\"] are supported"
            );
            return Err(LoadError::unsupported(path, message));
        }
    };
    if let Some(act) = raw.hidden_act.as_deref().filter(|act| *act != expected_act) {
        let message = format!("hidden_act is {act:?}, but only {expected_act:?} is supported with this architecture");
        return Err(LoadError::unsupported(path, message));
    }
    for (key, bias) in [("attention_bias", raw.attention_bias), ("mlp_bias", raw.mlp_bias)] {
        if bias {
            let message = format!("{key} is true, but projections with a bias are not supported");
            return Err(LoadError::unsupported(path, message));
        }
    }
    Ok(architecture)
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
    for (key, rope) in [
        ("rope_parameters", &raw.rope_parameters),
        ("rope_scaling", &raw.rope_scaling),
    ] {
        let kind = rope
            .as_ref()
            .and_then(|rope| rope.rope_type.as_deref())
            .unwrap_or("default");
        if kind != "default" {
            let message = format!("{key}.rope_type is {kind:?}, but only \"default\" is supported");
            return Err(LoadError::unsupported(path, message));
        }
    }
    let nested = raw.rope_parameters.as_ref().and_then(|rope| rope.rope_theta);
    let theta = nested.or(raw.rope_theta).unwrap_or(10_000.0);
    if !(theta.is_finite() && theta >= 1.0) {
        return Err(LoadError::invalid(
            path,
            format!("rope_theta is {theta}, but must be at least 1"),
        ));
    }
    Ok(theta)
}

fn sized(path: &Path, key: &str, value: usize) -> Result<usize, LoadError> {
    if !(1..=SIZE_MAX).contains(&value) {
        return Err(LoadError::invalid(
            path,
            format!("{key} is {value}, but must be from 1 to {SIZE_MAX}"),
        ));
    }
    Ok(value)
}

fn check_sizes(path: &Path, config: &Config) -> Result<(), LoadError> {
    let Config {
        layers,
        hidden,
        heads,
        kv_heads,
        head_dim,
        rms_norm_eps: eps,
        ..
    } = *config;
    let message = if !(1..=LAYERS_MAX).contains(&layers) {
        format!("num_hidden_layers is {layers}, but must be from 1 to {LAYERS_MAX}")
    } else if heads % kv_heads != 0 {
        format!("num_attention_heads is {heads}, but must be a multiple of num_key_value_heads, {kv_heads}")
    } else if head_dim % 2 != 0 {
        format!("head_dim is {head_dim}, but must be even")
    } else if heads * head_dim > SIZE_MAX {
        format!(
            "num_attention_heads × head_dim is {}, but must be at most {SIZE_MAX}",
            heads * head_dim
        )
    } else if config.architecture == Architecture::BitNet && heads * head_dim != hidden {
        format!(
            "num_attention_heads × head_dim is {}, but attn_sub_norm wants hidden_size, {hidden}",
            heads * head_dim
        )
    } else if !(eps.is_finite() && eps > 0.0) {
        format!("rms_norm_eps is {eps}, but must be positive")
    } else {
        return Ok(());
    };
    Err(LoadError::invalid(path, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn demo() -> Value {
        json!({
            "architectures": ["BitNetForCausalLM"], "hidden_size": 256, "intermediate_size": 640,
            "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 4096,
            "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "hidden_act": "relu2", "rope_theta": 500000.0,
            "tie_word_embeddings": true, "eos_token_id": [2, 3],
            "quantization_config": { "quant_method": "bitnet", "linear_class": "autobitlinear" },
        })
    }

    fn parse_with(key: &str, value: Value) -> Result<Config, LoadError> {
        let mut config = demo();
        config[key] = value;
        parse(Path::new("config.json"), config.to_string().as_bytes())
    }

    #[test]
    fn reads_both_places_of_the_rotary_base() {
        assert_eq!(parse_with("rope_theta", json!(500000.0)).unwrap().rope_theta, 500000.0);
        let nested = parse_with("rope_parameters", json!({ "rope_theta": 7.0, "rope_type": "default" })).unwrap();
        assert_eq!(nested.rope_theta, 7.0);
        assert_eq!(nested.eos, [2, 3]);
        assert_eq!((nested.head_dim, nested.kv_dim()), (64, 128));
    }

    #[test]
    fn linear_class_and_mode_choose_the_weight_form() {
        let form = |value: Value| parse_with("quantization_config", value).map(|config| config.weights);
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
        check("hidden_act", json!("silu"), "hidden_act is \"silu\"");
        check(
            "rope_scaling",
            json!({ "rope_type": "llama3" }),
            "rope_scaling.rope_type is \"llama3\"",
        );
        check("hidden_size", json!(0), "hidden_size is 0");
        check("hidden_size", json!(u64::MAX), "hidden_size is 18446744073709551615");
        check("num_attention_heads", json!(1 << 20), "head_dim is 0");
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
