//! Gateways: whose they are, and what they say beside their listeners.

use gateway_api::apis::standard::gateways::{
    Gateway, GatewayAllowedListenersNamespacesFrom, GatewayListenersAllowedRoutesNamespacesSelector,
};

use super::addresses::Assigned;
use super::frontend::{self, Frontend};
use super::listener::{self, Because, Listener};
use super::namespaces::{self, Namespaces};
use super::reading::Reading;
use super::secret::Certificates;
use super::{Options, annotations};
use crate::model::{Infrastructure, ObjectName};

/// What routes see of a Gateway or ListenerSet of ours.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct View {
    /// The Gateway: itself, or that of the ListenerSet.
    pub gateway: ObjectName,
    /// Its listeners, also those that are not served. None for a ListenerSet that its Gateway does not allow.
    pub listeners: Vec<Listener>,
    /// The Secret with the certificate that the Gateway shows to backends.
    pub identity: Option<ObjectName>,
}

/// What a Gateway says beside its listeners.
pub(super) struct Whole {
    /// Why nothing of it is served.
    pub refused: Option<Because>,
    /// A reference that leads nowhere.
    pub unresolved: Option<Because>,
    pub identity: Option<ObjectName>,
    pub frontend: Frontend,
    /// From where ListenerSets may attach.
    pub allowed_sets: Namespaces,
    pub infrastructure: Infrastructure,
}

/// Whether a Gateway is ours.
pub(super) fn is_ours(reading: &mut Reading<'_>, options: &Options, gateway: &Gateway) -> bool {
    let class = gateway.spec.gateway_class_name.as_str();
    match reading.objects.gateway_classes.get(&ObjectName::new("", class)) {
        Some(object) => {
            let ours = object.spec.controller_name == options.gateway_controller;
            if ours && object.spec.parameters_ref.is_some() {
                let problem = format!("spec.parametersRef of GatewayClass {class} has no effect");
                reading.warning("InvalidParameters", "spec.gatewayClassName", problem, "remove it");
            }
            ours
        }
        None if class == options.ingress_class => {
            let problem = format!("there is no GatewayClass `{class}`; the Gateway is served all the same");
            let fix = format!("add a GatewayClass with controllerName {}", options.gateway_controller);
            reading.note("GatewayClassNotFound", "spec.gatewayClassName", problem, &fix);
            true
        }
        None => {
            let problem = format!("there is no GatewayClass `{class}`; the Gateway is not served");
            let fix = format!("write `{}`, or add the GatewayClass", options.ingress_class);
            reading.warning("GatewayClassNotFound", "spec.gatewayClassName", problem, &fix);
            false
        }
    }
}

/// Reads a Gateway of ours, but for its listeners.
pub(super) fn whole(
    reading: &mut Reading<'_>,
    certificates: &mut Certificates,
    gateway: &Gateway,
    assigned: &Assigned,
) -> Whole {
    annotations::misplaced(reading, gateway.metadata.annotations.as_ref());
    let spec = &gateway.spec;
    let frontend = spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref());
    let mut whole = Whole {
        refused: None,
        unresolved: None,
        identity: None,
        frontend: frontend::frontend(reading, frontend),
        allowed_sets: allowed_sets(reading, gateway),
        infrastructure: infrastructure(gateway),
    };
    if spec.infrastructure.as_ref().is_some_and(|infrastructure| infrastructure.parameters_ref.is_some()) {
        let problem = "Weir has no parameters for a Gateway; the Gateway is not served";
        reading.error("InvalidParameters", "spec.infrastructure.parametersRef", problem, "remove it");
        whole.refused = Some(("InvalidParameters", problem.to_owned()));
    }
    if let Some((field, problem)) = &assigned.unsupported {
        let problem = format!("{problem}; the Gateway is not served");
        reading.error("UnsupportedAddress", field.clone(), &*problem, "write an address of type IPAddress");
        whole.refused.get_or_insert(("UnsupportedAddress", problem));
    }
    if let Some((reason, problem)) = &assigned.lacking {
        let fix = "name free addresses of gateways.addresses, or make that list longer";
        reading.error(reason, "spec.addresses", &**problem, fix);
    }
    if spec.listeners.is_empty() {
        reading.error("NoListeners", "spec.listeners", "there is no listener", "add one with name, port and protocol");
    }
    let reference = spec.tls.as_ref().and_then(|tls| tls.backend.as_ref()?.client_certificate_ref.as_ref());
    if let Some(reference) = reference {
        let found = listener::certificate(
            reading,
            certificates,
            (reference.group.as_deref(), reference.kind.as_deref()),
            reference.namespace.as_deref(),
            &reference.name,
            "spec.tls.backend.clientCertificateRef",
        );
        match found {
            Ok((name, ..)) => whole.identity = Some(name),
            Err(("InvalidCertificateRef", problem)) => {
                whole.unresolved = Some(("InvalidClientCertificateRef", problem));
            }
            Err(because) => whole.unresolved = Some(because),
        }
    }
    whole
}

fn infrastructure(gateway: &Gateway) -> Infrastructure {
    let Some(written) = &gateway.spec.infrastructure else { return Infrastructure::default() };
    let pairs = |map: &Option<std::collections::BTreeMap<String, String>>| {
        map.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    Infrastructure { labels: pairs(&written.labels), annotations: pairs(&written.annotations) }
}

fn allowed_sets(reading: &mut Reading<'_>, gateway: &Gateway) -> Namespaces {
    use GatewayAllowedListenersNamespacesFrom as From;
    let written = gateway.spec.allowed_listeners.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
    match written.and_then(|namespaces| namespaces.from.as_ref()) {
        None | Some(From::None) => Namespaces::Nowhere,
        Some(From::Same) => Namespaces::Same,
        Some(From::All) => Namespaces::All,
        Some(From::Selector) => {
            // The generated types of both selectors are twins; they meet in their JSON.
            let selector = written.and_then(|namespaces| namespaces.selector.as_ref());
            let selector = selector.and_then(|it| serde_json::to_value(it).ok());
            let selector: Option<GatewayListenersAllowedRoutesNamespacesSelector> =
                selector.and_then(|it| serde_json::from_value(it).ok());
            namespaces::selector(reading, selector.as_ref(), "spec.allowedListeners.namespaces")
        }
    }
}
