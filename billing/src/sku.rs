//! What is sold: a token class of a model in a service tier, named `<model>/<tier>/<class>`.

use std::fmt;

use schemas::request::ServiceTier;

/// What is counted. The token classes exclude one another, so no token is billed twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Meter {
    /// Prompt tokens that were computed.
    InputUncached,
    /// Prompt tokens served from the prefix cache.
    InputCached,
    /// Tokens written.
    Output,
    /// Requests answered.
    Requests,
}

impl Meter {
    /// Every meter, in the order of the table's columns.
    pub const ALL: [Meter; 4] = [Meter::InputUncached, Meter::InputCached, Meter::Output, Meter::Requests];

    /// The column of `billing_events` that it sums.
    pub fn column(self) -> &'static str {
        match self {
            Meter::InputUncached => "input_uncached_tokens",
            Meter::InputCached => "input_cached_tokens",
            Meter::Output => "output_tokens",
            Meter::Requests => "requests",
        }
    }

    /// The last part of its SKU's id.
    pub fn class(self) -> &'static str {
        match self {
            Meter::InputUncached => "input",
            Meter::InputCached => "cached_input",
            Meter::Output => "output",
            Meter::Requests => "request",
        }
    }

    /// Whether it counts tokens; these must have a price.
    pub fn is_tokens(self) -> bool {
        self != Meter::Requests
    }
}

/// What one line of an invoice sells.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sku {
    /// Model folder name.
    pub model_id: String,
    /// Speed.
    pub tier: ServiceTier,
    /// What is counted.
    pub meter: Meter,
}

impl fmt::Display for Sku {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.model_id, self.tier.as_str(), self.meter.class())
    }
}

impl std::str::FromStr for Sku {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pattern = SkuPattern::parse(text)?;
        Ok(Sku {
            model_id: pattern.model_id.unwrap_or_else(|| "*".to_owned()),
            tier: pattern.tier,
            meter: pattern.meter,
        })
    }
}

impl serde::Serialize for Sku {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Sku {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Which SKUs a price is for: one, or with `*` that of every model that has no price of its own. Tiers of
/// a graduated price count per SKU, so models never share them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SkuPattern {
    /// Model folder name; none is any.
    pub model_id: Option<String>,
    /// Speed.
    pub tier: ServiceTier,
    /// What is counted.
    pub meter: Meter,
}

impl SkuPattern {
    /// Reads `<model or *>/<tier>/<class>`; says what is wrong otherwise.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.rsplitn(3, '/');
        let (class, tier, model) = (parts.next(), parts.next(), parts.next());
        let (Some(class), Some(tier), Some(model)) = (class, tier, model.filter(|model| !model.is_empty())) else {
            return Err(format!("sku_id must be <model or *>/<tier>/<class>, but is {text:?}"));
        };
        let tier = tier
            .parse::<ServiceTier>()
            .map_err(|error| format!("sku_id {text:?}: {error}"))?;
        let meter = Meter::ALL.into_iter().find(|meter| meter.class() == class);
        let Some(meter) = meter else {
            let known = Meter::ALL.map(Meter::class).join(", ");
            return Err(format!(
                "sku_id {text:?}: class must be one of {known}, but is {class:?}"
            ));
        };
        Ok(SkuPattern {
            model_id: (model != "*").then(|| model.to_owned()),
            tier,
            meter,
        })
    }

    /// The patterns that take `sku`, the closer one first.
    pub fn of(sku: &Sku) -> [SkuPattern; 2] {
        let any = SkuPattern {
            model_id: None,
            tier: sku.tier,
            meter: sku.meter,
        };
        [
            SkuPattern {
                model_id: Some(sku.model_id.clone()),
                ..any.clone()
            },
            any,
        ]
    }
}

impl fmt::Display for SkuPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model = self.model_id.as_deref().unwrap_or("*");
        write!(f, "{model}/{}/{}", self.tier.as_str(), self.meter.class())
    }
}
