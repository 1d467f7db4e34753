//! One call to the API server at a time: where an object is, what is said to it, and what a refusal means.

use std::time::Duration;

use http::{Method, Request, header};
use kube::Client;
use serde_json::Value;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Under this name the API server notes which fields are Weir's.
pub const MANAGER: &str = "weir";

/// A kind that Weir writes to.
#[derive(PartialEq, Eq, Debug)]
pub struct Kind {
    /// As in manifests.
    pub name: &'static str,
    /// Empty for the oldest kinds.
    pub group: &'static str,
    /// Of the group.
    pub version: &'static str,
    /// As in URLs.
    pub plural: &'static str,
    /// Whether its objects have namespaces.
    pub namespaced: bool,
}

const GATEWAY: &str = "gateway.networking.k8s.io";

const fn kind(name: &'static str, group: &'static str, plural: &'static str) -> Kind {
    Kind { name, group, version: "v1", plural, namespaced: true }
}

/// Kinds with a status of which something is Weir's, in the order in which they are written.
pub static STATUS_KINDS: [Kind; 10] = [
    Kind { namespaced: false, ..kind("GatewayClass", GATEWAY, "gatewayclasses") },
    kind("Gateway", GATEWAY, "gateways"),
    kind("ListenerSet", GATEWAY, "listenersets"),
    kind("HTTPRoute", GATEWAY, "httproutes"),
    kind("GRPCRoute", GATEWAY, "grpcroutes"),
    kind("TLSRoute", GATEWAY, "tlsroutes"),
    kind("TCPRoute", GATEWAY, "tcproutes"),
    kind("UDPRoute", GATEWAY, "udproutes"),
    kind("BackendTLSPolicy", GATEWAY, "backendtlspolicies"),
    kind("Ingress", "networking.k8s.io", "ingresses"),
];
/// Service.
pub static SERVICE: Kind = kind("Service", "", "services");
/// EndpointSlice.
pub static SLICE: Kind = kind("EndpointSlice", "discovery.k8s.io", "endpointslices");
/// Event, of the newer group.
pub static EVENT: Kind = kind("Event", "events.k8s.io", "events");
/// Other kinds that owners may be told about.
static OTHERS: [Kind; 5] = [
    kind("Secret", "", "secrets"),
    kind("ConfigMap", "", "configmaps"),
    kind("Service", "", "services"),
    Kind { namespaced: false, ..kind("IngressClass", "networking.k8s.io", "ingressclasses") },
    Kind { version: "v1beta1", ..kind("ReferenceGrant", GATEWAY, "referencegrants") },
];
/// CustomResourceDefinition.
pub static DEFINITION: Kind =
    Kind { namespaced: false, ..kind("CustomResourceDefinition", "apiextensions.k8s.io", "customresourcedefinitions") };

impl Kind {
    /// A kind by its name in manifests.
    pub fn named(name: &str) -> Option<&'static Self> {
        STATUS_KINDS.iter().chain(&OTHERS).find(|kind| kind.name == name)
    }

    /// `v1` or `networking.k8s.io/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The path of all objects (of a namespace, or of all for an empty one).
    pub fn list(&self, namespace: &str) -> String {
        let prefix = if self.group.is_empty() { "/api" } else { "/apis" };
        let version = self.api_version();
        match namespace {
            "" => format!("{prefix}/{version}/{}", self.plural),
            namespace => format!("{prefix}/{version}/namespaces/{namespace}/{}", self.plural),
        }
    }

    /// The path of one object.
    pub fn path(&self, namespace: &str, name: &str) -> String {
        let namespace = if self.namespaced { namespace } else { "" };
        format!("{}/{name}", self.list(namespace))
    }

    /// Whether only those with the labels that Weir is to look at are watched: what asks to be served. What it refers to, and
    /// what speaks of something else, needs no labels.
    pub fn is_selected(&self) -> bool {
        matches!(
            self.name,
            "Ingress" | "Gateway" | "ListenerSet" | "HTTPRoute" | "GRPCRoute" | "TLSRoute" | "TCPRoute" | "UDPRoute"
        )
    }

    /// The RBAC rule that allows it, for messages.
    pub fn rule(&self, part: &str, verb: &str) -> String {
        let Self { group, plural, .. } = self;
        format!("{{apiGroups: [\"{group}\"], resources: [{plural}{part}], verbs: [{verb}]}}")
    }
}

