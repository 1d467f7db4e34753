//! What the owner of an object is told.

use std::fmt;

use serde::Serialize;

use super::ObjectRef;

/// How much of the object is affected.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is wrong; the owner may want to know.
    Note,
    /// It works, but a part of it has no effect.
    Warning,
    /// The object, or the named part of it, is not served.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One finding about one object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct Verdict {
    /// Whose.
    pub object: ObjectRef,
    /// How bad.
    pub severity: Severity,
    /// A CamelCase reason, from a bounded set: `BackendNotFound`, `RefNotPermitted`, `UnknownAnnotation`, ….
    pub reason: &'static str,
    /// Path of the field as in `kubectl explain`: `spec.rules[0].http.paths[1].path`; empty for the whole object.
    pub field: String,
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    pub fix: String,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity, self.object)?;
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {} ({})", self.problem, self.reason)?;
        if !self.fix.is_empty() {
            write!(f, "; {}", self.fix)?;
        }
        Ok(())
    }
}
