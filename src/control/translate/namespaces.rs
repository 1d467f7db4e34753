//! From which namespaces something may attach (`allowedRoutes.namespaces`, `allowedListeners.namespaces`).

use std::collections::BTreeMap;

use gateway_api::apis::standard::gateways::{
    GatewayListenersAllowedRoutesNamespaces, GatewayListenersAllowedRoutesNamespacesFrom,
    GatewayListenersAllowedRoutesNamespacesSelector,
};

use super::reading::Reading;

/// The label that every namespace has, also one of which no object is known.
const NAME: &str = "kubernetes.io/metadata.name";

/// From where something may attach.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Namespaces {
    Nowhere,
    Same,
    All,
    /// All of these hold.
    Selector(Vec<Requirement>),
}

/// A requirement on a label of a namespace.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    DoesNotExist(String),
    Never,
}

impl Namespaces {
    /// Whether the object that is read may attach to something of namespace `own`.
    pub fn allow(&self, reading: &mut Reading<'_>, own: &str) -> bool {
        let namespace = reading.namespace();
        match self {
            Self::Nowhere => false,
            Self::Same => *namespace == *own,
            Self::All => true,
            Self::Selector(requirements) => {
                let labels = reading.namespace_labels(&namespace);
                requirements.iter().all(|requirement| requirement.holds(&namespace, labels))
            }
        }
    }
}

impl Requirement {
    fn holds(&self, namespace: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
        let value = |key: &str| match key {
            NAME => Some(namespace),
            _ => labels.and_then(|labels| labels.get(key)).map(String::as_str),
        };
        match self {
            Self::In(key, values) => value(key).is_some_and(|value| values.iter().any(|it| it == value)),
            Self::NotIn(key, values) => value(key).is_none_or(|value| values.iter().all(|it| it != value)),
            Self::Exists(key) => value(key).is_some(),
            Self::DoesNotExist(key) => value(key).is_none(),
            Self::Never => false,
        }
    }
}

/// What `allowedRoutes.namespaces` says.
pub(super) fn of_routes(
    reading: &mut Reading<'_>,
    written: Option<&GatewayListenersAllowedRoutesNamespaces>,
    field: &str,
) -> Namespaces {
    use GatewayListenersAllowedRoutesNamespacesFrom as From;
    match written.and_then(|namespaces| namespaces.from.as_ref()) {
        None | Some(From::Same) => Namespaces::Same,
        Some(From::All) => Namespaces::All,
        Some(From::Selector) => selector(reading, written.and_then(|namespaces| namespaces.selector.as_ref()), field),
    }
}

/// What a selector says; `field` is what it is in.
pub(super) fn selector(
    reading: &mut Reading<'_>,
    written: Option<&GatewayListenersAllowedRoutesNamespacesSelector>,
    field: &str,
) -> Namespaces {
    let Some(selector) = written else {
        let problem = "from: Selector needs a selector; nothing can attach";
        reading.error("InvalidSelector", field, problem, "add selector.matchLabels");
        return Namespaces::Selector(vec![Requirement::Never]);
    };
    let mut all = Vec::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        all.push(Requirement::In(key.clone(), vec![value.clone()]));
    }
    for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let (key, values) = (expression.key.clone(), expression.values.clone().unwrap_or_default());
        all.push(match expression.operator.as_str() {
            "In" => Requirement::In(key, values),
            "NotIn" => Requirement::NotIn(key, values),
            "Exists" => Requirement::Exists(key),
            "DoesNotExist" => Requirement::DoesNotExist(key),
            operator => {
                let problem = format!("`{operator}` is not an operator; nothing can attach");
                let field = format!("{field}.selector.matchExpressions[{index}].operator");
                reading.error("InvalidSelector", field, problem, "write In, NotIn, Exists or DoesNotExist");
                Requirement::Never
            }
        });
    }
    Namespaces::Selector(all)
}
