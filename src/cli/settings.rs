//! Settings for verbs: the real environment joins file and flags here, and nowhere else.

use std::collections::BTreeMap;
use std::path::Path;

use super::exit::CliError;
pub(super) use crate::config::{Flags, Origins, Settings};

/// Reads all settings.
///
/// # Errors
/// All that is wrong with them.
pub(super) fn load(config: Option<&Path>, flags: &Flags) -> Result<(Settings, Origins), CliError> {
    // A variable that is no UTF-8 is none of ours: no setting's name or value can be.
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("WEIR_"))
        .collect();
    crate::config::load(config, &environment, flags).map_err(CliError::Settings)
}
