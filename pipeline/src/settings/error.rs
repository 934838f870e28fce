//! Why settings are refused: where, which key, which value, and what to do.

use std::path::PathBuf;

use config::ConfigError;

/// Settings that cannot be used; the program stops with exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file of `--config` cannot be read.
    #[error("cannot read settings file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A `BITNET__` variable that is no setting.
    #[error("environment variable {name} {problem}")]
    Variable {
        /// The variable.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A key is unknown, or its value has the wrong type.
    #[error("settings from {place}: {problem}")]
    Refused {
        /// The layer that brought it.
        place: String,
        /// Key, value and what was expected.
        problem: String,
    },
    /// A value has the right type but cannot work.
    #[error("setting {key} = {value:?} {problem}")]
    Value {
        /// The key, dotted.
        key: &'static str,
        /// The value in force.
        value: String,
        /// What is wrong with it.
        problem: String,
        /// What to write instead.
        remedy: String,
    },
}

impl SettingsError {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            SettingsError::Read { .. } => "give --config a readable TOML file".to_owned(),
            SettingsError::Variable { .. } => {
                "write BITNET__SECTION__KEY, e.g. BITNET__KAFKA__GROUP_ID, with a UTF-8 value".to_owned()
            }
            SettingsError::Refused { .. } => {
                "`bitnet config show` without that layer lists every key with its default".to_owned()
            }
            SettingsError::Value { remedy, .. } => remedy.clone(),
        }
    }

    pub(super) fn refused(place: &str, source: &ConfigError) -> Self {
        SettingsError::Refused {
            place: place.to_owned(),
            problem: source.to_string().trim_end().to_owned(),
        }
    }
}
