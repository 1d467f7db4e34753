//! Names of objects and hosts.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// The domain of every annotation, finalizer and resource group of Weir.
pub const ANNOTATION_DOMAIN: &str = "weir.dev";

/// Namespace and name of an object whose kind is known from the context.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ObjectName {
    /// The namespace; empty for objects that belong to the cluster.
    pub namespace: Arc<str>,
    /// The name within the namespace.
    pub name: Arc<str>,
}

impl ObjectName {
    /// Names an object.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Kind and name of an object, as shown to its owner: `Ingress shop/web`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
pub struct ObjectRef {
    /// The kind as written in a manifest, for example `Ingress`.
    pub kind: &'static str,
    /// Namespace and name.
    pub name: ObjectName,
}

impl ObjectRef {
    /// Refers to an object of this kind.
    pub fn new(kind: &'static str, name: ObjectName) -> Self {
        Self { kind, name }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// How many labels a `*` stands for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
pub enum Labels {
    /// Exactly one, as Ingress says: `*.example.com` matches `a.example.com` only.
    One,
    /// One or more, as Gateway API says: it matches `a.b.example.com` too.
    Many,
}

/// Which host names something is for. Host names are lower-case, without port and without a trailing dot.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
pub enum HostPattern {
    /// This one name.
    Exact(Arc<str>),
    /// Every name with this ending; `suffix` begins with the dot: `.example.com`.
    Wildcard {
        /// The ending including its leading dot.
        suffix: Arc<str>,
        /// How much may stand before it.
        labels: Labels,
    },
    /// Every name, also none.
    Any,
}

impl HostPattern {
    /// Whether `host` (lower-case, no port) is one of the names.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *host,
            Self::Wildcard { suffix, labels } => match host.strip_suffix(&**suffix) {
                Some(head) => !head.is_empty() && (*labels == Labels::Many || !head.contains('.')),
                None => false,
            },
            Self::Any => true,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard { suffix, .. } => write!(f, "*{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcard_needs_at_least_one_label_and_takes_as_many_as_it_says() {
        let one = HostPattern::Wildcard { suffix: ".a.test".into(), labels: Labels::One };
        let many = HostPattern::Wildcard { suffix: ".a.test".into(), labels: Labels::Many };
        assert!(one.matches("x.a.test") && many.matches("x.a.test"));
        assert!(!one.matches("x.y.a.test") && many.matches("x.y.a.test"));
        assert!(!one.matches("a.test") && !many.matches("a.test"));
        assert!(!one.matches(".a.test"));
    }
}
