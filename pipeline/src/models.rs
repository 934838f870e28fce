//! The models at hand, by name: the subfolders of `models.dir`, or the one in the binary.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use engine::{LoadError, LoadOptions, Model};

use crate::settings::ModelsSettings;

/// Name of the model that is part of the binary.
pub const BUNDLED: &str = "debian-sections";

const BUNDLED_FILES: [(&str, &[u8]); 5] = [
    (
        "config.json",
        include_bytes!("../demo/model/debian-sections/config.json"),
    ),
    (
        "model.safetensors",
        include_bytes!("../demo/model/debian-sections/model.safetensors"),
    ),
    (
        "tokenizer.json",
        include_bytes!("../demo/model/debian-sections/tokenizer.json"),
    ),
    (
        "tokenizer_config.json",
        include_bytes!("../demo/model/debian-sections/tokenizer_config.json"),
    ),
    (
        "chat_template.jinja",
        include_bytes!("../demo/model/debian-sections/chat_template.jinja"),
    ),
];

/// Why a model is not at hand.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    /// `models.dir` cannot be listed.
    #[error("cannot list models.dir = {}", dir.display())]
    Dir {
        /// The setting.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No model has that name.
    #[error("there is no model {name:?}; known here: {}", known.join(", "))]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// The model's files are refused.
    #[error("cannot load model {name:?}")]
    Load {
        /// The model.
        name: String,
        /// File, tensor and reason.
        source: LoadError,
    },
    /// The model in the binary cannot be written to a temporary folder.
    #[error("cannot unpack the bundled model to {}", path.display())]
    Unpack {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Every model at hand; each is loaded when first asked for and shared from then on.
pub struct Models {
    /// Folder of each model; none for the bundled one.
    folders: BTreeMap<String, Option<PathBuf>>,
    loaded: Mutex<HashMap<String, Arc<Model>>>,
}

impl Models {
    /// Lists `models.dir` without loading anything.
    pub fn open(settings: &ModelsSettings) -> Result<Models, ModelsError> {
        let folders = match &settings.dir {
            Some(dir) => subfolders(dir).map_err(|source| ModelsError::Dir {
                dir: dir.clone(),
                source,
            })?,
            None => BTreeMap::from([(BUNDLED.to_owned(), None)]),
        };
        Ok(Models {
            folders,
            loaded: Mutex::default(),
        })
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.folders.keys().map(String::as_str)
    }

    /// The model called `name`; blocks while it is loaded for the first time.
    pub fn get(&self, name: &str) -> Result<Arc<Model>, ModelsError> {
        let Some(folder) = self.folders.get(name) else {
            let known = self.folders.keys().cloned().collect();
            return Err(ModelsError::Unknown {
                name: name.to_owned(),
                known,
            });
        };
        // Nothing is half-done under this lock, so what another thread's panic left is whole.
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = loaded.get(name) {
            return Ok(Arc::clone(model));
        }
        let model = match folder {
            Some(folder) => load(name, folder)?,
            None => load_bundled()?,
        };
        loaded.insert(name.to_owned(), Arc::clone(&model));
        Ok(model)
    }
}

/// Loads the folder of one model.
pub fn load(name: &str, folder: &Path) -> Result<Arc<Model>, ModelsError> {
    Model::load(folder, &LoadOptions::default())
        .map(Arc::new)
        .map_err(|source| ModelsError::Load {
            name: name.to_owned(),
            source,
        })
}

fn subfolders(dir: &Path) -> io::Result<BTreeMap<String, Option<PathBuf>>> {
    let mut folders = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if !name.starts_with('.') && entry.path().is_dir() {
            folders.insert(name, Some(entry.path()));
        }
    }
    Ok(folders)
}

/// The engine loads folders, so the bundled files live in one of their own until they are in memory.
fn load_bundled() -> Result<Arc<Model>, ModelsError> {
    let folder = std::env::temp_dir().join(format!("bitnet-{}", ulid::Ulid::generate()));
    let unpacked = unpack(&folder);
    let model = unpacked.and_then(|()| load(BUNDLED, &folder));
    if let Err(error) = fs::remove_dir_all(&folder) {
        tracing::warn!(folder = %folder.display(), %error, "cannot remove the bundled model's temporary folder");
    }
    model
}

fn unpack(folder: &Path) -> Result<(), ModelsError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| ModelsError::Unpack { path, source }
    };
    fs::create_dir(folder).map_err(failed(folder))?;
    for (name, content) in BUNDLED_FILES {
        let path = folder.join(name);
        fs::write(&path, content).map_err(failed(&path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unset_dir_means_the_bundled_model() {
        let models = Models::open(&ModelsSettings { dir: None }).unwrap();
        assert_eq!(models.names().collect::<Vec<_>>(), [BUNDLED]);
        let error = models.get("gpt").err().unwrap().to_string();
        assert!(error.contains("gpt") && error.contains(BUNDLED), "{error}");
    }

    #[test]
    fn bundled_model_is_loaded_once() {
        let models = Models::open(&ModelsSettings { dir: None }).unwrap();
        let first = models.get(BUNDLED).unwrap();
        assert!(Arc::ptr_eq(&first, &models.get(BUNDLED).unwrap()));
        assert_eq!(first.digest().len(), 64);
    }

    #[test]
    fn each_subfolder_is_a_model_and_a_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("b")).unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::create_dir(dir.path().join(".git")).unwrap();
        fs::write(dir.path().join("notes.txt"), "").unwrap();
        let models = Models::open(&ModelsSettings {
            dir: Some(dir.path().to_owned()),
        })
        .unwrap();
        assert_eq!(models.names().collect::<Vec<_>>(), ["a", "b"]);
        assert!(matches!(models.get("a"), Err(ModelsError::Load { .. })));
    }

    #[test]
    fn missing_dir_is_an_error_that_names_it() {
        let settings = ModelsSettings {
            dir: Some("/nonexistent/models".into()),
        };
        let error = Models::open(&settings).err().unwrap().to_string();
        assert!(
            error.contains("/nonexistent/models") && error.contains("models.dir"),
            "{error}"
        );
    }
}
