//! A file or folder of manifests read once, through the same rooms as a running server: for `check` and `explain`.

use std::path::Path;

use super::exit::CliError;
use super::settings::Settings;
use crate::app::translate_options;
use crate::control::provider::check::{Checked, check_path};
use crate::control::translate::{Change, Objects, Translation, Translator};
use crate::proxy::snapshot::{Live, Snapshot, compile};
use crate::telemetry::stats::Registry;

/// What manifests come to.
pub(super) struct Loaded {
    /// As read.
    pub checked: Checked,
    /// As understood.
    pub translation: Translation,
}

/// Reads and translates, as with these settings.
///
/// # Errors
/// When there is nothing at the path, or it cannot be read.
pub(super) fn load(path: &Path, settings: &Settings) -> Result<Loaded, CliError> {
    let checked = check_path(path).map_err(|source| CliError::Manifests { path: path.to_path_buf(), source })?;
    let mut objects = Objects::default();
    for object in &checked.objects {
        objects.apply(Change::Put(object.clone()));
    }
    let translation = Translator::new(translate_options(settings, false)).translate(&objects);
    Ok(Loaded { checked, translation })
}

/// The snapshot that a server would serve; every Service with colors stands at its first or active color.
pub(super) fn snapshot(translation: &Translation) -> Snapshot {
    let mut live = Live::new(Registry::new(1, &[]));
    compile(&translation.model, &mut live, None, 0)
}