/// Why a call did not do what it should.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// There is no such object, or no such kind.
    Absent,
    /// Somebody was faster (409).
    Conflict,
    /// RBAC (403).
    Forbidden(String),
    /// The API server understood it and does not want it; it will not do so later.
    Invalid(String),
    /// The API server cannot be reached, does not answer in time, is too busy, or does not take the token (401).
    Away(String),
}

impl Refusal {
    /// Value of the metric label.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Conflict => "conflict",
            Self::Forbidden(_) => "forbidden",
            Self::Invalid(_) => "invalid",
            Self::Away(_) => "away",
        }
    }

    /// What the API server, or the network, says.
    pub fn text(&self) -> &str {
        match self {
            Self::Absent => "there is no such object",
            Self::Conflict => "it was changed at the same time",
            Self::Forbidden(text) | Self::Invalid(text) | Self::Away(text) => text,
        }
    }
}

impl From<kube::Error> for Refusal {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => match status.code {
                404 => Self::Absent,
                409 => Self::Conflict,
                // A token is followed by a better one, as a server that is away comes back.
                401 => Self::Away("the API server does not know who this is (401)".to_owned()),
                403 => Self::Forbidden(status.message.clone()),
                408 | 429 | 500.. => Self::Away(format!("{} ({})", status.message, status.code)),
                code => Self::Invalid(format!("{} ({code})", status.message)),
            },
            error => Self::Away(super::watch::innermost(&error)),
        }
    }
}

/// A call that failed.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub refusal: Refusal,
    /// Whether the answer may have been too much for the time there is, or for its connection.
    pub is_late: bool,
}

/// The API server, for calls that are no watches.
#[derive(Clone)]
pub struct Remote {
    client: Client,
}

impl Remote {
    /// By a client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    async fn call(&self, request: http::request::Builder, body: Vec<u8>) -> Result<Value, Refusal> {
        self.try_call(request, body).await.map_err(|failed| failed.refusal)
    }

    async fn try_call(&self, request: http::request::Builder, body: Vec<u8>) -> Result<Value, Failed> {
        let failed = |refusal, is_late| Failed { refusal, is_late };
        let request = request.body(body).map_err(|error| failed(Refusal::Invalid(error.to_string()), false))?;
        match tokio::time::timeout(PATIENCE, self.client.request::<Value>(request)).await {
            Ok(answer) => answer.map_err(|error| {
                let is_late = super::watch::is_broken(&error);
                failed(error.into(), is_late)
            }),
            Err(_) => Err(failed(Refusal::Away("the API server does not answer in time".to_owned()), true)),
        }
    }

    /// Reads a page of a listing.
    pub async fn page(&self, path: &str) -> Result<Value, Failed> {
        self.try_call(Request::builder().method(Method::GET).uri(path), Vec::new()).await
    }

    /// Reads what is at a path.
    pub async fn read(&self, path: &str) -> Result<Value, Refusal> {
        self.call(Request::builder().method(Method::GET).uri(path), Vec::new()).await
    }

    async fn send(&self, method: Method, path: String, kind: &str, body: &Value) -> Result<Value, Refusal> {
        let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, kind);
        self.call(request, body.to_string().into_bytes()).await
    }

    /// Server-side apply: what is said becomes so, what was said before and is not any more goes, and what others say
    /// stays. A `resourceVersion` in the body is a precondition.
    pub async fn apply(&self, path: &str, body: &Value) -> Result<Value, Refusal> {
        let path = format!("{path}?fieldManager={MANAGER}&force=true");
        self.send(Method::PATCH, path, "application/apply-patch+yaml", body).await
    }

    /// A JSON merge patch (RFC 7396), in the name of `manager`.
    pub async fn merge(&self, path: &str, manager: &str, body: &Value) -> Result<Value, Refusal> {
        let path = format!("{path}?fieldManager={manager}");
        self.send(Method::PATCH, path, "application/merge-patch+json", body).await
    }

    /// Makes an object.
    pub async fn create(&self, path: &str, body: &Value) -> Result<Value, Refusal> {
        self.send(Method::POST, format!("{path}?fieldManager={MANAGER}"), "application/json", body).await
    }

    /// Removes an object, if it is still this one.
    pub async fn delete(&self, path: &str, uid: &str) -> Result<Value, Refusal> {
        let body = serde_json::json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}});
        self.send(Method::DELETE, path.to_owned(), "application/json", &body).await
    }
}
